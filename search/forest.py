"""The loss as a function of the settings: random forests, and what they are on average.

A forest is constant within the boxes of its leaves, so its average over any settings, weighed as
they were searched, is a sum over boxes: the partition of functional ANOVA (Hutter, Hoos,
Leyton-Brown 2014), here exact on a grid of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.parameter import Parameter, Value
from search.results import param_values

Floats = NDArray[np.float64]
CELLS = 16
"""Parts that a range is cut into at most, equally likely when sampled."""
DEPTH = 6


class Cells:
    """Searched settings, each cut into cells; the cells of all settings in one row, ``[C]``.

    Args:
        rows: The settings.
    """

    def __init__(self, rows: Sequence[Parameter]) -> None:
        self.rows = tuple(rows)
        self._edges = [None if row.kind == "choice" else _edges(row) for row in rows]
        shares = [_shares(row, edges) for row, edges in zip(rows, self._edges, strict=True)]
        sizes = [len(share) for share in shares]
        self.weight: Floats = np.concatenate(shares)
        """How likely each cell was sampled among those of its setting, ``[C]``."""
        self.owner = np.repeat(np.arange(len(rows)), sizes)
        """Index of each cell's setting, ``[C]``."""
        self.values = [_middles(row, edges) for row, edges in zip(rows, self._edges, strict=True)]
        """By setting: what its cells stand for."""
        width = sum(
            1 if edges is not None else n for edges, n in zip(self._edges, sizes, strict=True)
        )
        self.features = np.full((len(self.owner), width), np.nan)
        """Each cell's features, those of other settings NaN, ``[C, F]``."""
        column = 0
        for index, (edges, size) in enumerate(zip(self._edges, sizes, strict=True)):
            own = np.eye(size) if edges is None else np.arange(size)[:, None]
            self.features[self.owner == index, column : column + own.shape[1]] = own
            column += own.shape[1]

    def encode(self, frame: pd.DataFrame) -> Floats:
        """Features of trials, ``[n, F]``: a range's cell, or a column a choice."""
        columns: list[NDArray[Any]] = []
        for row, edges in zip(self.rows, self._edges, strict=True):
            values = param_values(frame, row.name)
            if edges is None:
                columns += [(values == value).to_numpy() for value in row.choices]
            else:
                numbers = values.to_numpy(dtype=float)
                columns.append(
                    np.searchsorted(edges[1:-1], np.log(numbers) if row.is_log else numbers)
                )
        return np.stack(columns, axis=1).astype(float)

    def count(self, features: Floats) -> NDArray[np.int_]:
        """Trials in each cell, ``[C]``."""
        known = ~np.isnan(self.features)
        hits = (
            (features[:, own] == cell[own]).all(axis=1)
            for cell, own in zip(self.features, known, strict=True)
        )
        return np.array([int(hit.sum()) for hit in hits])


@dataclass(frozen=True)
class Effects:
    """What one forest says, averaged over its trees."""

    alone: Floats
    """Share of the loss' variance that each setting explains by itself, ``[J]``."""
    together: Floats
    """Share that each pair explains beyond its two settings, ``[J, J]``."""
    curve: Floats
    """Mean loss in each cell, over all other settings, ``[C]``."""
    surface: Floats
    """Mean loss in each pair of cells of two settings, over all others, ``[C, C]``."""


def grow(cells: Cells, features: Floats, losses: Floats, *, trees: int, seed: int) -> Effects:
    """Fit a forest to trials and take it apart.

    Args:
        cells: Of the settings.
        features: `Cells.encode`, ``[n, F]``.
        losses: ``[n]``.
        trees: How many.
        seed: Equal seeds give equal forests.
    """
    from sklearn.tree import DecisionTreeRegressor

    # A RandomForestRegressor is the same, but takes twice as long: it checks and copies each tree.
    draw = np.random.default_rng(seed)
    inputs = features.astype(np.float32)
    parts = []
    for number in range(trees):
        pick = draw.integers(len(losses), size=len(losses))
        tree = DecisionTreeRegressor(max_depth=DEPTH, random_state=number)
        tree.fit(inputs[pick], losses[pick], check_input=False)
        parts.append(_take_apart(tree.tree_, cells))
    means = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
    return Effects(*means)


def _take_apart(tree: Any, cells: Cells) -> tuple[Floats, ...]:
    """`Effects` of one tree; no variance, no share."""
    leaves = tree.children_left < 0
    inside = _boxes(tree, cells.features)[leaves].astype(float)  # [L, C]
    value = tree.value[leaves, 0, 0]
    of = np.eye(len(cells.rows))[cells.owner]  # [C, J]
    extent = (inside * cells.weight) @ of  # [L, J]: share of each setting's range
    part = value * extent.prod(axis=1)
    spread = inside / extent[:, cells.owner]
    curve, surface = part @ spread, (part[:, None] * spread).T @ spread
    mean = part.sum()
    total = part @ value - mean**2
    alone = (cells.weight * (curve - mean) ** 2) @ of
    together = of.T @ (np.outer(cells.weight, cells.weight) * (surface - mean) ** 2) @ of
    together -= alone[:, None] + alone
    np.fill_diagonal(together, 0.0)
    scale = 1 / total if total > 1e-12 * mean**2 else 0.0
    return alone * scale, together * scale, curve, surface


def _boxes(tree: Any, cells: Floats) -> NDArray[np.bool_]:
    """Whether each node's box reaches into each cell, ``[nodes, C]``."""
    inside = np.ones((tree.node_count, len(cells)), dtype=bool)
    feature = np.maximum(tree.feature, 0)  # leaves have a negative one, and are not read
    value = cells.T[feature]  # [nodes, C]
    threshold = tree.threshold[:, None]
    left, right = ~(value > threshold), ~(value <= threshold)  # other settings' NaN: both
    nodes = np.array([0])
    while len(nodes := nodes[tree.children_left[nodes] >= 0]):
        lower, upper = tree.children_left[nodes], tree.children_right[nodes]
        inside[lower] = inside[nodes] & left[nodes]
        inside[upper] = inside[nodes] & right[nodes]
        nodes = np.concatenate([lower, upper])
    return inside


def _edges(row: Parameter) -> Floats:
    """Ends of a range's cells, in the logarithm where it was searched there."""
    low, high = row.bounds
    room = 0.5 if row.is_integer else 0.0  # each whole number has a unit
    ends = np.array([low - room, high + room])
    if _each_whole_number(row):
        ends = np.arange(low - 0.5, high + 1.0)
    if row.is_log:
        ends = np.log(ends)
    return ends if len(ends) > 2 else np.linspace(ends[0], ends[1], CELLS + 1)


def _each_whole_number(row: Parameter) -> bool:
    """Whether a range is short enough for a cell a value."""
    low, high = row.bounds
    return row.is_integer and high - low < CELLS


def _shares(row: Parameter, edges: Floats | None) -> Floats:
    if edges is None:
        return np.full(len(row.choices), 1 / len(row.choices))
    shares: Floats = np.diff(edges) / (edges[-1] - edges[0])
    return shares


def _middles(row: Parameter, edges: Floats | None) -> list[Value]:
    if edges is None:
        return list(row.choices)
    if _each_whole_number(row):
        return [int(row.bounds[0]) + i for i in range(len(edges) - 1)]
    middles = (edges[1:] + edges[:-1]) / 2
    return [float(value) for value in (np.exp(middles) if row.is_log else middles)]
