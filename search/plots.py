"""Figures of a study. Each is a function of a DataFrame of `search.results` and returns a Figure.

Figures are made without pyplot: no display, no global state. Colours are Okabe and Ito's for names
and viridis for amounts; both can be told apart by colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from search.plot_effects import choice_distributions
from search.plot_forest import (
    effects_figure,
    importance_figure,
    interactions_figure,
    marginal_effects,
    setting_importance,
    setting_interactions,
)
from search.plot_settings import (
    loss_against_settings,
    parallel_coordinates,
    window_heads_heatmap,
)
from search.plot_style import (
    STATE_COLORS,
    STATE_MARKERS,
    STYLE,
    empty_figure,
    loss_axis,
    loss_label,
    loss_limits,
    new_figure,
    settings_lock,
    styled,
)
from search.space import Space

__all__ = [
    "KINDS",
    "best_loss_over_trials",
    "check_file_type",
    "choice_distributions",
    "effects_figure",
    "importance_figure",
    "interactions_figure",
    "learning_curves",
    "loss_against_settings",
    "marginal_effects",
    "parallel_coordinates",
    "save_figure",
    "setting_importance",
    "setting_interactions",
    "throughput",
    "window_heads_heatmap",
    "worker_timeline",
    "write_figure",
]

FILE_TYPES = ("png", "svg", "pdf")
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
    shown = frame.assign(x=x)[frame["loss"].notna() & x.notna()].sort_values("x")
    complete = shown[shown["state"] == "COMPLETE"]
    failed = frame.assign(x=x)[(frame["state"] == "FAILED") & x.notna()]
    if shown.empty and failed.empty:
        return empty_figure("no trial has finished")
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
    """The loss at every step: the best trials in colour, pruned ones marked where they end.

    Args:
        reports: `search.results.reports_frame`.
    """
    reports = reports[np.isfinite(reports["loss"])]
    if reports.empty:
        return empty_figure("no trial has reported a step")
    figure, axes = new_figure()
    curves = {int(n): curve for n, curve in reports.groupby("number")}  # type: ignore[arg-type]  # n is a number
    ranked = sorted(curves, key=lambda number: curves[number]["loss"].min())
    best = [n for n in ranked if curves[n]["state"].iloc[0] == "COMPLETE"][:3]
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
            label=f"trial {number}: {curve['loss'].min():.3g}",
            zorder=4,
        )
    _state_legend(axes, reports.drop_duplicates("number")["state"])
    settled = reports["loss"][reports["step"] > reports["step"].max() / 3]  # not the steep start
    axes.set_ylim(loss_limits(settled))
    axes.set_ylabel(loss_label(reports))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step (for the LARNN: epoch)")
    left_out = f", {len(best) + len(rest)} drawn" if len(best) + len(rest) < len(curves) else ""
    axes.set_title(f"Learning curves (n = {len(curves)} trials{left_out})")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


@styled
def worker_timeline(frame: pd.DataFrame) -> Figure:
    """What each worker's slots ran when: one bar for the latest attempt at each trial.

    Args:
        frame: `search.results.trials_frame`; running trials extend to the latest time known.
    """
    shown = frame[frame["started_at"].notna() & frame["worker"].notna()].copy()
    if shown.empty:
        return empty_figure("no trial has started")
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
        return empty_figure("no trial has finished")
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


@dataclass(frozen=True)
class Kind:
    """A figure that ``larnn-search plot`` can draw."""

    doc: str
    draw: Callable[[pd.DataFrame, pd.DataFrame, Space], Figure]
    """From `trials_frame`, `reports_frame` and the study's space."""


KINDS: dict[str, Kind] = {
    "best": Kind(
        "best loss over trials", lambda trials, reports, space: best_loss_over_trials(trials)
    ),
    "best-time": Kind(
        "best loss over time",
        lambda trials, reports, space: best_loss_over_trials(trials, by_time=True),
    ),
    "settings": Kind(
        "loss against each searched setting",
        lambda trials, reports, space: loss_against_settings(trials, space),
    ),
    "curves": Kind(
        "learning curves, pruned ones marked",
        lambda trials, reports, space: learning_curves(reports),
    ),
    "window-heads": Kind(
        "least loss by window size and number of heads",
        lambda trials, reports, space: window_heads_heatmap(trials),
    ),
    "parallel": Kind(
        "all settings of all trials side by side",
        lambda trials, reports, space: parallel_coordinates(trials, space),
    ),
    "choices": Kind(
        "loss by activation, layers and other choices, with intervals",
        lambda trials, reports, space: choice_distributions(trials, space),
    ),
    "importance": Kind(
        "share of the loss' variation that each setting explains",
        lambda trials, reports, space: importance_figure(trials, space),
    ),
    "effects": Kind(
        "loss to expect of each value of a setting, the others varied",
        lambda trials, reports, space: effects_figure(trials, space),
    ),
    "interactions": Kind(
        "pairs of settings that matter together, the strongest as a map",
        lambda trials, reports, space: interactions_figure(trials, space),
    ),
    "throughput": Kind(
        "trials finished over time", lambda trials, reports, space: throughput(trials)
    ),
    "timeline": Kind(
        "what each worker ran when", lambda trials, reports, space: worker_timeline(trials)
    ),
}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as png, svg or pdf, by the path's suffix; the same figure, the same bytes.

    Raises:
        ValueError: For another suffix.
    """
    write_figure(figure, path, check_file_type(path))


def check_file_type(path: Path) -> str:
    """The type of figure that a path's suffix asks for: png, svg or pdf.

    Raises:
        ValueError: For another suffix.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FILE_TYPES:
        found = f"{path.suffix!r}" if path.suffix else "none"
        raise ValueError(
            f"a figure's file ends in .{', .'.join(FILE_TYPES)}; {path.name!r} ends in {found}"
        )
    return kind


def write_figure(figure: Figure, target: Path | IO[bytes], kind: str) -> None:
    """Write a figure of type png, svg or pdf to a file, without a date."""
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with settings_lock, mpl.rc_context({"svg.hashsalt": "larnn-search"}):
        figure.savefig(target, format=kind, dpi=STYLE["savefig.dpi"], metadata=undated[kind])


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
