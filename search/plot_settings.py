"""Figures that show settings against the loss they led to; `search.plots` offers them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from search.parameter import Parameter, Value
from search.plot_style import (
    LOSS_COLORS,
    ORDER_COLORS,
    STATE_MARKERS,
    WIDTH,
    EmptyFigure,
    few_values,
    literal,
    loss_label,
    loss_limits,
    new_figure,
    setting_axis,
    styled,
    told_markers,
    told_trials,
)
from search.results import judged, param_values
from search.space import Space
from search.text import format_value

Floats = NDArray[np.float64]
COLUMNS = 4
MOST_BINS = 8
"""Ranges that the heat map cuts a setting into at most."""
MOST_LEADS = 12
"""Trials that were the best so far, named beside their colours."""
OTHERS = "#6F879B"
"""Of trials that were never the best so far."""
MOST_BESIDE = 10
"""Names of side-by-side settings that fit on one line; of more, every second one stands lower."""
HIGHLIGHTED = 10
"""Best trials that stand out among side-by-side settings, or a twentieth if that is less."""


@styled
def loss_against_settings(frame: pd.DataFrame, space: Space) -> Figure:
    """One panel a searched setting: each trial's loss, and in colour those that were best so far.

    Later ones of these are darker; the last, the best of all, is starred. Pruned trials are
    triangles. Choices are spread sideways, with their median as a bar.

    Args:
        frame: `search.results.trials_frame`; of it `search.results.judged` counts.
        space: What was searched; settings that no trial has are left out.
    """
    done = judged(frame)
    rows = _searched(done, space)
    if done.empty or not rows:
        return EmptyFigure("no trial is complete")
    height = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.8 + 2.15 * height))
    FigureCanvasAgg(figure)
    grid = figure.subplots(height, min(COLUMNS, len(rows)), sharey=True, squeeze=False)
    complete = done[done["state"] == "COMPLETE"]
    leads = complete[complete["loss"] < complete["loss"].cummin().shift(fill_value=np.inf)]
    leads = leads.assign(place=np.arange(len(leads)))
    norm = Normalize(0, max(len(leads) - 1, 1))
    for index, axes in enumerate(grid.flat):
        if index >= len(rows):
            axes.set_axis_off()
            continue
        _panel(axes, done, leads, rows[index], norm)
        axes.tick_params(labelsize=9)
    low, high = loss_limits(done["loss"])
    grid[0, 0].set_ylim(low, high)
    figure.supylabel(loss_label(done, high), fontsize=11)
    bar = figure.colorbar(ScalarMappable(norm, ORDER_COLORS), ax=grid, aspect=40, pad=0.01)
    bar.set_label("best so far: trial")
    shown = leads[:: -(-len(leads) // MOST_LEADS) or 1]
    bar.set_ticks(list(shown["place"]), labels=[str(number) for number in shown["number"]])
    bar.outline.set_visible(False)
    figure.suptitle(
        f"Loss against each setting; bar: median, star: best{told_markers(done)}\n"
        f"({told_trials(done)})",
        fontweight="bold",
        fontsize=12,
        x=0.01,
        ha="left",
    )
    return figure


@styled
def window_heads_heatmap(frame: pd.DataFrame) -> Figure:
    """Least loss for each number of heads and range of window sizes, with the trials in each.

    Args:
        frame: `search.results.trials_frame` with ``window_size`` and ``num_heads``.
    """
    if not {"window_size", "num_heads"} <= set(frame.columns):
        return EmptyFigure("this study has no window_size and num_heads")
    done = judged(frame).dropna(subset=["window_size", "num_heads"])
    if done.empty:
        return EmptyFigure("no trial is complete")
    heads, head_names = _binned(done["num_heads"].astype(int))
    windows, window_names = _binned(done["window_size"].astype(int))
    least = np.full((len(head_names), len(window_names)), np.nan)
    count = np.zeros_like(least, dtype=int)
    for row, column, loss in zip(heads, windows, done["loss"], strict=True):
        least[row, column] = np.fmin(least[row, column], loss)
        count[row, column] += 1
    low, high = float(np.nanmin(least)), loss_limits(pd.Series(least.ravel()))[1]
    figure, axes = new_figure(height=1.8 + 0.5 * len(head_names))
    image = axes.pcolormesh(least, cmap=LOSS_COLORS, vmin=low, vmax=high, ec="white", lw=2)
    for row, column in zip(*np.nonzero(count), strict=True):
        loss = least[row, column]
        color = "white" if loss < (low + high) / 2 else "black"
        words = f"{loss:.3g}\nn={count[row, column]}"
        axes.text(column + 0.5, row + 0.5, words, ha="center", va="center", fontsize=9, color=color)
    axes.set_xticks(np.arange(len(window_names)) + 0.5, window_names)
    axes.set_yticks(np.arange(len(head_names)) + 0.5, head_names)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set(xlabel="window size (past cell states)", ylabel="attention heads")
    bar = figure.colorbar(image, ax=axes, label=f"least {loss_label(done)}", pad=0.02)
    bar.outline.set_visible(False)
    axes.set_title(f"Window and heads ({told_trials(done)})")
    return figure


@styled
def parallel_coordinates(frame: pd.DataFrame, space: Space) -> Figure:
    """Each trial as a line through its settings to its loss; the best in front and dark.

    A line is broken at a setting that its trial has no use for.

    Args:
        frame: `search.results.trials_frame`.
        space: What was searched.
    """
    done = judged(frame).sort_values("loss", ascending=False)
    rows = _searched(done, space)
    if done.empty or not rows:
        return EmptyFigure("no trial is complete")
    figure, axes = new_figure(height=5.2)
    low, high = loss_limits(done["loss"])
    low = float(done["loss"].min())
    heights = [_heights(param_values(done, row.name), row) for row in rows]
    heights.append(np.clip((done["loss"].to_numpy() - low) / (high - low), 0, 1.02))
    points = np.stack(heights, axis=1)
    x = np.arange(points.shape[1])
    rank = np.linspace(1, 0, len(done))
    front = np.arange(len(done))[::-1] < min(HIGHLIGHTED, -(-len(done) // 20))
    alpha = np.clip(40 / len(done), 0.06, 0.5)
    colors = np.asarray(ScalarMappable(Normalize(0, 1), LOSS_COLORS).to_rgba(rank))
    colors[:, 3] = np.where(front, 0.95, alpha)
    lines = LineCollection(
        [np.column_stack([x, line]) for line in points],
        colors=colors,
        linewidths=np.where(front, 2.0, 0.9),
    )
    axes.add_collection(lines)
    axes.set(xlim=(-0.15, len(rows) + 0.35), ylim=(-0.05, 1.07))
    for place, row in enumerate(rows):
        _ruler(axes, place, _ticks(row))
    _ruler(
        axes,
        len(rows),
        [(t, f"{low + t * (high - low):.3g}") for t in (0, 0.25, 0.5, 0.75, 1)],
    )
    names = [literal(row.name).replace("_", "\n") for row in rows] + [
        loss_label(done).replace(" ", "\n", 1)
    ]
    if len(names) > MOST_BESIDE:
        names[1::2] = [f"\n\n{name}" for name in names[1::2]]
    axes.set_xticks(x, names, fontsize=9)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(f"Settings side by side, the best dark\n({told_trials(done)})")
    return figure


def _searched(frame: pd.DataFrame, space: Space) -> list[Parameter]:
    return [row for row in space.rows if _have_place(param_values(frame, row.name), row).any()]


def _have_place(values: pd.Series[Any], row: Parameter) -> pd.Series[bool]:
    """Which values can be shown; a file made by hand may hold some that were never searched."""
    places = few_values(row)
    return values.isin(places) if places else values.notna()


def _panel(
    axes: Axes, done: pd.DataFrame, leads: pd.DataFrame, row: Parameter, norm: Normalize
) -> None:
    own = done[_have_place(param_values(done, row.name), row)]
    values = param_values(own, row.name)
    losses = own["loss"].to_numpy(dtype=float)
    places = few_values(row)
    if places:
        x = _spread(axes, values, losses, places)
    else:
        x = values.to_numpy(dtype=float)
        setting_axis(axes, row)
    size = float(np.clip(900 / len(done), 6, 26))
    for state, marker in STATE_MARKERS.items():
        these = (own["state"] == state).to_numpy()
        axes.scatter(
            x[these], losses[these], s=size, c=OTHERS, marker=marker, alpha=0.6, linewidths=0
        )
    led = own["number"].isin(leads["number"]).to_numpy()
    if led.any():
        turns = leads["place"][leads["number"].isin(own["number"])]
        axes.scatter(
            x[led], losses[led], c=turns, s=max(size, 14) * 1.6, cmap=ORDER_COLORS, norm=norm,
            edgecolors="black", linewidths=0.5, zorder=4,
        )  # fmt: skip
        if own["number"][led].iloc[-1] == leads["number"].iloc[-1]:
            best = np.flatnonzero(led)[-1]
            axes.plot(x[best], losses[best], "*", ms=12, color="#D55E00", mec="white", zorder=5)
    partly = f" (n = {len(own)})" if len(own) < len(done) else ""
    axes.set_xlabel(literal(row.name) + partly, fontsize=9.5)


def _spread(
    axes: Axes, values: pd.Series[Any], losses: Floats, places: tuple[Value, ...]
) -> Floats:
    """Dots beside each other around their choice, whose median is a bar; returns where they are."""
    middle = np.array([places.index(value) for value in values], dtype=float)
    for at in np.unique(middle):
        median = np.median(losses[middle == at])
        axes.hlines(median, at - 0.36, at + 0.36, color="#D55E00", lw=2.4, zorder=3)
    names = [literal(place) for place in places]
    every = 2 if len(names) > 7 and not isinstance(places[0], str) else 1  # numbers can be guessed
    axes.set_xticks(range(0, len(names), every), names[::every])
    if len("".join(names[::every])) > 16:
        axes.tick_params(axis="x", rotation=40)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="x")
    spread: Floats = middle + np.random.default_rng(0).uniform(-0.27, 0.27, len(middle))
    return spread


def _binned(values: pd.Series[int]) -> tuple[list[int], list[str]]:
    """Each value's range by index, and the ranges' names; a range a value where there are few."""
    sizes = sorted(int(value) for value in values.unique())
    if len(sizes) <= MOST_BINS:
        return [sizes.index(value) for value in values], [str(size) for size in sizes]
    points = np.unique(np.round(np.geomspace(sizes[0], sizes[-1] + 1, MOST_BINS - 1))).astype(int)
    names = [f"{a}" if a == b - 1 else f"{a}-{b - 1}" for a, b in itertools.pairwise(points)]
    return [int(i) - 1 for i in np.searchsorted(points, values, side="right")], names


def _scale(row: Parameter) -> Normalize:
    """From a range's values to heights on a ruler from 0 to 1."""
    low, high = row.bounds
    return LogNorm(low, high) if row.is_log else Normalize(low, high)


