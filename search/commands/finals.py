"""Commands that follow a search: rank, ablate, final, summary, looks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search.commands.searching import output_option, workers_option
from search.following import carry_out, make_folder
from search.options import (
    backend_option,
    device_option,
    json_option,
    mistakes,
    mongo_option,
    opened,
    option,
    read_data,
    study_or_file_argument,
    together,
)

if TYPE_CHECKING:
    from search.source import StudyData
    from trials.store import TrialStore
    from trials.study import StudySpec
    from trials.trial import Trial

SEEDS_OF_TEST, SEEDS_OF_FOLD = 5, 3
trial_option = click.option(
    "--trial", type=click.IntRange(min=0), help="Another trial than the best."
)
name_option = click.option(
    "--name", help="Name of the new study; none: that of the search, and what is done."
)
carrying_options = together(
    workers_option, device_option, backend_option, output_option, mongo_option, json_option
)


@click.command()
@study_or_file_argument
@option("--best", type=click.IntRange(min=2), default=5, help="How many settings.")
@option("--seeds", type=click.IntRange(min=2), default=3, help="Trainings of each.")
@name_option
@carrying_options
def rank(
    study: str, best: int, seeds: int, name: str | None, mongo: str | None, as_json: bool,
    **where: Any,
) -> None:  # fmt: skip
    """Train a search's best settings again with other seeds, on the same people.

    The best of many trials is partly the luckiest. The trainings are trials of a new study,
    STUDY-rank; `final STUDY-rank` judges the settings of the best mean.
    """
    from search.again import ranking_spec
    from search.final import RANK

    if name is not None and not name.endswith(RANK):
        raise click.UsageError(
            f"a ranking's name ends in {RANK}, by which its finals know the search, got {name!r}"
        )
    with opened(mongo) as store:
        with mistakes():
            data = _search(store, study)
            spec = _named(ranking_spec(data, count=best, seeds=seeds), name)
            _check_data(spec)
        _say_cost(spec, data, data.best)
        _train(store, spec, as_json, mongo=mongo, **where)


@click.command()
@study_or_file_argument
@click.option("--change", "changes", multiple=True, required=True, metavar="NAME=VALUE",
              help="Train with this changed; may be repeated.")  # fmt: skip
@option("--seeds", type=click.IntRange(min=2), default=3, help="Trainings of each.")
@trial_option
@name_option
@carrying_options
def ablate(
    study: str, changes: tuple[str, ...], seeds: int, trial: int | None, name: str | None,
    mongo: str | None, as_json: bool, **where: Any,
) -> None:  # fmt: skip
    """Train a search's winner with one thing changed at a time, on the same people.

    The trainings are trials of a new study, STUDY-ablation. With --change cell=lstm the width
    stays and what only a LARNN has is dropped: that is no attention.
    """
    from search.again import ablation_spec
    from search.final import winner

    with opened(mongo) as store:
        with mistakes():
            data = _search(store, study)
            chosen = winner(data, trial)
            spec = _named(ablation_spec(data, chosen, changes, seeds=seeds, say=_say), name)
            _check_data(spec)
        _say_cost(spec, data, chosen, f" of the settings of trial {chosen.number}")
        _train(store, spec, as_json, mongo=mongo, **where)


@click.command()
@study_or_file_argument
@option(
    "--seeds",
    type=click.IntRange(min=1),
    help=f"Trainings, each with a seed of its own; none: {SEEDS_OF_TEST}, or {SEEDS_OF_FOLD} of "
    "each fold.",
)
@option(
    "--folds",
    type=click.IntRange(min=2),
    help="Cross-validate over all people; none: judge on the test people.",
)
@trial_option
@name_option
@carrying_options
def final(
    study: str, seeds: int | None, folds: int | None, trial: int | None, name: str | None,
    mongo: str | None, as_json: bool, **where: Any,
) -> None:  # fmt: skip
    """Train a finished search's winner again and judge it on people it never used.

    Without --folds it trains on training and validation people, and each training is one look at
    the test people (see `looks`). The trainings are trials of a new study, STUDY-test or
    STUDY-folds: Ctrl-C stops it, the same command resumes, and workers elsewhere help.
    """
    from search import final as finals

    with opened(mongo) as store:
        with mistakes():
            data = _search(store, study)
            chosen = finals.winner(data, trial)
            count = seeds or (SEEDS_OF_FOLD if folds else SEEDS_OF_TEST)
            spec = _named(finals.final_spec(data, chosen, seeds=count, folds=folds), name)
            _check_data(spec, folds)
        if chosen.params.get("keep") != "last":
            _say(f"Study {data.study.name} chose by each trial's best epoch, a final judges the "
                 "last: search with --fix keep=last for a choice that carries over")  # fmt: skip
        _say_cost(spec, data, chosen, f" of the settings of trial {chosen.number}")
        _train(store, spec, as_json, mongo=mongo, **where)


@click.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY|FILE.jsonl...")
@mongo_option
@json_option
def summary(studies: tuple[str, ...], mongo: str | None, as_json: bool) -> None:
    """Sum up searches, rankings, ablations and finals, with the differences between searches."""
    with mistakes():
        _show([read_data(study, mongo) for study in studies], as_json, indent=2)


@click.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY|FILE.jsonl...")
@click.option(
    "--append",
    "log",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.csv",
    help="Add them to this log instead, unless it has them.",
)
@mongo_option
def looks(studies: tuple[str, ...], log: Path | None, mongo: str | None) -> None:
    """List every look that these studies took at the test people, as CSV."""
    from search import looks as taken

    rows = taken.looks([read_data(study, mongo) for study in studies])
    if log is None:
        click.echo(taken.as_csv(rows), nl=False)
        return
    with mistakes():
        click.echo(f"{log}: {taken.append(log, rows)} looks added, of {len(rows)}")


COMMANDS = (rank, ablate, final, summary, looks)


def _search(store: TrialStore, study: str) -> StudyData:
    """A finished search, of the database or of an exported file.

    Raises:
        ValueError: If it is not finished.
    """
    from search import source
    from search.final import check_finished

    is_file = source.is_file(study)
    data = source.from_file(Path(study)) if is_file else source.from_store(store, study)
    check_finished(data)
    return data


def _named(spec: StudySpec, name: str | None) -> StudySpec:
    """Under the name that the user gave, if any.

    Raises:
        ValueError: If it can be no study's.
    """
    if name is None:
        return spec
    from trials.study import check_study_name

    check_study_name(name)
    return dataclasses.replace(spec, name=name)


def _check_data(spec: StudySpec, folds: int | None = None) -> None:
    """Refuse data that are not the study's, or too small for folds, before trials fail over it.

    Raises:
        TrialRefusedError: If the study's data are not here.
        ValueError: If there are more folds than people.
    """
    from search.final import FOLD
    from search.judging import split_for
    from search.objective import config_of, data_of_study

    named = {"data": spec.fixed["data"]} if "data" in spec.fixed else {}
    data = data_of_study(config_of(named, None), spec.requirements)
    if folds is None:
        return
    count = len(set(data.owner.tolist()))
    if folds > count:
        owners = "sequences" if data.person is None else "people"
        raise ValueError(f"--folds is at most the number of {owners} ({count}), got {folds}")
    split_for(data, FOLD.format(number=folds, folds=folds))


def _say(line: str) -> None:
    click.echo(line, err=True)


def _say_cost(spec: StudySpec, data: StudyData, like: Trial | None, what: str = "") -> None:
    """Tell what is coming, by how long a trial of the search took."""
    from search.results import core_hours

    hours = core_hours(data.study, [like] if like else []) * (spec.max_trials or 0)
    _say(f"{spec.name}: {spec.max_trials} trainings{what}, about {hours:.1f} core hours")


def _train(
    store: TrialStore, spec: StudySpec, as_json: bool, *, output: Path, **where: Any
) -> None:
    """Carry a study out and show what it says.

    Raises:
        click.ClickException: If no training came to an end.
    """
    from search.ending import commonest_failure
    from search.source import from_store
    from trials.devices import detect_slots
    from trials.trial import TrialState

    detect_slots(device=where["device"])
    make_folder(output / spec.name)  # before anything is in the queue
    made = store.create_study(spec)
    carry_out(store, made, output / made.name, ahead=None, aside=as_json, **where)
    done = from_store(store, made.name)
    _show([done], as_json)
    if not any(trial.state is TrialState.COMPLETE for trial in done.trials):
        raise click.ClickException(
            f"study {made.name} has no COMPLETE trial{commonest_failure(made.name, done.trials)}"
        )


def _show(studies: Sequence[StudyData], as_json: bool, indent: int | None = None) -> None:
    from search.results import to_plain
    from search.summary import summary as summed
    from search.summary_screen import print_summary

    told = summed(studies)
    if as_json:
        click.echo(json.dumps(to_plain(told), indent=indent))  # a run's: the last line
    else:
        print_summary(told)
