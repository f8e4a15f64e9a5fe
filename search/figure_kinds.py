"""Which figures of a study there are, in words: `search.plots`, which draws them, is heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FigureKind:
    """What commands and pages know of a figure."""

    doc: str
    purpose: str = ""
    """What the studies are for (`search.purpose`) that alone it tells of; empty: of every study."""
    is_costly: bool = False
    """Whether it takes seconds: forests grow for it."""


KINDS: Mapping[str, FigureKind] = {
    "best": FigureKind("best loss over trials", purpose="search"),
    "best-time": FigureKind("best loss over time", purpose="search"),
    "importance": FigureKind(
        "share of the loss' variation that each setting explains", purpose="search", is_costly=True
    ),
    "effects": FigureKind(
        "loss to expect of each value of a setting, the others varied",
        purpose="search",
        is_costly=True,
    ),
    "interactions": FigureKind(
        "pairs of settings that matter together, the strongest as a map",
        purpose="search",
        is_costly=True,
    ),
    "settings": FigureKind("loss against each searched setting", purpose="search"),
    "choices": FigureKind(
        "loss by activation, layers and other choices, with intervals", purpose="search"
    ),
    "window-heads": FigureKind("least loss by window size and number of heads", purpose="search"),
    "parallel": FigureKind("all settings of all trials side by side", purpose="search"),
    "again": FigureKind(
        "loss of settings trained again with other seeds, beside the first", purpose="again"
    ),
    "curves": FigureKind("learning curves, pruned ones marked"),
    "timeline": FigureKind("what each worker ran when"),
    "throughput": FigureKind("trials finished over time"),
}
"""By name; the answer first, then how it was found."""


def kinds_of(purpose: str) -> list[str]:
    """Names of the figures that studies for this purpose have."""
    return [name for name, kind in KINDS.items() if kind.purpose in ("", purpose)]


ON_PAGES = tuple(name for name in KINDS if name != "best-time")
"""What pages show: the best loss over time repeats the one over trials."""
