"""One row of a search space: a name, and the values that may be sampled for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model.config import DataConfig, ModelConfig, TrainingConfig
from model.words import did_you_mean

KINDS = ("uniform", "loguniform", "int", "logint", "choice")
Value = str | int | float | bool

_DOCS: Mapping[str, str] = {
    setting.name: setting.metadata["doc"]
    for part in (ModelConfig, TrainingConfig, DataConfig)
    for setting in dataclasses.fields(part)
}


def doc_of(name: str) -> str:
    """One line of what a parameter does, where it is one of the LARNN's; else empty."""
    return _DOCS.get(name, "")


@dataclass(frozen=True)
class Parameter:
    """One row of a space: a name, and the values that may be sampled for it.

    Raises:
        ValueError: For an unknown kind, an empty range, a log range that reaches 0, or settings
            that do not belong to the kind.
    """

    name: str
    kind: str
    """``uniform``, ``loguniform`` (floats), ``int``, ``logint`` (ends included) or ``choice``."""
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] = ()
    when: Mapping[str, Value] = field(default_factory=dict)
    """Sampled only where these other parameters (of kind ``choice``) have these values."""
    where: str = field(default="", compare=False)
    """Start of error messages: file and line that declared the row."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            self._refuse(f"has unknown type {self.kind!r}; {did_you_mean(str(self.kind), KINDS)}")
        if self.kind == "choice":
            self._check_choices()
        else:
            self._check_range()

    def _refuse(self, problem: str) -> None:
        raise ValueError(f"{self.where}parameter {self.name!r} {problem}")

    def _check_choices(self) -> None:
        if self.low is not None or self.high is not None:
            self._refuse("of type choice takes choices, not low and high")
        if len(self.choices) < 2:
            self._refuse(
                f"needs at least 2 choices, got {list(self.choices)}; pin one value with "
                f"--fix {self.name}=VALUE"
            )
        for value in self.choices:
            if not isinstance(value, Value):
                self._refuse(f"has choice {value!r}; a choice is text, a number or true/false")
        if len({(type(value), value) for value in self.choices}) < len(self.choices):
            self._refuse(f"names a choice twice: {list(self.choices)}")

    def _check_range(self) -> None:
        if self.choices:
            self._refuse(f"of type {self.kind} takes low and high, not choices")
        for name, bound in {"low": self.low, "high": self.high}.items():
            whole = self.kind in ("int", "logint")
            if isinstance(bound, bool) or not isinstance(bound, int if whole else (int, float)):
                self._refuse(
                    f"of type {self.kind} needs {name} as a {'whole ' if whole else ''}number, "
                    f"got {bound!r}"
                )
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high)):
            self._refuse(f"needs finite bounds, got low {low:g} and high {high:g}")
        if low >= high:
            self._refuse(
                f"has an empty range: low must be below high, got low {low:g} and high {high:g}"
            )
        if self.is_log and low <= 0:
            self._refuse(f"of type {self.kind} needs low above 0, got {low:g}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a numeric parameter."""
        if self.low is None or self.high is None:
            raise ValueError(f"parameter {self.name!r} of type {self.kind} has no bounds")
        return self.low, self.high

    @property
    def is_log(self) -> bool:
        """Whether the values belong on a logarithmic axis."""
        return self.kind in ("loguniform", "logint")

    @property
    def is_integer(self) -> bool:
        """Whether the values are whole numbers."""
        return self.kind in ("int", "logint")

    @property
    def doc(self) -> str:
        """As `doc_of`."""
        return doc_of(self.name)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Every choice, or the lowest and the highest value."""
        if self.kind == "choice":
            return self.choices
        return self.bounds if self.is_integer else tuple(float(bound) for bound in self.bounds)

    def contains(self, value: Any) -> bool:
        """Whether ``value`` can be sampled (log ranges: within rounding)."""
        if self.kind == "choice":
            return any(value == known and type(value) is type(known) for known in self.choices)
        if isinstance(value, bool) or not isinstance(
            value, int if self.is_integer else (int, float)
        ):
            return False
        low, high = self.bounds
        slack = 1e-12 * max(abs(low), abs(high))
        return low - slack <= value <= high + slack

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `Parameter(**...)` of it gives an equal row."""
        made: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "choice":
            made["choices"] = list(self.choices)
        else:
            made["low"], made["high"] = self.bounds
        if self.when:
            made["when"] = dict(self.when)
        return made
