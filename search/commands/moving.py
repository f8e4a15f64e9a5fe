"""Commands that bring trials in and take studies out: enqueue, import, export, upgrade."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search.options import (
    mistakes,
    mongo_option,
    opened,
    read_data,
    study_argument,
    study_or_file_argument,
)

if TYPE_CHECKING:
    from trials.study import Study
    from trials.trial import Trial


@click.command()
@study_argument
@click.option(
    "--params", required=True, metavar="JSON|@FILE",
    help="The searched settings as JSON, or a file of it (@- reads standard input).",
)  # fmt: skip
@mongo_option
def enqueue(study: str, params: str, mongo: str | None) -> None:
    """Have a trial of your own settings run; it counts towards the study's budget."""
    from search.enqueue import enqueue as add

    with mistakes():
        given = _read_params(params)
    with opened(mongo) as store, mistakes():
        trial = add(store, study, given)
    click.echo(f"Trial {trial.number} of {study} is WAITING.")


@click.command(name="import")
@click.argument("path", metavar="FILE|DIR", type=click.Path(exists=True, path_type=Path))
@click.option("--study", metavar="NAME", help="Name of the imported study; none: as exported.")
@mongo_option
def import_(path: Path, study: str | None, mongo: str | None) -> None:
    """Bring in a study from a .jsonl FILE of `export`, or the paper author's trials from DIR.

    DIR is a clone of the paper's repository; its rounds become author-round-1 and author-round-2.
    """
    with mistakes():
        found = _read_studies(path)
        if study is not None:
            found = [_renamed(found, study)]
    with opened(mongo) as store:
        for one, trials in found:
            store.restore_study(one, trials)
            click.echo(f"Study {one.name}: {len(trials)} trials imported.")


@click.command()
@study_or_file_argument
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False),
    help="The file; .csv or .parquet: a table of trials; .jsonl: everything, for `import`.",
)  # fmt: skip
@mongo_option
def export(study: str, output: Path, mongo: str | None) -> None:
    """Write a study's trials to a file; weights, checkpoints and logs stay behind."""
    from search.export import check_format, write

    with mistakes():
        check_format(output)
    data = read_data(study, mongo)
    with mistakes():
        write(data.study, data.trials, output)
    click.echo(f"Study {data.study.name}: {len(data.trials)} trials in {output}.")


@click.command()
@mongo_option
def upgrade(mongo: str | None) -> None:
    """Bring a database that an older version wrote to this version, after a backup."""
    from trials.documents import SCHEMA_VERSION
    from trials.upgrade import upgrade as bring_up

    with opened(mongo, any_schema=True) as store:
        found = bring_up(store)
    was = "as before" if found == SCHEMA_VERSION else f"upgraded from {found}"
    click.echo(f"The database has schema version {SCHEMA_VERSION}, {was}; its indexes are there.")


COMMANDS = (enqueue, import_, export, upgrade)


def _read_params(text: str) -> dict[str, Any]:
    """The JSON object that ``--params`` gives.

    Raises:
        ValueError: If the file cannot be read, or it is no JSON object.
    """
    try:
        if text == "@-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        params = json.loads(text)
    except OSError as error:
        raise ValueError(f"--params: cannot read {text[1:]} ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"--params is not JSON ({error}), got {text[:60]!r}") from error
    if not isinstance(params, dict):
        raise ValueError(f'--params takes settings like {{"dropout": 0.1}}, got {text[:60]!r}')
    return params


def _read_studies(path: Path) -> list[tuple[Study, list[Trial]]]:
    """The studies in a file or folder.

    Raises:
        ValueError: If there are none; says why.
    """
    from search import author_trials, source
    from trials.clock import utc_now

    if path.is_dir():
        return [*author_trials.read(path, utc_now())]
    found = source.from_file(path)
    return [(found.study, [*found.trials])]


def _renamed(found: list[tuple[Study, list[Trial]]], name: str) -> tuple[Study, list[Trial]]:
    from trials.transfer import renamed

    if len(found) > 1:
        names = ", ".join(study.name for study, _ in found)
        raise ValueError(f"--study names one study, found {names}: import one folder at a time")
    return renamed(*found[0], name)
