"""Commands that only look: status, studies, trials, show, logs, best.

The trials of an exported file are looked at as those of the database.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search.options import (
    json_option,
    looking_at,
    mistakes,
    mongo_option,
    number_argument,
    opened,
    study_argument,
    study_or_file_argument,
)
from search.text import visible
from trials.trial import TrialState

if TYPE_CHECKING:
    from search.snapshot import Snapshot
    from trials.store import TrialStore
    from trials.study import Study
    from trials.trial import Trial


@click.command()
@click.argument("study", required=False)
@click.option(
    "--watch",
    is_flag=True,
    help="Keep the view up to date until the study is over; keys pause, stop and cancel it, and "
    "turn to other studies. With --json: a line of JSON every few seconds.",
)
@mongo_option
@json_option
def status(study: str | None, watch: bool, mongo: str | None, as_json: bool) -> None:
    """How a study is doing (by default the latest): trials by state, best so far, workers."""
    from search.snapshot import take_snapshot
    from search.tables import print_rich

    with opened(mongo) as store:
        name = study or _latest(store.list_studies())
        if watch and as_json:
            _stream(store, name)
        elif watch:
            _watch(store, name)
        elif as_json:
            print_json(_status_row(store, take_snapshot(store, name)))
        else:
            print_rich(take_snapshot(store, name).renderable())


@click.command()
@mongo_option
@json_option
def studies(mongo: str | None, as_json: bool) -> None:
    """List the studies, oldest first."""
    from search import screens
    from search.overview import read_studies

    with opened(mongo) as store:
        rows = read_studies(store)
    if as_json:
        print_json([screens.study_row(study, counts) for study, counts in rows])
    else:
        screens.print_studies(rows)


@click.command()
@study_or_file_argument
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(state) for state in TrialState], case_sensitive=False),
    help="Only these states; may be repeated.",
)
@mongo_option
@json_option
def trials(study: str, states: tuple[str, ...], mongo: str | None, as_json: bool) -> None:
    """List a study's trials by number."""
    from search import results, screens

    wanted = [TrialState(state) for state in states] or None
    with looking_at(study, mongo) as (store, name):
        found = store.get_study(name)
        listed = store.list_trials(name, states=wanted, with_reports=False)
    if as_json:
        print_json(results.to_json_rows(listed))
    else:
        screens.print_trials(found, listed)


@click.command()
@study_or_file_argument
@number_argument
@mongo_option
@json_option
def show(study: str, number: int, mongo: str | None, as_json: bool) -> None:
    """Show one trial: settings, reports, failures, and the command that repeats it."""
    from search import results, screens
    from search.repeat import repeat_command

    with looking_at(study, mongo) as (store, name):
        found = store.get_study(name)
        trial = store.get_trial(name, number)
    repeat = repeat_command(found, trial)
    if as_json:
        print_json({**results.to_json_row(trial, with_reports=True), "repeat": repeat})
    else:
        screens.print_trial(found, trial)
        if repeat is not None:
            # Not through a table: it is to be copied as one line.
            click.echo(f"\nRepeat it:\n{repeat}")


@click.command()
@study_argument
@number_argument
@mongo_option
def logs(study: str, number: int, mongo: str | None) -> None:
    """Print what a trial's latest attempt wrote to its output; a terminal sees no control codes."""
    from trials.store import LOG

    with opened(mongo) as store:
        trial = store.get_trial(study, number)
        log = store.load_blob(study, number, LOG)
    if log is None:
        raise click.ClickException(
            f"trial {number} of {study} ({trial.state}) has kept no output: it is kept when an "
            "attempt ends, if there is any"
        )
    text = log.decode("utf-8", "replace")
    if sys.stdout.isatty():
        text = visible(text.replace("\r\n", "\n").replace("\r", "\n"))
    click.echo(text, nl=False)


