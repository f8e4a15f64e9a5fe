"""Sizes of a search: a space, what is fixed beside it, and how many trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search.named_spaces import NAMED_SPACES
from search.parameter import Parameter
from search.space import Space


@dataclass(frozen=True)
class Preset:
    """What `--preset` stands for."""

    name: str
    max_trials: int
    doc: str
    """What the preset leaves out, for people."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Also what is the default today: a study's trials share it whatever becomes the default."""
    narrower: tuple[Parameter, ...] = ()
    """In place of a space's own rows of these names, or bounds to their choices."""

    def space_of(self, cell: str = "larnn") -> Space:
        """What is searched of a cell; of one that is unknown, as of the LARNN."""
        space = NAMED_SPACES.get(cell, NAMED_SPACES["card"])
        if not self.narrower:
            return space
        bounds = {row.name: row for row in self.narrower}
        kept = tuple(_within(row, bounds.get(row.name, row)) for row in space.rows)
        return dataclasses.replace(space, name=f"{space.name}-{self.name}", rows=kept)


def _within(row: Parameter, narrower: Parameter) -> Parameter:
    """The narrower row; of choices, those that lie in its range."""
    if row.kind != "choice" or narrower is row:
        return narrower
    low, high = narrower.bounds
    return dataclasses.replace(
        row, choices=tuple(choice for choice in row.choices if low <= float(choice) <= high)
    )


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "quick",
            max_trials=36,
            doc="minutes on two cores: 6 epochs, every second step, up to 48 wide and 2 layers",
            fixed={"epochs": 6, "time_stride": 2, "batch_size": 128},
            narrower=(
                Parameter("window_size", "logint", 4, 32),
                Parameter("num_heads", "int", 2, 4),
                Parameter("head_size", "int", 4, 12),
                Parameter("hidden_size", "logint", 8, 48),
                Parameter("num_layers", "int", 1, 2),
            ),
        ),
        Preset(
            "full",
            max_trials=100,
            doc="20 epochs, every step, up to 128 wide and 3 layers",
            fixed={"epochs": 20, "batch_size": 128},
        ),
    )
}
