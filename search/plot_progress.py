"""Figures of how a search goes, trial by trial and step by step; `search.plots` offers them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from search.plot_style import (
    STATE_COLORS,
    STATE_MARKERS,
    EmptyFigure,
    loss_axis,
    loss_label,
    loss_limits,
    new_figure,
    styled,
)

MOST_CURVES = 150
"""Learning curves drawn at most: the best, and of the rest an even selection."""


@styled
def best_loss_over_trials(frame: pd.DataFrame, *, by_time: bool = False) -> Figure:
    """Each trial's loss as a dot, and the best complete one until then as a line.

    Args:
        frame: `search.results.trials_frame`.
        by_time: Order by minutes since the study's start instead of trial numbers.
    """
    x = frame["finished_after_s"] / 60 if by_time else frame["number"]
    shown = frame.assign(x=x)[np.isfinite(frame["loss"]) & x.notna()].sort_values("x")
    complete = shown[shown["state"] == "COMPLETE"]
    failed = frame.assign(x=x)[(frame["state"] == "FAILED") & x.notna()]
    if shown.empty:  # failed ones alone give the axis no range
        return EmptyFigure("no trial has finished with a loss")
    figure, axes = new_figure()
    top = loss_axis(axes, complete["loss"] if len(complete) else shown["loss"], shown)
    for state in ("PRUNED", "COMPLETE"):
        part = shown[shown["state"] == state]
        if len(part):
            axes.scatter(
                part["x"],
                part["loss"].clip(upper=top),
                clip_on=False,
                s=_dot_size(len(frame)),
                marker=STATE_MARKERS[state],
                c=STATE_COLORS[state],
                alpha=0.6,
                linewidths=0.9 if state == "PRUNED" else 0,
                label=f"{state.lower()} ({len(part)})",
                zorder=2,
            )
    if len(complete):
        _running_best(axes, complete, end=float(x.max()))
    if len(failed):
        axes.plot(
            failed["x"],
            np.full(len(failed), 0.015),
            "x",
            color=STATE_COLORS["FAILED"],
            transform=axes.get_xaxis_transform(),
            label=f"failed ({len(failed)})",
        )
    axes.set_xlabel("time since the study began (min)" if by_time else "trial, in order of start")
    axes.set_title(f"Best loss over {'time' if by_time else 'trials'}")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


@styled
def learning_curves(reports: pd.DataFrame) -> Figure:
    """The loss at every step: the trials of least loss in colour, pruned ones marked at their end.

    Args:
        reports: `search.results.reports_frame`.
    """
    reports = reports[np.isfinite(reports["loss"])]
    if reports.empty:
        return EmptyFigure("no trial has reported a step")
    figure, axes = new_figure()
    curves = {int(n): curve for n, curve in reports.groupby("number")}  # type: ignore[arg-type]  # n is a number
    complete = reports[reports["state"] == "COMPLETE"].groupby("number")["trial_loss"].first()
    best = [int(n) for n in complete.sort_values(kind="stable").index[:3]]
    ranked = sorted(curves, key=lambda number: curves[number]["loss"].min())
    rest = [number for number in ranked if number not in best]
    rest = rest[:: max(1, -(-len(rest) // MOST_CURVES))]
    faint = float(np.clip(12 / max(1, len(rest)), 0.12, 0.5))
    for number in rest:
        curve = curves[number]
        state = str(curve["state"].iloc[0])
        axes.plot(curve["step"], curve["loss"], color=STATE_COLORS[state], alpha=faint, lw=1)
    ends = reports[reports["state"] == "PRUNED"].groupby("number").last()
    ends = ends[ends.index.isin(rest)]
    if len(ends):
        axes.plot(ends["step"], ends["loss"], "v", ms=5, color=STATE_COLORS["PRUNED"], alpha=0.8)
    for color, number in zip(("#D55E00", "#009E73", "#CC79A7"), best, strict=False):
        curve = curves[number]
        axes.plot(
            curve["step"],
            curve["loss"],
            color=color,
            lw=2.2,
            label=f"trial {number}: loss {complete[number]:.3g}",
            zorder=4,
        )
    _state_legend(axes, reports.drop_duplicates("number")["state"])
    settled = reports["loss"][reports["step"] >= reports["step"].max() / 3]  # not the steep start
    axes.set_ylim(loss_limits(settled))
    axes.set_ylabel(loss_label(reports))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step (for the LARNN: epoch)")
    left_out = f", {len(best) + len(rest)} drawn" if len(best) + len(rest) < len(curves) else ""
    axes.set_title(f"Learning curves (n = {len(curves)} trials{left_out})")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _dot_size(count: int) -> float:
    return float(np.clip(1200 / max(count, 1), 9, 42))


def _running_best(axes: Axes, complete: pd.DataFrame, end: float) -> None:
    best = complete["loss"].cummin()
    x = np.append(complete["x"].to_numpy(dtype=float), end)
    y = np.append(best.to_numpy(), best.iloc[-1])
    axes.step(x, y, where="post", color="#D55E00", lw=2.2, label="best so far", zorder=3)
    winner = complete.iloc[int(complete["loss"].argmin())]
    axes.plot(winner["x"], winner["loss"], "*", ms=15, color="#D55E00", mec="white", zorder=4)
    late = winner["x"] > (complete["x"].min() + end) / 2
    axes.annotate(
        f"trial {winner['number']}: {winner['loss']:.4g}",
        (winner["x"], winner["loss"]),
        xytext=(-8 if late else 8, -8),
        textcoords="offset points",
        ha="right" if late else "left",
        va="top",
        color="#A34700",
        fontweight="bold",
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
        zorder=5,
    )


def _state_legend(axes: Axes, states: pd.Series[str]) -> None:
    for state, count in states.value_counts().items():
        marker = "v" if state == "PRUNED" else None
        label = f"{str(state).lower()} ({count})"
        axes.plot([], [], color=STATE_COLORS[str(state)], marker=marker, ms=5, lw=1.4, label=label)
