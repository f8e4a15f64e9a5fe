"""Every combination of a space's choices and whole numbers, in a fixed order."""

from __future__ import annotations

from typing import Any

from search.parameter import Parameter, Value
from search.space import Space

MOST_POINTS = 100_000


def grid(space: Space) -> list[dict[str, Any]]:
    """All samples of a space; the last row changes fastest, conditions are kept.

    Raises:
        ValueError: If a row has infinitely many values, or there are over `MOST_POINTS` samples.
    """
    # A row's conditions are settled before the row itself.
    rows = sorted(space.rows, key=lambda row: len(space.conditions(row)))
    points: list[dict[str, Any]] = [{}]
    for row in rows:
        values = _values(row)
        points = [
            longer
            for point in points
            for longer in (
                [{**point, row.name: value} for value in values]
                if space.is_active(row, point)
                else [point]
            )
        ]
        if len(points) > MOST_POINTS:
            raise ValueError(
                f"a grid may have {MOST_POINTS} points, space {space.name!r} has more: fix a "
                "parameter, narrow a range, or take --algorithm random"
            )
    return points


def _values(row: Parameter) -> tuple[Value, ...]:
    if row.kind == "choice":
        return row.choices
    if not row.is_integer:
        raise ValueError(
            f"{row.where}a grid needs choices or whole numbers, parameter {row.name!r} is of type "
            f"{row.kind}: name its values as choices, or take --algorithm random"
        )
    low, high = row.bounds
    return tuple(range(int(low), int(high) + 1))
