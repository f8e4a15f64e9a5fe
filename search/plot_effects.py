"""Figures of what choices led to: every trial, medians and how sure they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from search.medians import median_interval
from search.parameter import Parameter
from search.plot_style import (
    STATE_COLORS,
    STATE_MARKERS,
    WIDTH,
    EmptyFigure,
    few_values,
    literal,
    loss_label,
    loss_limits,
    new_figure,
    styled,
    told_markers,
    told_trials,
)
from search.results import judged, param_values
from search.space import Space

BEST = "#D55E00"
COLUMNS = 3


@styled
def choice_distributions(frame: pd.DataFrame, space: Space) -> Figure:
    """For settings with a few values: all trials, pruned ones marked, and each value's median.

    The box around a median is its 90 % bootstrap interval: values whose boxes overlap widely are
    not told apart by these trials.

    Args:
        frame: `search.results.trials_frame`; of it `search.results.judged` counts.
        space: What was searched.
    """
    done = judged(frame)
    rows = [row for row in space.rows if few_values(row)]
    rows = [row for row in rows if param_values(done, row.name).notna().any()]
    if done.empty or not rows:
        return EmptyFigure("no trial is complete, or no setting has a few values")
    height = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.9 + 2.5 * height))
    FigureCanvasAgg(figure)
    columns = min(COLUMNS, len(rows))
    grid = figure.subplots(height, columns, sharey=True, squeeze=False)
    for axes, row in zip(grid.flat, rows, strict=False):
        _distribution_panel(axes, done, row)
    for axes in grid.flat[len(rows) :]:
        axes.set_axis_off()
    low, high = loss_limits(done["loss"])
    grid[0, 0].set_ylim(low, high)
    figure.supylabel(loss_label(done, high), fontsize=11)
    figure.suptitle(
        f"Loss by choice, median and its 90 % interval{told_markers(done)}\n({told_trials(done)})",
        fontweight="bold",
        fontsize=12,
        x=0.01,
        ha="left",
    )
    return figure


def _distribution_panel(axes: Axes, done: pd.DataFrame, row: Parameter) -> None:
    draw = np.random.default_rng(0)
    names = []
    for place, value in enumerate(few_values(row)):
        own = done[param_values(done, row.name) == value]
        names.append(f"{literal(value)}\n{len(own)}")
        x = place + draw.uniform(-0.22, 0.22, len(own))
        for state, marker in STATE_MARKERS.items():
            these = (own["state"] == state).to_numpy()
            axes.scatter(x[these], own["loss"][these], s=14, marker=marker, linewidths=0,
                         color=STATE_COLORS[state], alpha=0.5)  # fmt: skip
        if len(own):
            _median_box(axes, place, own["loss"].to_numpy(dtype=float))
    axes.set_xticks(range(len(names)), names, fontsize=9)
    if len("".join(names)) > 40:
        axes.tick_params(axis="x", rotation=40)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(f"{literal(row.name)} (below: trials)", fontsize=9.5)


def _median_box(axes: Axes, place: float, values: NDArray[np.float64]) -> None:
    """A median as a line across a box, its interval; a narrow box still shows its edges."""
    low, high = median_interval(values)
    box = Rectangle(
        (place - 0.32, low), 0.64, high - low, facecolor=(*to_rgb(BEST), 0.25), zorder=3
    )
    box.set(edgecolor=BEST, linewidth=0.9)
    axes.add_patch(box)
    axes.hlines(np.median(values), place - 0.32, place + 0.32, color="black", lw=1.4, zorder=4)


@styled
def accuracy_by_group(frame: pd.DataFrame, group: str, accuracy: str, what: str) -> Figure:
    """Accuracies of trials in groups: every trial a dot, medians with their 90 % interval.

    Args:
        frame: One row a trial.
        group: Column that names a trial's group; groups are shown in order of appearance.
        accuracy: Column of the accuracy, a share.
        what: Names the accuracy: whose, and chosen how.
    """
    draw = np.random.default_rng(0)
    names = list(dict.fromkeys(frame[group]))
    figure, axes = new_figure()
    told = []
    for place, name in enumerate(names):
        values = frame[accuracy][frame[group] == name].dropna().to_numpy(dtype=float)
        x = place + draw.uniform(-0.2, 0.2, len(values))
        axes.scatter(x, values, s=22, color=STATE_COLORS["COMPLETE"], alpha=0.45, linewidths=0)
        _median_box(axes, place, values)
        low, high = median_interval(values)
        told.append(
            f"{literal(name)}, n = {len(values)}\n"
            f"median {100 * np.median(values):.2f} %\n({100 * low:.2f} to {100 * high:.2f} %)"
        )
    axes.set_xticks(range(len(names)), told, fontsize=9)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(visible=False, axis="x")
    axes.set_ylabel(what)
    axes.set_title("Every trial a dot; line: median, box: its 90 % interval")
    return figure
