"""Named steps between what a space samples and what trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.space import Space


@dataclass(frozen=True)
class Derivation:
    """A step between what is sampled and what trains, and its way back (for enqueued trials)."""

    doc: str
    forward: Callable[[dict[str, Any]], dict[str, Any]]
    backward: Callable[[dict[str, Any], Space], dict[str, Any]]


def _divide_hidden(sampled: dict[str, Any]) -> dict[str, Any]:
    hidden = sampled.pop("hidden_size")
    return {**sampled, "head_size": max(1, round(hidden / sampled["num_heads"]))}


def _multiply_heads(params: dict[str, Any], space: Space) -> dict[str, Any]:
    low, high = space["hidden_size"].bounds  # rounding may have led out of the range
    hidden = params["num_heads"] * params.pop("head_size")
    return {**params, "hidden_size": float(min(max(hidden, low), high))}


DERIVATIONS: Mapping[str, Derivation] = {
    "head_size_from_hidden_size": Derivation(
        "head_size = max(1, round(hidden_size / num_heads)), as the paper's search did",
        _divide_hidden,
        _multiply_heads,
    )
}
