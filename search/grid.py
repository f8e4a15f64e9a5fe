"""Every combination of a space's choices and whole numbers, in a fixed order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from search.history import Entry
from search.parameter import Parameter, Value
from search.space import Space

MOST_POINTS = 100_000
Point = Mapping[str, Any]


def grid(space: Space) -> list[dict[str, Any]]:
    """All samples of a space; the last row changes fastest, conditions are kept.

    Raises:
        ValueError: If a row has infinitely many values, or there are over `MOST_POINTS` samples.
    """
    # A row's conditions are settled before the row itself.
    rows = sorted(space.rows, key=lambda row: len(space.conditions(row)))
    points: list[dict[str, Any]] = [{}]
    for row in rows:
        values, active = _values(row), [space.is_active(row, point) for point in points]
        if len(points) + sum(active) * (len(values) - 1) > MOST_POINTS:
            raise ValueError(
                f"a grid may have {MOST_POINTS} points, space {space.name!r} has more: fix a "
                "parameter, narrow a range, or take --algorithm random"
            )
        points = [
            longer
            for point, is_active in zip(points, active, strict=True)
            for longer in (
                [{**point, row.name: value} for value in values] if is_active else [point]
            )
        ]
    return points


class Grid:
    """Goes through a space's grid, in the order of `grid`.

    Args:
        space: What is searched.
        key_of: What tells a point's trials: `Entry.params_key`.

    Raises:
        ValueError: As of `grid`.
    """

    def __init__(self, space: Space, key_of: Callable[[Point], str]) -> None:
        self._points = grid(space)
        self._key_of = key_of
        self._untried = iter(self._points)

    def next_point(self, entries: Iterable[Entry], tried: Container[str]) -> Point:
        """The first point that was not tried; after the last one the one with the fewest trials.

        Trials that were cancelled count only where all else is equal.

        Args:
            entries: All trials so far.
            tried: Their keys; what was tried never gets untried.
        """
        for point in self._untried:
            if self._key_of(point) not in tried:
                return point
        trials = Counter((entry.params_key, entry.is_cancelled) for entry in entries)

        def times(point: Point) -> tuple[int, int]:
            key = self._key_of(point)
            return trials[key, False], trials[key, True]

        return min(self._points, key=times)


def _values(row: Parameter) -> Sequence[Value]:
    if row.kind == "choice":
        return row.choices
    if not row.is_integer:
        raise ValueError(
            f"{row.where}a grid needs choices or whole numbers, parameter {row.name!r} is of type "
            f"{row.kind}: name its values as choices, or take --algorithm random"
        )
    low, high = row.bounds
    return range(int(low), int(high) + 1)
