"""The figure of rankings and ablations: settings that were trained again, beside the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from search.plot_style import EmptyFigure, literal, new_figure, styled
from search.text import format_value

BETTER, WORSE, ALIKE = "#0072B2", "#D55E00", "#666666"


@styled
def settings_again(rows: Sequence[Mapping[str, Any]], loss: str) -> Figure:
    """Loss of each of the settings: each seed a dot, the mean with its interval, the first a line.

    Args:
        rows: `search.again.comparison`.
        loss: Names the loss.
    """
    shown = [row for row in rows if row["losses"]]
    if not shown:
        return EmptyFigure("none of the settings was trained to its end yet")
    figure, axes = new_figure(height=2.0 + 0.36 * len(shown))
    for place, row in enumerate(shown):
        _row(axes, -place, row)
    first = shown[0]["loss_mean"] if shown[0] is rows[0] else None
    if first is not None:
        axes.axvline(first, color=ALIKE, lw=1.2, ls="--", zorder=1)
    axes.set_yticks([-place for place in range(len(shown))], [_name(row) for row in shown])
    axes.set_ylim(0.6 - len(shown), 0.6)
    axes.grid(visible=False, axis="y")
    _loss_axis(axes, shown)
    axes.set_xlabel(loss)
    axes.set_title("Settings trained again with other seeds\n(right: mean loss beside the first's)")
    _legend(figure)
    return figure


def _row(axes: Axes, place: int, row: Mapping[str, Any]) -> None:
    axes.scatter(row["losses"], [place] * len(row["losses"]), s=22, color="#BBBBBB", zorder=2)
    if row["loss_mean"] is None:  # with some seed it diverged
        return
    color = _color(row["ratio_interval"])
    if row["loss_interval"]:
        axes.hlines(place, *row["loss_interval"], color=color, lw=1.8, zorder=3)
    axes.scatter(row["loss_mean"], place, s=52, color=color, zorder=4)
    if row["ratio_mean"] is not None:
        told = f"{100 * (row['ratio_mean'] - 1):+.0f} %"
        axes.annotate(
            told, (1.01, place), xycoords=("axes fraction", "data"), va="center", color=color
        )


def _color(ratio: tuple[float, float] | None) -> str:
    """By whether the interval of the losses' ratio to the first's lies on one side of 1."""
    if ratio is None or ratio[0] <= 1 <= ratio[1]:
        return ALIKE
    return WORSE if ratio[0] > 1 else BETTER


def _name(row: Mapping[str, Any]) -> str:
    lost = f" ({row['diverged']} of {row['trainings']} diverged)" if row["diverged"] else ""
    return literal(row["settings"]) + lost


def _loss_axis(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """A logarithmic axis, as the intervals are, with round numbers at it."""
    losses = np.concatenate([row["losses"] for row in rows])
    if losses.min() <= 0:
        return
    axes.set_xscale("log")
    ends = [end for row in rows for end in row["loss_interval"] or ()]
    low, high = min([*losses, *ends]), max([*losses, *ends])
    axes.set_xlim(low / 1.05, high * 1.05)
    steps = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8] if high < 3 * low else [1, 1.5, 2, 3, 5, 7]
    places = [step * 10.0**power for power in range(-9, 9) for step in steps]
    axes.set_xticks([place for place in places if low / 1.05 <= place <= high * 1.05])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value)))
    axes.minorticks_off()


def _legend(figure: Figure) -> None:
    def dot(color: str, size: float, label: str) -> Line2D:
        return Line2D([], [], color=color, marker="o", ms=size, ls="", label=label)

    handles = [
        dot("#BBBBBB", 5, "a seed"),
        dot(ALIKE, 7, "mean, 95 % interval over seeds"),
        dot(BETTER, 7, "better than the first,"),
        dot(WORSE, 7, "worse: beyond chance"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
