"""Figures of what workers did when; `search.plots` offers them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from search.plot_style import STATE_COLORS, EmptyFigure, new_figure, styled


@styled
def worker_timeline(frame: pd.DataFrame) -> Figure:
    """What each worker's slots ran when: one bar for the latest attempt at each trial.

    Args:
        frame: `search.results.trials_frame`; running trials extend to the latest time known.
    """
    shown = frame[frame["started_at"].notna() & frame["worker"].notna()].copy()
    if shown.empty:
        return EmptyFigure("no trial has started")
    start = shown["started_at"].min()
    latest = max(shown["started_at"].max(), shown["finished_at"].max())
    shown["begin"] = (shown["started_at"] - start).dt.total_seconds() / 60
    shown["end"] = (shown["finished_at"].fillna(latest) - start).dt.total_seconds() / 60
    lanes = _lanes(shown)
    names = sorted({(worker, lane) for worker, lane in zip(shown["worker"], lanes, strict=True)})
    rows = np.array([names.index(key) for key in zip(shown["worker"], lanes, strict=True)])
    figure, axes = new_figure(height=min(10.0, 1.9 + 0.36 * len(names)))
    gap = 0.6 if len(shown) < 300 else 0.0
    for state in shown["state"].unique():
        own = (shown["state"] == state).to_numpy()
        axes.barh(
            rows[own],
            (shown["end"] - shown["begin"])[own],
            left=shown["begin"][own],
            height=0.72,
            color=STATE_COLORS[state],
            edgecolor="white",
            linewidth=gap,
            label=f"{state.lower()} ({own.sum()})",
        )
    again = (shown["attempt"] > 1).to_numpy()
    if again.any():
        label = f"ran before ({again.sum()})"
        axes.plot(shown["begin"][again], rows[again], "k>", ms=5, label=label)
    axes.set_yticks(
        range(len(names)),
        [_short(worker) if lane == 0 else f"slot {lane + 1}" for worker, lane in names],
    )
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("time since the first start (min)")
    busy = (shown["end"] - shown["begin"]).sum() / max(shown["end"].max() * len(names), 1e-9)
    axes.set_title(f"{len(names)} slots, {busy:.0%} busy")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


@styled
def throughput(frame: pd.DataFrame) -> Figure:
    """Trials that have ended, by state, against the time since the study began.

    Args:
        frame: `search.results.trials_frame`.
    """
    ended = frame[frame["finished_after_s"].notna()].sort_values("finished_after_s")
    ended = ended[ended["state"].isin(["COMPLETE", "PRUNED", "FAILED"])]
    if ended.empty:
        return EmptyFigure("no trial has finished")
    figure, axes = new_figure()
    minutes = np.append(0.0, ended["finished_after_s"].to_numpy(dtype=float) / 60)
    below = np.zeros(len(minutes))
    for state in ("COMPLETE", "PRUNED", "FAILED"):
        own = np.append(0, (ended["state"] == state).cumsum())
        if own[-1]:
            axes.fill_between(
                minutes, below, below + own, step="post", color=STATE_COLORS[state], alpha=0.75,
                label=f"{state.lower()} ({own[-1]})",
            )  # fmt: skip
        below = below + own
    axes.set_xlim(0, minutes[-1] * 1.01)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("time since the study began (min)")
    axes.set_ylabel("trials ended")
    middle = ended["duration_s"].median()
    rate = len(ended) / max(minutes[-1], 1e-9)
    axes.set_title(f"{rate:.3g} trials a minute; half of them took at most {middle:.3g} s")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


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
    return name if len(name) <= 22 else name[:21] + "…"
