"""Commands that follow a search: final, summary, looks."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search.commands.searching import carry_out, output_option, workers_option
from search.options import (
    backend_option,
    device_option,
    json_option,
    mistakes,
    mongo_option,
    opened,
    option,
    read_data,
)

if TYPE_CHECKING:
    from trials.study import StudySpec


@click.command()
@click.argument("study")
@option(
    "--seeds",
    type=click.IntRange(min=1),
    help="Trainings (of each fold), each with a seed of its own; none: 5, or 1 of each fold.",
)
@option(
    "--folds",
    type=click.IntRange(min=2),
    help="Cross-validate over all people; none: judge on the test people.",
)
@option("--trial", type=click.IntRange(min=0), help="Another trial than the best.")
@workers_option
@device_option
@backend_option
@output_option
@mongo_option
@json_option
def final(
    study: str, seeds: int | None, folds: int | None, trial: int | None, workers: int, device: str,
    output: Path, mongo: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Train a search's winner again and judge it on people it never used.

    Without --folds it trains on training and validation people, and each training is one logged
    look at the test people. The trainings are trials of a new study, STUDY-test or STUDY-folds:
    Ctrl-C stops it, the same command resumes, and workers elsewhere help.
    """
    from search import final as finals
    from search.results import to_plain
    from search.source import from_store
    from trials.devices import detect_slots

    detect_slots(device=device)
    with opened(mongo) as store:
        with mistakes():
            chosen = finals.winner(store, study, trial)
            count = seeds or (1 if folds else 5)
            spec = finals.final_spec(store.get_study(study), chosen, seeds=count, folds=folds)
            _check_people(spec, folds)
        made = store.create_study(spec)
        folder = output / made.name
        carry_out(store, made, folder, workers=workers, device=device, ahead=None, mongo=mongo)
        finals.log_looks(store, made.name)
        told = finals.summary([from_store(store, study), from_store(store, made.name)])
    if as_json:
        click.echo(json.dumps(to_plain(told)))  # the last line, as of `run --json`
    else:
        _print(told)
    return 0


@click.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY|FILE.jsonl...")
@mongo_option
@json_option
def summary(studies: tuple[str, ...], mongo: str | None, as_json: bool) -> None:
    """Sum up searches and their finals by cell, with the differences between cells."""
    from search import final as finals
    from search.commands.reading import print_json
    from search.results import to_plain

    told = finals.summary([read_data(study, mongo) for study in studies])
    if as_json:
        print_json(to_plain(told))
    else:
        _print(told)


@click.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY|FILE.jsonl...")
@mongo_option
def looks(studies: tuple[str, ...], mongo: str | None) -> None:
    """List every look that these studies took at the test people, as CSV."""
    from search import final as finals
    from search.results import to_plain

    rows = finals.looks([read_data(study, mongo) for study in studies])
    columns = ("at", "study", "number", "judged", "seed", "sequences", "accuracy")
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_plain(row) for row in rows)


def _check_people(spec: StudySpec, folds: int | None) -> None:
    """Refuse folds that the data are too small for, before trials fail over it."""
    from search.final import FOLD, TEST
    from search.judging import split_for
    from search.objective import config_of, load_data

    settings = {name: value for name, value in spec.fixed.items() if name != "judged"}
    data = load_data(config_of(settings, None))
    split_for(data, FOLD.format(number=folds, folds=folds) if folds else TEST)


def _print(told: Mapping[str, Any]) -> None:
    """One row a cell and way of judging, then the differences."""
    from rich.text import Text

    from search.screens import accuracy, print_rich, table

    made = table("cell", "judged on", ">trainings", ">accuracy [95 %]", ">parameters", ">epochs")
    for cell, row in told["cells"].items():
        for kind, people in (("test", "test people"), ("folds", "all people, in folds")):
            if f"{kind}_accuracy_mean" not in row:
                continue
            mean = accuracy(row[f"{kind}_accuracy_mean"]) + _interval(row[f"{kind}_interval"])
            runs = len(row[f"{kind}_accuracies"])
            made.add_row(cell, people, str(runs), mean, str(row["parameters"]), str(row["epochs"]))
    lines = [
        f"{' over '.join(row['cells'])}, {row['people']} people ({row['judged']}): "
        f"{100 * row['mean']:+.2f} points{_interval(row['interval'])}"
        for row in told["differences"]
        if row["mean"] is not None
    ]
    lines.append("Intervals: 95 %, bootstrap over people.")
    print_rich(made, Text("\n".join(lines), style="dim"))


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else " [{:.2f}, {:.2f}]".format(*(100 * end for end in ends))


COMMANDS = (final, summary, looks)
