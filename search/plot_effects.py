"""Figures that weigh settings against each other: importance, and what each choice led to."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from search.importance import Importance, importance
from search.parameter import Parameter
from search.plot_style import (
    STATE_COLORS,
    WIDTH,
    empty_figure,
    loss_label,
    loss_limits,
    new_figure,
    styled,
)
from search.space import Space

CLEAR, UNCLEAR, BEST = "#0072B2", "#999999", "#D55E00"
COLUMNS = 3
RESAMPLES = 400
MOST_CHOICES = 9
"""Whole-number settings of more values are no choices."""


def importance_figure(frame: pd.DataFrame, space: Space) -> Figure:
    """`setting_importance` of a study, or a figure that says why there is none yet.

    Args:
        frame: `search.results.trials_frame`.
        space: What was searched.
    """
    try:
        found = importance(frame, space)
    except ValueError as error:
        return empty_figure(str(error))
    return setting_importance(found)


@styled
def setting_importance(found: Importance) -> Figure:
    """Each setting's share of the loss' variation, its interval, and what chance alone gives.

    Args:
        found: `search.importance.importance`.
    """
    table = found.table.iloc[::-1]
    if table.empty:
        return empty_figure("no setting was varied")
    figure, axes = new_figure(height=1.5 + 0.36 * len(table))
    y = np.arange(len(table))
    colors = [CLEAR if name in found.clear else UNCLEAR for name in table["setting"]]
    axes.barh(y, table["share"], height=0.62, color=colors)
    axes.hlines(y, table["low"], table["high"], color="#222222", lw=1.4)
    axes.axvline(found.chance, color=BEST, lw=1.6, ls=(0, (4, 2)))
    for place, row in zip(y, table.itertuples(), strict=True):
        axes.annotate(
            f"{row.share:.0%}",
            (row.high, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color="#444444",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    axes.set_yticks(y, list(table["setting"]))
    axes.set_xlim(0, 1.13 * max(float(table["high"].max()), found.chance))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    measure = "of the loss' variance, alone" if found.method == "fanova" else "of the importance"
    axes.set_xlabel(f"share {measure} ({found.method})")
    axes.set_title(f"Which settings matter (n = {found.trials} complete trials)")
    told = [
        Patch(color=CLEAR, label="interval above chance"),
        Patch(color=UNCLEAR, label="not told from chance"),
        Line2D([], [], color="#222222", lw=1.4, label="90 % interval"),
        Line2D([], [], color=BEST, lw=1.6, ls=(0, (4, 2)), label="chance (9 in 10 stay below)"),
    ]
    figure.legend(handles=told, loc="outside lower center", ncols=4, fontsize=9)
    if found.warning:
        figure.suptitle(found.warning, fontsize=9.5, color="#A34700", x=0.01, ha="left")
    return figure


@styled
def choice_distributions(frame: pd.DataFrame, space: Space) -> Figure:
    """For settings with a few values: every complete trial, and each value's median loss.

    The bar around a median is its 90 % bootstrap interval: values whose bars overlap widely are not
    told apart by these trials.

    Args:
        frame: `search.results.trials_frame`.
        space: What was searched.
    """
    done = frame[(frame["state"] == "COMPLETE") & np.isfinite(frame["loss"])]
    rows = [row for row in space.rows if row.name in done and _values(row)]
    rows = [row for row in rows if done[row.name].notna().any()]
    if done.empty or not rows:
        return empty_figure("no trial is complete, or no setting has a few values")
    height = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.5 * height))
    FigureCanvasAgg(figure)
    columns = min(COLUMNS, len(rows))
    grid = figure.subplots(height, columns, sharey=True, squeeze=False)
    for axes, row in zip(grid.flat, rows, strict=False):
        _distribution_panel(axes, done, row)
    for axes in grid.flat[len(rows) :]:
        axes.set_axis_off()
    low, high = loss_limits(done["loss"])
    grid[0, 0].set_ylim(low, high)
    figure.supylabel(loss_label(done["loss"], high), fontsize=11)
    figure.suptitle(
        f"Loss by choice (n = {len(done)} complete trials; bar: median and its 90 % interval)",
        fontweight="bold",
        fontsize=12,
        x=0.01,
        ha="left",
    )
    return figure


def _values(row: Parameter) -> list[object]:
    """What a setting of few values can be; empty for a wide range."""
    if row.kind == "choice":
        return list(row.choices)
    low, high = row.bounds
    few = row.is_integer and not row.is_log and high - low < MOST_CHOICES
    return list(range(int(low), int(high) + 1)) if few else []


def _distribution_panel(axes: Axes, done: pd.DataFrame, row: Parameter) -> None:
    draw = np.random.default_rng(0)
    names = []
    for place, value in enumerate(_values(row)):
        losses = done["loss"][done[row.name] == value].to_numpy(dtype=float)
        names.append(f"{value}\n{len(losses)}")
        if not len(losses):
            continue
        x = place + draw.uniform(-0.22, 0.22, len(losses))
        axes.scatter(x, losses, s=14, color=STATE_COLORS["COMPLETE"], alpha=0.45, linewidths=0)
        low, high = _median_interval(losses, draw)
        axes.vlines(place, low, high, color=BEST, lw=5, alpha=0.45, zorder=3)
        axes.hlines(np.median(losses), place - 0.32, place + 0.32, color=BEST, lw=2.4, zorder=4)
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(f"{row.name} (below: trials)", fontsize=9.5)


def _median_interval(losses: NDArray[np.float64], draw: np.random.Generator) -> tuple[float, float]:
    medians = np.median(draw.choice(losses, size=(RESAMPLES, len(losses))), axis=1)
    low, high = np.quantile(medians, [0.05, 0.95])
    return float(low), float(high)


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
    for place, name in enumerate(names):
        values = frame[accuracy][frame[group] == name].dropna().to_numpy(dtype=float)
        x = place + draw.uniform(-0.2, 0.2, len(values))
        axes.scatter(x, values, s=22, color=CLEAR, alpha=0.45, linewidths=0)
        axes.vlines(place, *_median_interval(values, draw), color=BEST, lw=6, alpha=0.45, zorder=3)
        axes.hlines(np.median(values), place - 0.3, place + 0.3, color=BEST, lw=2.4, zorder=4)
    counts = frame.groupby(group)[accuracy].count()
    axes.set_xticks(range(len(names)), [f"{name}\nn = {counts[name]}" for name in names])
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(visible=False, axis="x")
    axes.set_ylabel(what)
    axes.set_title("Every trial a dot; bar: median and its 90 % interval")
    return figure


def median_difference(
    first: pd.Series[float], second: pd.Series[float], *, seed: int = 0
) -> tuple[float, float, float]:
    """How much higher the median of ``first`` is, with its 95 % bootstrap interval."""
    draw = np.random.default_rng(seed)
    a, b = (one.dropna().to_numpy(dtype=float) for one in (first, second))
    drawn = np.median(draw.choice(a, (4000, len(a))), axis=1) - np.median(
        draw.choice(b, (4000, len(b))), axis=1
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.median(a) - np.median(b)), float(low), float(high)
