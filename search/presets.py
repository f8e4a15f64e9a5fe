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
    space: Space
    max_trials: int
    doc: str
    """What the preset leaves out, for people."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Also what is the default today: a study's trials share it whatever becomes the default."""


def _narrowed(space: Space, *rows: Parameter) -> Space:
    """``space`` with these rows in place of its own of the same names."""
    new = {row.name: row for row in rows}
    kept = tuple(new.get(row.name, row) for row in space.rows)
    return dataclasses.replace(space, name=f"{space.name}-quick", rows=kept)


_CARD = NAMED_SPACES["card"]

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "quick",
            _narrowed(
                _CARD,
                Parameter("window_size", "logint", 4, 32),
                Parameter("num_heads", "int", 2, 4),
                Parameter("head_size", "int", 4, 12),
                Parameter("num_layers", "int", 1, 2),
            ),
            max_trials=36,
            fixed={"epochs": 6, "time_stride": 2, "batch_size": 128},
            doc="minutes on two cores: 6 epochs, every second time step, at most 48 wide and "
            "2 layers; people and signals are the real ones",
        ),
        Preset(
            "full",
            _CARD,
            max_trials=100,
            fixed={"epochs": 20, "batch_size": 128},
            doc="nothing left out: every time step, 20 epochs, up to 128 wide and 3 layers",
        ),
    )
}
