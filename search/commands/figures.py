"""Commands that draw and weigh studies: plot, report, compare. A study may be an exported file."""

from __future__ import annotations

from pathlib import Path

import click

from search.commands.reading import print_json
from search.figure_kinds import KINDS
from search.options import (
    json_option,
    mistakes,
    mongo_option,
    read_data,
    study_or_file_argument,
    writing,
)


@click.command()
@study_or_file_argument
@click.argument("kind", type=click.Choice(tuple(KINDS)))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="File to write: .png, .svg or .pdf.",
)  # fmt: skip
@mongo_option
def plot(study: str, kind: str, output: Path, mongo: str | None) -> None:
    """Draw one figure of a study into a file."""
    from search import plots

    with mistakes():
        plots.check_file_type(output)
    data = read_data(study, mongo)
    figure = plots.draw(kind, data)
    if isinstance(figure, plots.EmptyFigure):
        raise click.ClickException(f"nothing to show: {figure.reason}")
    with writing(output):
        plots.save_figure(figure, output)
    click.echo(output)


@click.command()
@study_or_file_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="File to write, .html.",
)  # fmt: skip
@mongo_option
def report(study: str, output: Path, mongo: str | None) -> None:
    """Write one self-contained page: the winner in words, tables and all figures."""
    from search.report import report as page

    if output.suffix != ".html":
        raise click.UsageError(f"a report's file ends in .html, got {output.name!r}")
    data = read_data(study, mongo)
    text = page(data)
    with writing(output):
        output.write_text(text, encoding="utf-8")
    click.echo(output)


@click.command()
@click.argument("studies", metavar="STUDY|FILE.jsonl...", nargs=-1, required=True)
@mongo_option
@json_option
def compare(studies: tuple[str, ...], mongo: str | None, as_json: bool) -> None:
    """Set searches side by side at equal budgets, with 95 % intervals.

    Rankings, ablations and finals are no searches: `summary` tells of them.
    """
    from search import screens
    from search.compare import compare as rows_of
    from search.purpose import Purpose
    from search.results import to_plain

    given = [read_data(study, mongo) for study in studies]
    searches = [data for data in given if data.purpose is Purpose.SEARCH]
    others = ", ".join(d.study.name for d in given if d.purpose is not Purpose.SEARCH)
    if not searches:
        raise click.UsageError(
            f"compare sets searches side by side, and none of these is one: {others}; "
            f"see larnn-search summary {' '.join(studies)}"
        )
    if others:
        click.echo(f"Left out, for they search nothing: {others}", err=True)
    rows = rows_of(searches)
    if as_json:
        print_json(to_plain(rows))
    else:
        screens.print_comparison(rows)


COMMANDS = (plot, report, compare)
