"""Which figures of a study there are, in words: `search.plots`, which draws them, is heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FigureKind:
    """What commands and pages know of a figure."""

    doc: str
    of_searches: bool = False
    """Whether it tells of a search alone; in a ranking or final nothing is searched."""
    is_costly: bool = False
    """Whether it takes seconds: forests grow for it."""


KINDS: Mapping[str, FigureKind] = {
    "best": FigureKind("best loss over trials", of_searches=True),
    "best-time": FigureKind("best loss over time", of_searches=True),
    "importance": FigureKind(
        "share of the loss' variation that each setting explains", of_searches=True, is_costly=True
    ),
    "effects": FigureKind(
        "loss to expect of each value of a setting, the others varied",
        of_searches=True,
        is_costly=True,
    ),
    "interactions": FigureKind(
        "pairs of settings that matter together, the strongest as a map",
        of_searches=True,
        is_costly=True,
    ),
    "settings": FigureKind("loss against each searched setting", of_searches=True),
    "choices": FigureKind(
        "loss by activation, layers and other choices, with intervals", of_searches=True
    ),
    "window-heads": FigureKind("least loss by window size and number of heads", of_searches=True),
    "parallel": FigureKind("all settings of all trials side by side", of_searches=True),
    "curves": FigureKind("learning curves, pruned ones marked"),
    "timeline": FigureKind("what each worker ran when"),
    "throughput": FigureKind("trials finished over time"),
}
"""By name; the answer first, then how it was found."""
ON_PAGES = tuple(name for name in KINDS if name != "best-time")
"""What pages show: the best loss over time repeats the one over trials."""
