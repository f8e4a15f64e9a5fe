"""What all figures share: one style, colours, and how axes are scaled and named."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from search.parameter import Parameter, Value
from search.text import format_value

P = ParamSpec("P")
T = TypeVar("T")

STYLE: Any = {  # the stubs want a dictionary of literal keys
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 10,
}
MOST_PLACES = 9
"""Whole-number settings of so many values are shown like choices."""
WIDTH = 8.0
"""Inches; 800 pixels at README size."""
STATE_COLORS = {
    "COMPLETE": "#0072B2",
    "PRUNED": "#E69F00",
    "FAILED": "#000000",
    "CANCELLED": "#999999",
    "RUNNING": "#56B4E9",
    "WAITING": "#CCCCCC",
}
"""Okabe and Ito's palette."""
STATE_MARKERS = {"COMPLETE": "o", "PRUNED": "v"}
LOSS_COLORS = "viridis"
"""Low losses dark, so that they stand out on white."""
ORDER_COLORS = "viridis_r"
"""Late trials dark."""


settings_lock = threading.RLock()
"""Held while matplotlib's settings, which are the process', are others than the user's."""


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Draw under `STYLE`, one thread at a time, and leave the user's own settings as they were."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with settings_lock, mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def new_figure(height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, ``height`` inches high."""
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def literal(value: object) -> str:
    """Text of the user's as he wrote it: matplotlib takes what is between two dollars for TeX."""
    return str(value).replace("$", r"\$")


class EmptyFigure(Figure):
    """A figure that says why it shows nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(figsize=(WIDTH, 2.0))
        self.reason = reason
        FigureCanvasAgg(self)
        axes = self.add_subplot()
        axes.set_axis_off()
        told = f"Nothing to show: {reason}."
        axes.text(0.5, 0.5, told, ha="center", va="center", color="#666666")


def loss_limits(losses: pd.Series[float]) -> tuple[float, float]:
    """Lowest and highest loss worth showing: a few diverged trials must not flatten the rest."""
    finite = losses[np.isfinite(losses)]
    low, high = float(finite.min()), float(finite.max())
    quartile, median = float(finite.quantile(0.25)), float(finite.median())
    high = min(high, max(float(finite.quantile(0.9)), median + 6 * (median - quartile)))
    room = 0.06 * (high - low) or 0.05 * abs(low) or 0.05
    return low - room * 2.5, high + room


def loss_axis(axes: Axes, losses: pd.Series[float], shown: pd.DataFrame) -> float:
    """Show the losses that matter on the y axis, and say how many lie above it.

    Args:
        axes: Whose y axis.
        losses: What the range is chosen by.
        shown: All that is drawn.

    Returns:
        The upper end.
    """
    low, high = loss_limits(losses)
    axes.set_ylim(low, high)
    axes.set_ylabel(loss_label(shown, high))
    return high


def loss_label(frame: pd.DataFrame, high: float = math.inf) -> str:
    """The name of a frame's loss, and how many losses lie above an axis' end."""
    above = int((frame["loss"] > high).sum())
    return str(frame.attrs.get("loss", "loss")) + (f", {above} above" if above else "")


def told_trials(done: pd.DataFrame) -> str:
    """How many trials a figure rests on (`search.results.judged`), and how many were pruned."""
    return told_count(len(done), int((done["state"] == "PRUNED").sum()))


def told_markers(done: pd.DataFrame) -> str:
    """What a title says of pruned trials' marker, where there are some."""
    return "; triangle: pruned" if (done["state"] == "PRUNED").any() else ""


def told_count(trials: int, pruned: int) -> str:
    """As `told_trials`."""
    if not pruned:
        return f"n = {trials} complete trials"
    return f"n = {trials} trials; {pruned} pruned, at their least loss"


def few_values(row: Parameter) -> tuple[Value, ...]:
    """The values of a setting that takes one of a few; empty for a range."""
    if row.kind == "choice":
        return row.choices
    low, high = row.bounds
    few = row.is_integer and not row.is_log and high - low < MOST_PLACES
    return tuple(range(int(low), int(high) + 1)) if few else ()


def setting_axis(axes: Axes, row: Parameter) -> None:
    """Scale and tick the x axis as the setting is searched: its range, its prior, whole numbers."""
    low, high = row.bounds
    if row.is_log:
        axes.set_xscale("log", base=2 if row.is_integer else 10)
        ratio = (high / low) ** 0.06
        axes.set_xlim(low / ratio, high * ratio)
        if row.is_integer:
            first, last = int(np.ceil(np.log2(low))), int(np.floor(np.log2(high)))
            axes.xaxis.set_major_locator(FixedLocator([2.0**p for p in range(first, last + 1)]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(LogLocator(base=10, numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
        _tick_short_range(axes, row)
        return
    room = 0.06 * (high - low)
    axes.set_xlim(low - room, high + room)


def _tick_short_range(axes: Axes, row: Parameter) -> None:
    """Tick a log range at its ends and middle where it holds too few powers to be read by."""
    left, right = axes.get_xlim()
    if sum(left <= tick <= right for tick in axes.get_xticks()) >= 2:
        return
    low, high = row.bounds
    middle = math.sqrt(low * high)
    ticks = sorted({low, round(middle) if row.is_integer else middle, high})
    rounded = ticks if row.is_integer else [float(f"{tick:.3g}") for tick in ticks]
    axes.set_xticks(ticks, [format_value(tick) for tick in rounded])
