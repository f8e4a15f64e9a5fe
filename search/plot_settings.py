"""Figures that show settings against the loss they led to; `search.plots` offers them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from search.parameter import Parameter
from search.plot_style import (
    BEST_COLORS,
    WIDTH,
    empty_figure,
    loss_axis,
    loss_limits,
    new_figure,
    setting_axis,
    styled,
)
from search.space import Space
from search.text import format_value

COLUMNS = 4
MOST_WINDOW_BINS = 8


@styled
def loss_against_settings(frame: pd.DataFrame, space: Space) -> Figure:
    """One panel a searched setting: each complete trial's loss, early trials light, late ones dark.

    Choices are spread sideways, with their median as a bar; the best trial is starred.

    Args:
        frame: `search.results.trials_frame`.
        space: What was searched; settings that no trial has are left out.
    """
    done = _complete(frame)
    rows = _searched(done, space)
    if done.empty or not rows:
        return empty_figure("no trial is complete")
    height = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.15 * height))
    FigureCanvasAgg(figure)
    grid = figure.subplots(height, min(COLUMNS, len(rows)), sharey=True, squeeze=False)
    norm = Normalize(done["number"].min(), max(done["number"].max(), done["number"].min() + 1))
    for index, axes in enumerate(grid.flat):
        if index >= len(rows):
            axes.set_axis_off()
            continue
        _panel(axes, done, rows[index], norm)
        axes.tick_params(labelsize=9)
    loss_axis(grid[0, 0], done["loss"], label=False)
    above = int((done["loss"] > grid[0, 0].get_ylim()[1]).sum())
    figure.supylabel("validation loss" + (f" ({above} above)" if above else ""), fontsize=11)
    bar = figure.colorbar(ScalarMappable(norm, BEST_COLORS), ax=grid, aspect=40, pad=0.01)
    bar.set_label("trial, in order of start")
    bar.outline.set_visible(False)  # type: ignore[operator]  # stubs: Spine taken for a method
    figure.suptitle(
        f"Loss against each setting (n = {len(done)} complete trials)",
        fontweight="bold",
        fontsize=12,
    )
    return figure


@styled
def window_heads_heatmap(frame: pd.DataFrame) -> Figure:
    """Least loss for each number of heads and range of window sizes, with the trials in each.

    Args:
        frame: `search.results.trials_frame` with ``window_size`` and ``num_heads``.
    """
    if not {"window_size", "num_heads"} <= set(frame.columns):
        return empty_figure("this study has no window_size and num_heads")
    done = _complete(frame).dropna(subset=["window_size", "num_heads"])
    if done.empty:
        return empty_figure("no trial is complete")
    windows = done["window_size"].astype(int)
    edges = _window_edges(windows)
    bins = np.searchsorted(edges, windows, side="right") - 1
    heads = sorted(done["num_heads"].astype(int).unique())
    groups = done.assign(bin=bins).groupby(["num_heads", "bin"])["loss"]
    least, count = groups.min(), groups.size()
    figure, axes = new_figure(height=1.8 + 0.5 * len(heads))
    table = np.full((len(heads), len(edges) - 1), np.nan)
    for (head, column), loss in least.items():  # type: ignore[misc]  # stubs: index is no tuple
        table[heads.index(head), column] = loss
    low, high = loss_limits(least)
    image = axes.pcolormesh(table, cmap=BEST_COLORS, vmin=least.min(), vmax=high, ec="white", lw=2)
    for (head, column), loss in least.items():  # type: ignore[misc]  # as above
        dark = (loss - low) / (high - low) < 0.5
        text = f"{loss:.3g}\nn={count[head, column]}"
        place = (column + 0.5, heads.index(head) + 0.5)
        axes.text(*place, text, ha="center", va="center", fontsize=9, color="w" if dark else "k")
    names = [
        str(a) if a == b - 1 else f"{a}-{b - 1}" for a, b in zip(edges, edges[1:], strict=False)
    ]
    axes.set_xticks(np.arange(len(names)) + 0.5, names)
    axes.set_yticks(np.arange(len(heads)) + 0.5, [str(head) for head in heads])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set(xlabel="window size (past cell states)", ylabel="attention heads")
    figure.colorbar(image, ax=axes, label="least validation loss", pad=0.02).outline.set_visible(
        False
    )  # type: ignore[operator]  # as above
    axes.set_title(f"Window and heads (n = {len(done)} complete trials)")
    return figure


@styled
def parallel_coordinates(frame: pd.DataFrame, space: Space) -> Figure:
    """Each complete trial as a line through its settings to its loss; the best in front and dark.

    A line is broken at a setting that its trial has no use for.

    Args:
        frame: `search.results.trials_frame`.
        space: What was searched.
    """
    done = _complete(frame).sort_values("loss", ascending=False)
    rows = _searched(done, space)
    if done.empty or not rows:
        return empty_figure("no trial is complete")
    figure, axes = new_figure(height=5.2)
    low, high = loss_limits(done["loss"])
    low = float(done["loss"].min())
    heights = [_heights(done[row.name], row) for row in rows]
    heights.append(np.clip((done["loss"].to_numpy() - low) / (high - low), 0, 1.02))
    points = np.stack(heights, axis=1)
    x = np.arange(points.shape[1])
    rank = np.linspace(1, 0, len(done))
    alpha = np.clip(40 / len(done), 0.06, 0.5)
    colors = mpl_colors(rank, alpha)
    lines = LineCollection(
        [np.column_stack([x, line]) for line in points],
        colors=colors,
        linewidths=np.where(rank < 0.05, 2.0, 0.9),
    )
    axes.add_collection(lines)
    axes.set(xlim=(-0.15, len(rows) + 0.35), ylim=(-0.05, 1.07))
    for place, row in enumerate(rows):
        _ruler(axes, place, _ticks(row))
    _ruler(
        axes,
        len(rows),
        [(t, format_value(low + t * (high - low))) for t in (0, 0.25, 0.5, 0.75, 1)],
    )
    names = [row.name.replace("_", "\n") for row in rows]
    axes.set_xticks(x, [*names, "validation\nloss"], fontsize=9)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(f"Settings side by side (n = {len(done)} complete trials, the best are dark)")
    return figure


def mpl_colors(rank: np.ndarray[Any, Any], alpha: float) -> np.ndarray[Any, Any]:
    """Colours of lines by rank (0 best, 1 worst), ``[n, 4]``; the best are opaque."""
    colors: np.ndarray[Any, Any] = np.asarray(
        ScalarMappable(Normalize(0, 1), BEST_COLORS).to_rgba(rank)
    )
    colors[:, 3] = np.where(rank < 0.05, 0.95, alpha)
    return colors


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["state"] == "COMPLETE") & np.isfinite(frame["loss"])]


def _searched(frame: pd.DataFrame, space: Space) -> list[Parameter]:
    return [row for row in space.rows if row.name in frame and frame[row.name].notna().any()]


def _panel(axes: Axes, done: pd.DataFrame, row: Parameter, norm: Normalize) -> None:
    own = done[done[row.name].notna()]
    best = own["loss"].idxmin()
    if row.kind == "choice":
        place = {choice: index for index, choice in enumerate(row.choices)}
        middle = own[row.name].map(place).to_numpy(dtype=float)
        x = middle + np.random.default_rng(0).uniform(-0.27, 0.27, len(own))
        for choice, losses in own.groupby(row.name)["loss"]:
            at = place[choice]
            axes.hlines(losses.median(), at - 0.36, at + 0.36, color="#D55E00", lw=2.4, zorder=3)
        names = [str(choice) for choice in row.choices]
        slanted = len("".join(names)) > 16
        axes.set_xticks(range(len(names)), names)
        if slanted:
            axes.tick_params(axis="x", rotation=40)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.grid(visible=False, axis="x")
    else:
        x = own[row.name].to_numpy(dtype=float)
        setting_axis(axes, row)
    size = float(np.clip(900 / len(done), 6, 26))
    axes.scatter(
        x, own["loss"], c=own["number"], s=size, cmap=BEST_COLORS, norm=norm, alpha=0.75, lw=0
    )
    star = x[own.index.get_loc(best)]
    axes.plot(star, own["loss"][best], "*", ms=12, color="#D55E00", mec="white", zorder=4)
    partly = f" (n = {len(own)})" if len(own) < len(done) else ""
    axes.set_xlabel(row.name + partly, fontsize=9.5)


def _window_edges(windows: pd.Series[int]) -> list[int]:
    """Bin edges, doubling where there are many window sizes, one bin a size where there are few."""
    sizes = sorted(windows.unique())
    if len(sizes) <= MOST_WINDOW_BINS:
        return [*map(int, sizes), int(sizes[-1]) + 1]
    points = np.geomspace(sizes[0], sizes[-1] + 1, MOST_WINDOW_BINS - 1)
    return [int(point) for point in np.unique(np.round(points))]


def _heights(values: pd.Series[Any], row: Parameter) -> np.ndarray[Any, Any]:
    """Where values stand on a ruler from 0 to 1; NaN where there is none."""
    if row.kind == "choice":
        place = {choice: i / (len(row.choices) - 1) for i, choice in enumerate(row.choices)}
        middle = values.map(place).to_numpy(dtype=float)
        return middle + np.random.default_rng(0).uniform(-0.02, 0.02, len(values))
    low, high = row.bounds
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    norm = LogNorm(low, high) if row.is_log else Normalize(low, high)
    return np.asarray(norm(np.ma.masked_invalid(numbers)).filled(np.nan))


def _ticks(row: Parameter) -> list[tuple[float, str]]:
    """Heights of a ruler's marks, and what they say."""
    if row.kind == "choice":
        return [(i / (len(row.choices) - 1), str(choice)) for i, choice in enumerate(row.choices)]
    low, high = row.bounds
    norm = LogNorm(low, high) if row.is_log else Normalize(low, high)
    if row.is_integer and high - low <= 4:
        return [(float(norm(v)), str(v)) for v in range(int(low), int(high) + 1)]
    inner = [norm.inverse(share) for share in (0, 0.5, 1)]
    values = [round(float(v)) if row.is_integer else float(v) for v in inner]
    return [
        (float(norm(v)), format_value(v if row.is_integer else float(f"{v:.2g}"))) for v in values
    ]


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
