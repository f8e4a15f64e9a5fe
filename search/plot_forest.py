"""Figures of what forests make of trials: which settings matter, alone and together, and how."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from search import importance as weigh
from search.importance import Importance
from search.parameter import Parameter
from search.plot_style import (
    LOSS_COLORS,
    WIDTH,
    EmptyFigure,
    few_values,
    literal,
    loss_label,
    new_figure,
    setting_axis,
    styled,
    told_count,
)
from search.space import Space
from search.text import format_value

CLEAR, UNCLEAR, CHANCE = "#0072B2", "#999999", "#D55E00"
COLUMNS = 4
MOST_PAIRS = 6
"""Pairs of settings that are shown: the strongest."""


def importance_figure(frame: pd.DataFrame, space: Space) -> Figure:
    """`setting_importance` of a study, or a figure that says why there is none yet.

    Args:
        frame: `search.results.trials_frame`.
        space: What was searched.
    """
    try:
        found = weigh.importance(frame, space)
    except ValueError as error:
        return EmptyFigure(str(error))
    return setting_importance(found)


def effects_figure(frame: pd.DataFrame, space: Space) -> Figure:
    """`marginal_effects` of a study, or a figure that says why there are none yet.

    Args:
        frame: `search.results.trials_frame`.
        space: What was searched.
    """
    try:
        found, effects = weigh.importance(frame, space), weigh.marginal_effects(frame, space)
    except ValueError as error:
        return EmptyFigure(str(error))
    return marginal_effects(effects, found, space, loss_label(frame))


def interactions_figure(frame: pd.DataFrame, space: Space) -> Figure:
    """`setting_interactions` of a study, or a figure that says why there are none yet.

    Args:
        frame: `search.results.trials_frame`.
        space: What was searched.
    """
    try:
        found = weigh.interactions(frame, space)
        if found.table.empty:
            return EmptyFigure("fewer than two settings were varied")
        first, second = (str(found.table[one][0]) for one in ("first", "second"))
        surface = weigh.pair_effect(frame, space, first, second)
    except ValueError as error:
        return EmptyFigure(str(error))
    return setting_interactions(found, surface, space, loss_label(frame))


@styled
def setting_importance(found: Importance) -> Figure:
    """Each setting's share of the loss' variation, its interval, and what chance alone gives.

    Args:
        found: `search.importance.importance`.
    """
    if found.table.empty:
        return EmptyFigure("no setting was varied")
    figure, axes = new_figure(height=1.7 + 0.36 * len(found.table))
    _share_bars(axes, found, [_named(row, found) for _, row in found.table.iterrows()])
    axes.set_xlabel("share of the loss' variance that the setting explains alone (fANOVA)")
    axes.set_title(f"Which settings matter\n({told_count(found.trials, found.pruned)})")
    _share_legend(figure, found)
    return figure


@styled
def setting_interactions(
    found: Importance, surface: pd.DataFrame, space: Space, loss: str
) -> Figure:
    """The strongest pairs of settings, and the loss to expect over the first pair's values.

    Args:
        found: `search.importance.interactions`.
        surface: `search.importance.pair_effect` of the strongest pair.
        space: What was searched.
        loss: Names the loss.
    """
    shown = Importance(
        found.table.head(MOST_PAIRS), found.chance, found.trials, found.pruned, found.warning
    )
    figure = Figure(figsize=(WIDTH, 5.0))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    _share_bars(left, shown, list(shown.table["first"] + "\nx " + shown.table["second"]))
    left.tick_params(axis="y", labelsize=8.5)
    left.set_xlabel("share of variance, beyond each alone", fontsize=9.5)
    left.set_title("Strongest pairs", fontsize=11)
    if surface.shape[0] > surface.shape[1]:
        surface = surface.T
    image = right.pcolormesh(surface.to_numpy(), cmap=LOSS_COLORS, ec="white", lw=0.4)
    rows = {row.name: row for row in space.rows}
    right.set_xticks(*_cell_ticks(list(surface.columns), rows[str(surface.columns.name)]))
    right.set_yticks(*_cell_ticks(list(surface.index), rows[str(surface.index.name)]))
    right.tick_params(labelsize=9, length=0)
    right.grid(visible=False)
    right.set(xlabel=literal(surface.columns.name), ylabel=literal(surface.index.name))
    right.set_title("The strongest: loss to expect", fontsize=11)
    bar = figure.colorbar(image, ax=right, pad=0.02)
    bar.set_label(f"{loss}, others varied")
    bar.outline.set_visible(False)
    title = f"Settings that matter together\n({told_count(found.trials, found.pruned)})"
    figure.suptitle(title, fontweight="bold", fontsize=12, x=0.01, ha="left")
    _share_legend(figure, found)
    return figure


@styled
def marginal_effects(effects: pd.DataFrame, found: Importance, space: Space, loss: str) -> Figure:
    """A panel a setting, most important first: the loss to expect of its values, others varied.

    Args:
        effects: `search.importance.marginal_effects`.
        found: `search.importance.importance`, for the order.
        space: What was searched.
        loss: Names the loss.
    """
    names = list(found.table["setting"])
    if not names:
        return EmptyFigure("no setting was varied")
    rows = {row.name: row for row in space.rows}
    height = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 1.5 + 2.1 * height))
    FigureCanvasAgg(figure)
    grid = figure.subplots(height, min(COLUMNS, len(names)), sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        color = CLEAR if name in found.clear else UNCLEAR
        _effect_panel(axes, effects[effects["setting"] == name], rows[name], color)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    figure.supylabel(f"{loss} to expect", fontsize=11)
    counted = told_count(found.trials, found.pruned)
    title = f"What each value does, all other settings varied\n({counted})"
    figure.suptitle(title, fontweight="bold", fontsize=12, x=0.01, ha="left")
    told = [
        Line2D([], [], color=CLEAR, marker="o", ms=4, label="matters more than chance gives"),
        Line2D([], [], color=UNCLEAR, marker="o", ms=4, label="not told from chance"),
        Patch(color=UNCLEAR, alpha=0.3, label="90 % interval"),
    ]
    figure.legend(handles=told, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _effect_panel(axes: Axes, own: pd.DataFrame, row: Parameter, color: str) -> None:
    loss, low, high = (own[name].to_numpy(dtype=float) for name in ("loss", "low", "high"))
    few = few_values(row)
    if few:
        x = np.arange(len(few))
        axes.errorbar(x, loss, [loss - low, high - loss], fmt="o", ms=5, color=color, capsize=3)
        every = 2 if len(few) > 6 and not isinstance(few[0], str) else 1
        labels = [literal(value) for value in few]
        axes.set_xticks(x[::every], labels[::every])
        axes.set_xlim(-0.6, len(few) - 0.4)
        axes.tick_params(axis="x", rotation=40 if len("".join(labels[::every])) > 14 else 0)
        axes.grid(visible=False, axis="x")
    else:
        x = own["value"].to_numpy(dtype=float)
        axes.fill_between(x, low, high, color=color, alpha=0.25, lw=0)
        axes.plot(x, loss, "o-", ms=3, lw=1.6, color=color)
        setting_axis(axes, row)
    axes.tick_params(labelsize=9)
    axes.set_xlabel(literal(row.name), fontsize=9.5)


def _share_bars(axes: Axes, found: Importance, names: list[str]) -> None:
    """Bars with intervals, the largest on top, and the line of chance."""
    table = found.table
    y = np.arange(len(table))
    axes.barh(y, table["share"], 0.62, color=np.where(table["clear"], CLEAR, UNCLEAR))
    axes.hlines(y, table["low"], table["high"], color="#222222", lw=1.4)
    axes.axvline(found.chance, color=CHANCE, lw=1.6, ls=(0, (4, 2)))
    end = max(float(table["high"].max()), found.chance)
    digits = 0 if end >= 0.1 else 1
    for place, share, high in zip(y, table["share"], table["high"], strict=True):
        axes.annotate(
            f"{share:.{digits}%}",
            (high, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color="#444444",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    axes.set_yticks(y, list(map(literal, names)))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * end or 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _share_legend(figure: Figure, found: Importance) -> None:
    told = [
        Patch(color=CLEAR, label="interval above chance"),
        Patch(color=UNCLEAR, label="not told from chance"),
        Line2D([], [], color="#222222", lw=1.4, label="90 % interval"),
        Line2D([], [], color=CHANCE, lw=1.6, ls=(0, (4, 2)), label="chance (9 in 10 stay below)"),
    ]
    legend = figure.legend(
        handles=told, loc="outside lower center", ncols=4, fontsize=9, title_fontsize=9,
        title=textwrap.fill(found.warning, 110) or None,
    )  # fmt: skip
    legend.get_title().set_color("#A34700")


def _named(row: pd.Series[str], found: Importance) -> str:
    """A setting's name; a conditional one with the number of trials that have it."""
    partly = int(row["trials"]) < found.trials
    return f"{row['setting']} (of {row['trials']})" if partly else str(row["setting"])


def _cell_ticks(values: list[object], row: Parameter) -> tuple[list[float], list[str]]:
    """Places and names of a few of a setting's cells."""
    every = 1 if row.kind == "choice" else -(-len(values) // 5)
    places = list(range(0, len(values), every))
    names = [_rounded(values[place], row) for place in places]
    return [place + 0.5 for place in places], names


def _rounded(value: object, row: Parameter) -> str:
    if not isinstance(value, float):
        return literal(value)
    return str(round(value)) if row.is_integer else format_value(float(f"{value:.2g}"))
