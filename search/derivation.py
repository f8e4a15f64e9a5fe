"""Named steps between what a space samples and what trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.space import Space


@dataclass(frozen=True)
class Derivation:
    """A step between what is sampled and what trains, and its way back (for enqueued trials)."""

    doc: str
    forward: Callable[[dict[str, Any]], dict[str, Any]]
    backward: Callable[[dict[str, Any], Space], dict[str, Any]]
    meanings: Mapping[str, str] = field(default_factory=dict)
    """Of the rows that are sampled and do not train themselves."""

    def sampled(self, params: Mapping[str, Any], space: Space) -> dict[str, Any] | None:
        """What may be sampled to train ``params``; None where that would train others.

        Raises:
            KeyError: If a derived setting is missing.
            TypeError: If one is of another type.
        """
        found = self.backward(dict(params), space)
        return found if self.forward(dict(found)) == dict(params) else None


def _divide_hidden(sampled: dict[str, Any]) -> dict[str, Any]:
    hidden = sampled.pop("hidden_size")
    return {**sampled, "head_size": max(1, round(hidden / sampled["num_heads"]))}


def _multiply_heads(params: dict[str, Any], space: Space) -> dict[str, Any]:
    low, high = space["hidden_size"].bounds  # rounding may have led out of the range
    hidden = params["num_heads"] * params.pop("head_size")
    return {**params, "hidden_size": float(min(max(hidden, low), high))}


SETTINGS = "settings"
"""The row of a space whose choices are `named_settings`."""


def named_settings(label: str, settings: Mapping[str, Any]) -> str:
    """Several settings under one name, as one choice of a row."""
    return json.dumps({label: dict(settings)})


def read_settings(choice: str) -> tuple[str, dict[str, Any]]:
    """Name and settings that `named_settings` put together."""
    ((label, settings),) = json.loads(choice).items()
    return label, settings


def _unfold(sampled: dict[str, Any]) -> dict[str, Any]:
    _, settings = read_settings(sampled.pop(SETTINGS))
    return {**sampled, **settings}


def _fold(params: dict[str, Any], space: Space) -> dict[str, Any]:
    choices = [(choice, read_settings(str(choice))[1]) for choice in space[SETTINGS].choices]
    fitting = [pair for pair in choices if pair[1].items() <= params.items()]
    if not fitting:
        raise KeyError(SETTINGS)
    choice, settings = max(fitting, key=lambda pair: len(pair[1]))  # one may be part of another
    rest = {name: value for name, value in params.items() if name not in settings}
    return {**rest, SETTINGS: choice}


def label_of(params: Mapping[str, Any], space: Space) -> str | None:
    """The name under which a space of settings that train together was given these; else None."""
    if space.derive != TOGETHER:
        return None
    return read_settings(str(_fold(dict(params), space)[SETTINGS]))[0]


TOGETHER = "settings_together"
DERIVATIONS: Mapping[str, Derivation] = {
    "head_size_from_hidden_size": Derivation(
        "head_size = max(1, round(hidden_size / num_heads)), as the paper's search did",
        _divide_hidden,
        _multiply_heads,
        {"hidden_size": "features of a layer before they are divided among its heads"},
    ),
    TOGETHER: Derivation("one choice stands for several settings", _unfold, _fold),
}
