"""Commands that tell a running search what to do, from any machine."""

from __future__ import annotations

import sys
from contextlib import suppress

import click

from search.options import mistakes, mongo_option, number_argument, opened, study_argument
from trials.errors import UNREADABLE
from trials.study import StudyState
from trials.trial import TrialState


def _change(study: str, mongo: str | None, state: StudyState, done: str) -> None:
    with opened(mongo) as store:
        store.set_study_state(study, state, f"larnn-search: {done}")
    click.echo(f"Study {study}: {done}.")


@click.command()
@study_argument
@mongo_option
def pause(study: str, mongo: str | None) -> None:
    """Start no trial; running ones save a checkpoint and go back to the queue."""
    _change(study, mongo, StudyState.PAUSED, "paused")


@click.command()
@study_argument
@mongo_option
def resume(study: str, mongo: str | None) -> None:
    """Go on with a study that was paused or stopped."""
    from search.steering import resume as go_on

    with opened(mongo) as store:
        go_on(store, study, "larnn-search: resumed")
    click.echo(f"Study {study}: resumed.")


@click.command()
@study_argument
@mongo_option
def stop(study: str, mongo: str | None) -> None:
    """Start no further trial; running ones finish, then the study is complete."""
    _change(study, mongo, StudyState.STOPPING, "stopping after the running trials")


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command()
@study_argument
@click.argument("number", type=click.IntRange(min=0), required=False)
@yes_option
@mongo_option
def cancel(study: str, number: int | None, yes: bool, mongo: str | None) -> None:
    """End a study for good, or one of its trials, at once and without checkpoints.

    A study that was told to `stop` can be resumed, a cancelled one cannot. On a terminal it asks.
    """
    if number is None:
        if not yes and sys.stdin.isatty():
            _confirm(study, f"Cancel all of study {study}, for good?")
        _change(study, mongo, StudyState.CANCELLED, "cancelled")
        return
    with opened(mongo) as store:
        trial = store.cancel_trial(study, number)
    asked = ", cancellation asked for" if trial.state is TrialState.RUNNING else ""
    click.echo(f"Trial {number} of {study}: {trial.state}{asked}.")


@click.command()
@study_argument
@number_argument
@mongo_option
def retry(study: str, number: int, mongo: str | None) -> None:
    """Put a FAILED or CANCELLED trial back into the queue; a complete study goes on with it."""
    from search.steering import retry as put_back

    with opened(mongo) as store, mistakes():
        put_back(store, study, number)
    click.echo(f"Trial {number} of {study} is WAITING again.")


@click.command()
@study_argument
@yes_option
@mongo_option
def delete(study: str, yes: bool, mongo: str | None) -> None:
    """Remove a study with its trials, weights and logs, for good."""
    with opened(mongo) as store:
        trials = 0
        with suppress(*UNREADABLE):  # without trials it is read; deleted it can be all the same
            trials = sum(store.counts(study).values())
        if not yes:
            _confirm(study, f"Delete study {study} and its {trials} trials?")
        store.delete_study(study)
    click.echo(f"Study {study} is deleted.")


COMMANDS = (pause, resume, stop, cancel, retry, delete)


def _confirm(study: str, question: str) -> None:
    """Go on only if the user says yes.

    Raises:
        click.UsageError: If there is nobody to ask.
        click.ClickException: If he says no.
    """
    try:
        agreed = click.confirm(question)
    except click.Abort:
        if sys.stdin.isatty():
            raise  # Ctrl-C
        raise click.UsageError("nobody is there to be asked: confirm with --yes") from None
    if not agreed:
        raise click.ClickException(f"study {study} is left as it is")
