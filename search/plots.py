"""Figures of a study. Each is a function of a DataFrame of `search.results` and returns a Figure.

Figures are made without pyplot: no display, no global state. Colours are Okabe and Ito's for names
and viridis for amounts; both can be told apart by colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

import matplotlib as mpl
from matplotlib.figure import Figure

from search.again import comparison
from search.figure_kinds import KINDS, kinds_of
from search.plot_again import settings_again
from search.plot_effects import choice_distributions
from search.plot_forest import (
    effects_figure,
    importance_figure,
    interactions_figure,
    marginal_effects,
    setting_importance,
    setting_interactions,
)
from search.plot_progress import best_loss_over_trials, learning_curves
from search.plot_settings import (
    loss_against_settings,
    parallel_coordinates,
    window_heads_heatmap,
)
from search.plot_style import STYLE, EmptyFigure, loss_label, settings_lock
from search.plot_workers import throughput, worker_timeline
from search.source import StudyData

__all__ = [
    "DRAW",
    "EmptyFigure",
    "best_loss_over_trials",
    "check_file_type",
    "choice_distributions",
    "draw",
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
    "settings_again",
    "throughput",
    "window_heads_heatmap",
    "worker_timeline",
    "write_figure",
]

FILE_TYPES = ("png", "svg", "pdf")
Draw = Callable[[StudyData], Figure]
MISSED = {
    "search": "trains what a search chose; see larnn-search summary {name}",
    "again": "is no ranking or ablation; larnn-search rank and ablate make one",
}
"""Why studies for other purposes have none of a purpose's figures."""
DRAW: dict[str, Draw] = {
    "best": lambda data: best_loss_over_trials(data.frame),
    "best-time": lambda data: best_loss_over_trials(data.frame, by_time=True),
    "importance": lambda data: importance_figure(data.frame, data.space),
    "effects": lambda data: effects_figure(data.frame, data.space),
    "interactions": lambda data: interactions_figure(data.frame, data.space),
    "settings": lambda data: loss_against_settings(data.frame, data.space),
    "choices": lambda data: choice_distributions(data.frame, data.space),
    "window-heads": lambda data: window_heads_heatmap(data.frame),
    "parallel": lambda data: parallel_coordinates(data.frame, data.space),
    "again": lambda data: settings_again(comparison(data), loss_label(data.frame)),
    "curves": lambda data: learning_curves(data.reports),
    "timeline": lambda data: worker_timeline(data.frame),
    "throughput": lambda data: throughput(data.frame),
}
"""What draws each of `figure_kinds.KINDS`."""


def draw(kind: str, data: StudyData) -> Figure:
    """One of `figure_kinds.KINDS` of a study; an `EmptyFigure` where it has nothing to show."""
    if kind not in kinds_of(data.purpose):
        name = data.study.name
        return EmptyFigure(f"{name} {MISSED[KINDS[kind].purpose].format(name=name)}")
    return DRAW[kind](data)


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
