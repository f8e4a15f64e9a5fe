"""Commands that tell a running search what to do, from any machine."""

from __future__ import annotations

from contextlib import suppress

import click

from search.options import mistakes, mongo_option, number_argument, opened, study_argument
from trials.errors import UNREADABLE
from trials.study import StudyState


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


@click.command()
@study_argument
@click.argument("number", type=click.IntRange(min=0), required=False)
@mongo_option
def cancel(study: str, number: int | None, mongo: str | None) -> None:
    """End a study, or one of its trials, at once and without checkpoints."""
    if number is None:
        _change(study, mongo, StudyState.CANCELLED, "cancelled")
        return
    with opened(mongo) as store:
        trial = store.cancel_trial(study, number)
    click.echo(f"Trial {number} of {study}: {trial.state}, cancellation asked for.")


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
@click.option("--yes", is_flag=True, help="Do not ask.")
@mongo_option
def delete(study: str, yes: bool, mongo: str | None) -> None:
    """Remove a study with its trials, weights and logs, for good."""
    with opened(mongo) as store:
        trials = 0
        with suppress(*UNREADABLE):  # without trials it is read; deleted it can be all the same
            trials = sum(store.counts(study).values())
        asked = f"Delete study {study} and its {trials} trials?"
        if not (yes or click.confirm(asked)):
            raise click.ClickException(f"study {study} is left as it is")
        store.delete_study(study)
    click.echo(f"Study {study} is deleted.")


COMMANDS = (pause, resume, stop, cancel, retry, delete)