def _heights(values: pd.Series[Any], row: Parameter) -> Floats:
    """Where values stand on a ruler from 0 to 1, equal ones slightly apart; NaN where none is."""
    places = few_values(row)
    heights = np.full(len(values), np.nan)
    present = _have_place(values, row).to_numpy()
    if places:
        index = np.array([places.index(value) for value in values[present]], dtype=float)
        jitter = np.random.default_rng(0).uniform(-0.02, 0.02, len(index))
        heights[present] = index / (len(places) - 1) + jitter
    else:
        heights[present] = _scale(row)(values[present].to_numpy(dtype=float))
    return heights


def _ticks(row: Parameter) -> list[tuple[float, str]]:
    """Heights of a ruler's marks, and what they say."""
    places = few_values(row)
    if places:
        return [(i / (len(places) - 1), literal(place)) for i, place in enumerate(places)]
    scale = _scale(row)
    values = [float(f"{scale.inverse(share):.2g}") for share in (0.0, 0.5, 1.0)]
    return [(float(scale(v)), format_value(round(v) if row.is_integer else v)) for v in values]


def _ruler(axes: Axes, place: float, ticks: list[tuple[float, str]]) -> None:
    axes.axvline(place, ymin=0.045, ymax=0.94, color="#666666", lw=1, zorder=3)
    for height, name in ticks:
        axes.text(
            place + 0.05,
            height,
            name,
            va="center",
            fontsize=8,
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
        )
