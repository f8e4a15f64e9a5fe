"""Figures of what workers did when; `search.plots` offers them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from search.plot_style import STATE_COLORS, EmptyFigure, new_figure, styled

Minutes = NDArray[np.float64]
MOST_NAMED = 40
"""Rows whose names have room."""
PAUSE_MIN = 1.0
"""Where nothing ran for longer, figures show that something is left out."""


class RunningTime:
    """A clock that stands still while no trial runs, so that pauses do not count as idleness.

    Args:
        begin: When each trial started, in minutes, ``[n]``, ``n >= 1``.
        end: When it ended, ``[n]``.
    """

    def __init__(self, begin: Minutes, end: Minutes) -> None:
        order = np.argsort(begin, kind="stable")
        begin, latest = begin[order], np.maximum.accumulate(end[order])
        apart = begin[1:] > latest[:-1]
        starts, ends = begin[np.append(True, apart)], latest[np.append(apart, True)]
        self._known = np.column_stack([starts, ends]).ravel()
        steps = np.diff(self._known)
        gaps = steps[1::2].copy()
        steps[1::2] = 0
        self._shown = np.append(0.0, np.cumsum(steps))
        self.total = float(self._shown[-1])
        """Minutes in which any trial ran."""
        self.pauses: Minutes = self._shown[2::2][gaps > PAUSE_MIN]
        """What it showed in each gap of more than `PAUSE_MIN`."""

    def at(self, minutes: Minutes) -> Minutes:
        """What it shows at these times."""
        shown: Minutes = np.interp(minutes, self._known, self._shown)
        return shown


@styled
def worker_timeline(frame: pd.DataFrame) -> Figure:
    """What each worker's slots ran when: one bar for the latest attempt at each trial.

    Args:
        frame: `search.results.trials_frame`; running trials extend to the latest time known.
    """
    shown = _started(frame[frame["worker"].notna()])
    if shown.empty:
        return EmptyFigure("no trial has started")
    rows, names = _rows(shown)
    begin, end = (shown[name].to_numpy(dtype=float) for name in ("begin", "end"))
    clock, most = RunningTime(begin, end), _most_at_once(begin, end)
    left, width = clock.at(begin), end - begin
    figure, axes = new_figure(height=min(10.0, 1.9 + 0.36 * len(names)))
    gap = 0.6 if len(shown) < 300 else 0.0
    for state in shown["state"].unique():
        own = (shown["state"] == state).to_numpy()
        axes.barh(
            rows[own],
            width[own],
            left=left[own],
            height=0.72,
            color=STATE_COLORS[state],
            edgecolor="white",
            linewidth=gap,
            label=f"{state.lower()} ({own.sum()})",
        )
    again = (shown["attempt"] > 1).to_numpy()
    if again.any():
        axes.plot(left[again], rows[again], "k>", ms=5, label=f"ran before ({again.sum()})")
    every = -(-len(names) // MOST_NAMED)
    axes.set_yticks(range(0, len(names), every), names[::every])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    _running_axis(axes, clock)
    busy = width.sum() / max(clock.total * most, 1e-9)
    axes.set_title(f"Up to {most} trials at a time; {busy:.0%} busy while any ran")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


@styled
def throughput(frame: pd.DataFrame) -> Figure:
    """Trials that have ended, by state, against the time in which any ran.

    Args:
        frame: `search.results.trials_frame`.
    """
    started = _started(frame)
    ended = started[started["state"].isin(["COMPLETE", "PRUNED", "FAILED"])].sort_values("end")
    if ended.empty:
        return EmptyFigure("no trial has finished")
    clock = RunningTime(started["begin"].to_numpy(), started["end"].to_numpy())
    figure, axes = new_figure()
    minutes = np.append(0.0, clock.at(ended["end"].to_numpy()))
    below = np.zeros(len(minutes))
    for state in ("COMPLETE", "PRUNED", "FAILED"):
        own = np.append(0, (ended["state"] == state).cumsum())
        if own[-1]:
            axes.fill_between(
                minutes, below, below + own, step="post", color=STATE_COLORS[state], alpha=0.75,
                label=f"{state.lower()} ({own[-1]})",
            )  # fmt: skip
        below = below + own
    axes.set_xlim(0, clock.total * 1.01 or 1.0)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _running_axis(axes, clock)
    axes.set_ylabel("trials ended")
    middle = ended["duration_s"].median()
    rate = len(ended) / max(clock.total, 1e-9)
    axes.set_title(
        f"{rate:.3g} trials a minute while any ran; half of them took at most {middle:.3g} s"
    )
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _started(frame: pd.DataFrame) -> pd.DataFrame:
    """Trials that run or ran, with ``begin`` and ``end`` in minutes since the first of them did.

    Those that were interrupted and wait, or were cancelled then, are not known to the end.
    """
    shown = frame[frame["duration_s"].notna() | (frame["state"] == "RUNNING")].copy()
    start = shown["started_at"].min()
    latest = max(shown["started_at"].max(), shown["finished_at"].max())
    shown["begin"] = (shown["started_at"] - start).dt.total_seconds() / 60
    shown["end"] = (shown["finished_at"].fillna(latest) - start).dt.total_seconds() / 60
    return shown


def _most_at_once(begin: Minutes, end: Minutes) -> int:
    """How many trials ran at the same time, where most did."""
    begun = np.searchsorted(np.sort(begin), begin, side="right")
    over = np.searchsorted(np.sort(end), begin, side="right")
    return max(1, int((begun - over).max()))


def _running_axis(axes: Axes, clock: RunningTime) -> None:
    """Name the x axis, and mark where it leaves out a pause."""
    axes.set_xlabel("time in which any trial ran (min)")
    if len(clock.pauses):
        axes.vlines(
            clock.pauses, 0, 1, transform=axes.get_xaxis_transform(), color="#333333",
            linestyle="dashed", linewidth=1, label=f"pause ({len(clock.pauses)})",
        )  # fmt: skip


def _rows(frame: pd.DataFrame) -> tuple[NDArray[np.intp], list[str]]:
    """Each trial's row, one row a worker's slot, and the rows' names; who began first is first."""
    slots = [*zip(frame["worker"], _lanes(frame), strict=True)]
    first = frame.groupby("worker")["begin"].min()
    found = sorted(set(slots), key=lambda slot: (first[slot[0]], *slot))
    names = [_short(worker) if lane == 0 else f"slot {lane + 1}" for worker, lane in found]
    return np.array([found.index(slot) for slot in slots]), names


def _lanes(frame: pd.DataFrame) -> list[int]:
    """Spread each worker's trials over as few lanes as keep them from overlapping: its slots."""
    free_at: dict[str, list[float]] = {}
    lanes = np.zeros(len(frame), dtype=int)
    for index in np.argsort(frame["begin"].to_numpy(dtype=float), kind="stable"):
        begin, end = float(frame["begin"].iloc[index]), float(frame["end"].iloc[index])
        ends = free_at.setdefault(str(frame["worker"].iloc[index]), [])
        lane = next((i for i, free in enumerate(ends) if free <= begin), len(ends))
        ends[lane : lane + 1] = [end]
        lanes[index] = lane
    return [int(lane) for lane in lanes]


def _short(name: str) -> str:
    """A worker's name without its middle: hosts of one fleet begin alike."""
    return name if len(name) <= 22 else f"{name[:8]}…{name[-13:]}"