@click.command()
@study_or_file_argument
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=5, show_default=True, help="How many."
)
@click.option(
    "--save",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write the best trial's model there, for `predict`.",
)
@mongo_option
@json_option
def best(
    study: str, count: int, folder: Path | None, mongo: str | None, as_json: bool
) -> None:  # fmt: skip
    """Show a study's best trials in real values."""
    from search import results, screens
    from search.purpose import purpose_of
    from search.ranking import ranked

    with looking_at(study, mongo) as (store, name):
        found = store.get_study(name)
        if purpose_of(found).is_final:
            raise click.ClickException(
                f"study {name} is a final and chooses nothing; its result: "
                f"larnn-search summary {study}"
            )
        first = ranked(found, store.list_trials(name, with_reports=False))[:count]
        if not first:
            raise click.ClickException(
                f"study {name} has no settings yet of which every training is COMPLETE; see "
                f"larnn-search trials {study}"
            )
        if folder is not None:
            _save_model(store, found, first[0].trial, folder, study)
    if as_json:
        rows = zip(results.to_json_rows(one.trial for one in first), first, strict=True)
        print_json([{**row, "seeds": one.seeds, "mean_loss": one.loss} for row, one in rows])
    else:
        screens.print_best(found, first)


def _save_model(store: TrialStore, study: Study, trial: Trial, folder: Path, given: str) -> None:
    """Write what a trial kept, with all that is known of how good it is.

    ``given`` is the study as the user named it.
    """
    from model import saved
    from search.results import to_plain
    from trials.store import WEIGHTS

    weights = store.load_blob(study.name, trial.number, WEIGHTS)
    if weights is None:
        raise click.ClickException(
            f"trial {trial.number} of {study.name} has kept no weights; train it again: "
            f"larnn-search train --from {given} {trial.number} -o {folder}"
        )
    metrics = {"study": study.name, "trial": trial.number, **trial.result}
    with mistakes():
        saved.save(folder, weights, to_plain({**metrics, "test": study.look_at(trial.number)}))
    click.echo(f"Saved trial {trial.number} in {folder}", err=True)


COMMANDS = (status, studies, trials, show, logs, best)


def print_json(value: Any) -> None:
    """Print one JSON document; NaN has been made null by then, so a stray one is a bug."""
    click.echo(json.dumps(value, allow_nan=False, indent=2))


def _watch(store: TrialStore, study: str) -> None:
    """Show a study until it is over, or somebody leaves; keys steer it on a terminal."""
    from search.keys import Keys, Steering
    from search.live import REFRESH_SECONDS, LiveView
    from search.overview import studies_table

    steering = Steering(store, study)
    with Keys() as keys, LiveView(store, study) as view:
        while True:
            note, above = "", None
            if keys.are_read:
                note, above = steering.note, studies_table(store, steering.study)
            snapshot = view.refresh(note, above=above)
            if snapshot.is_over and not steering.has_switched:
                return
            before = steering.study
            if not steering.press(keys.wait(REFRESH_SECONDS)):
                return
            if steering.study != before:
                view.follow(steering.study)


def _stream(store: TrialStore, study: str) -> None:
    """Print a line of JSON every few seconds until the study is over; the last says so."""
    from search.plain_lines import LINES_EVERY_SECONDS
    from search.snapshot import StudyFollower

    follower = StudyFollower(store, study)
    while True:
        snapshot = follower.snapshot()
        click.echo(json.dumps(_status_row(store, snapshot), allow_nan=False))
        if snapshot.is_over:
            return
        time.sleep(LINES_EVERY_SECONDS)


def _status_row(store: TrialStore, snapshot: Snapshot) -> dict[str, Any]:
    """A study in full, and all studies with their trials by state."""
    from search.overview import read_studies
    from search.screens import study_row

    rows = [study_row(study, counts) for study, counts in read_studies(store)]
    return {**snapshot.to_json(), "studies": rows}


def _latest(studies: list[Any]) -> str:
    if not studies:
        raise click.UsageError("there is no study yet; start one: larnn-search run --study NAME")
    return str(studies[-1].name)
