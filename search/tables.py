"""Tables for people: in a terminal that is too narrow columns give way, and cells stay whole."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from search.text import visible

PIPE_WIDTH = 400
"""Columns of a pipe or file: nothing is cut there."""
PROSE_WIDTH = 16
"""Text that wraps is given as much at least, if it is as long."""
BESIDE, EDGE = 3, 1
"""What `box.SIMPLE_HEAD` puts beside each column, and beside the table."""


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table; columns named ``>`` are aligned to the right, those named ``~`` wrap."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for name in columns:
        made.add_column(
            name.lstrip(">~"),
            justify="right" if name.startswith(">") else "left",
            no_wrap=not name.startswith("~"),
            overflow="fold",
        )
    return made


def print_rich(*parts: RenderableType) -> None:
    """Print to standard output, coloured where it is a terminal; lines of a pipe are not cut.

    A table that is too wide for the terminal goes on below, its first column repeated.
    """
    console = _console()
    for part in parts:
        if isinstance(part, Table):
            for piece in _pieces(part, console):
                console.print(piece, crop=False)
        else:
            console.print(part)


def print_cut(made: Table, keep: int) -> None:
    """Print a table without the columns on its right that do not fit, and say how many these are.

    Args:
        made: The table.
        keep: So many columns on its left are shown in any terminal.
    """
    console = _console()
    shown = max(keep, _fitting(made.columns, console))
    left_out = len(made.columns) - shown
    console.print(_with_columns(made, made.columns[:shown], console), crop=False)
    if left_out:
        told = f"Columns left out: {left_out}. A wider terminal, a pipe or --json shows them."
        console.print(Text(told, style="dim"))


def _console() -> Console:
    console = plain_console()
    return console if console.is_terminal else plain_console(PIPE_WIDTH)


class _PlainConsole(Console):
    """Shows the codes by which texts of trials and workers would steer the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(visible(text), style)


def plain_console(width: int | None = None, *, stderr: bool = False) -> Console:
    """An output that shows text as it is: brackets and colons in it are the user's own."""
    return _PlainConsole(width=width, markup=False, emoji=False, stderr=stderr)


def _pieces(made: Table, console: Console) -> Iterator[Table]:
    first, *rest = made.columns
    title = made.title
    while rest:
        count = max(1, _fitting([first, *rest], console) - 1)
        piece = _with_columns(made, [first, *rest[:count]], console)
        piece.title, title = title, None
        yield piece
        rest = rest[count:]


def _fitting(columns: Sequence[Column], console: Console) -> int:
    """How many of these columns, from the left, have room."""
    if not console.is_terminal:
        return len(columns)
    widths = (_width(columns[:count]) for count in range(1, len(columns) + 1))
    return sum(width <= console.width for width in widths)


def _with_columns(made: Table, columns: Sequence[Column], console: Console) -> Table:
    """The same table with these columns alone, wider than the terminal where it has to be."""
    part = copy.copy(made)
    part.columns = list(columns)
    if (width := _width(columns)) > console.width:
        part.width = width
    return part


def _width(columns: Sequence[Column]) -> int:
    """Of a table of these columns, all cells in one line but for those that wrap."""
    return EDGE + sum(BESIDE + _cell_width(column) for column in columns)


def _cell_width(column: Column) -> int:
    widest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    return widest if column.no_wrap else min(widest, PROSE_WIDTH)
