"""What is searched: rows with their ranges and conditions, what is fixed beside them, their rules.

No Hyperopt and no torch here: plots and the command line read spaces too.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from model.config import TrialConfig
from model.words import did_you_mean
from search.derivation import DERIVATIONS
from search.parameter import Parameter, Value


@dataclass(frozen=True)
class Space:
    """Rows that are sampled, and parameters that belong to the space but stay fixed.

    Raises:
        ValueError: For a name used twice, a condition on an unknown or unfit parameter, conditions
            that depend on each other, or an unknown derivation.
    """

    name: str
    rows: tuple[Parameter, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    derive: str | None = None
    """One of `DERIVATIONS`, applied to each sample; what it returns is stored and trained."""
    doc: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        for name in names:
            if names.count(name) > 1 or name in self.fixed:
                raise ValueError(f"space {self.name!r} names parameter {name!r} twice")
        if self.derive is not None and self.derive not in DERIVATIONS:
            raise ValueError(
                f"space {self.name!r} has unknown derivation {self.derive!r}; "
                f"{did_you_mean(self.derive, tuple(DERIVATIONS))}"
            )
        for row in self.rows:
            for other, value in row.when.items():
                self._check_condition(row, other, value)
            self.conditions(row)

    def _check_condition(self, row: Parameter, other: str, value: Value) -> None:
        parent = next((r for r in self.rows if r.name == other and r.kind == "choice"), None)
        start = f"{row.where}parameter {row.name!r} is sampled when {other} = {value!r}, but "
        if parent is None:
            known = tuple(r.name for r in self.rows if r.kind == "choice")
            raise ValueError(f"{start}{other!r} is no choice here; {did_you_mean(other, known)}")
        if not parent.contains(value):
            raise ValueError(f"{start}{other!r} has only the choices {list(parent.choices)}")

    def __getitem__(self, name: str) -> Parameter:
        for row in self.rows:
            if row.name == name:
                return row
        names = tuple(row.name for row in self.rows)
        raise ValueError(
            f"space {self.name!r} does not search {name!r}; {did_you_mean(name, names)}"
        )

    def conditions(self, row: Parameter, above: tuple[str, ...] = ()) -> dict[str, Value]:
        """All that must hold for ``row`` to be sampled, outermost first."""
        if row.name in above:
            circle = " -> ".join((*above, row.name))
            raise ValueError(f"space {self.name!r} has conditions in a circle: {circle}")
        found: dict[str, Value] = {}
        for other, value in row.when.items():
            found |= {**self.conditions(self[other], (*above, row.name)), other: value}
        return found

    def complete(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Sampled values to a trial's params: derived ones worked out, fixed ones added."""
        values = dict(sampled)
        if self.derive is not None:
            values = DERIVATIONS[self.derive].forward(values)
        return {**self.fixed, **values}

    def sampled(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """A sample that gives ``params``; None where this space cannot express them."""
        values: dict[str, Any] | None = dict(params)
        try:
            if self.derive is not None:
                values = DERIVATIONS[self.derive].sampled(params, self)
            if values is None:
                return None
            active = [row for row in self.rows if self.is_active(row, values)]
            if all(row.contains(values[row.name]) for row in active):
                return {row.name: values[row.name] for row in active}
        except (KeyError, TypeError):  # a searched parameter is missing, or of another type
            return None
        return None

    def is_active(self, row: Parameter, values: Mapping[str, Any]) -> bool:
        """Whether ``row`` takes part, given the values of the rows it depends on."""
        return all(values.get(name) == wanted for name, wanted in self.conditions(row).items())

    def corners(self) -> Iterator[tuple[Parameter, dict[str, Any]]]:
        """Params with each row at each of its ends, all others at their first."""
        first = {row.name: row.ends[0] for row in self.rows}
        for row in self.rows:
            for end in row.ends:
                values = {**first, **self.conditions(row), row.name: end}
                active = {r.name: values[r.name] for r in self.rows if self.is_active(r, values)}
                yield row, self.complete(active)

    def example(self) -> dict[str, Any]:
        """Params of one trial of this space."""
        for _, params in self.corners():
            return params
        return self.complete({})

    def fix(self, name: str, value: Any) -> Space:
        """This space with one parameter pinned; rows that can no longer be sampled are dropped.

        Raises:
            ValueError: If the parameter is derived from sampled ones.
        """
        if self.derive is not None and name in ("head_size", "hidden_size", "num_heads"):
            raise ValueError(f"{name} of space {self.name!r} cannot be fixed: {self.derive}")
        rows = []
        for row in self.rows:
            if row.name == name or row.when.get(name, value) != value:
                continue
            rest = {other: wanted for other, wanted in row.when.items() if other != name}
            rows.append(dataclasses.replace(row, when=rest))
        kept = {row.name for row in rows}
        while orphans := {row.name for row in rows if not kept.issuperset(row.when)}:
            kept -= orphans
            rows = [row for row in rows if row.name in kept]
        return dataclasses.replace(self, rows=tuple(rows), fixed={**self.fixed, name: value})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as stored with a study."""
        rows = [row.to_dict() for row in self.rows]
        return {"name": self.name, "rows": rows, "fixed": dict(self.fixed), "derive": self.derive}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The space that `to_dict` wrote.

        Raises:
            ValueError: If it is no such mapping, or breaks a rule of `Parameter` or `Space`.
        """
        try:
            rows = tuple(
                Parameter(**{**row, "choices": tuple(row.get("choices", ()))})
                for row in stored["rows"]
            )
            return cls(stored["name"], rows, stored.get("fixed", {}), stored.get("derive"))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a stored search space: {error}") from error


def check_larnn(space: Space, fixed: Mapping[str, Any]) -> None:
    """Refuse a space that the built-in objective cannot train, before any trial trips over it.

    Args:
        space: What is searched.
        fixed: What every trial shares beside ``space.fixed``.

    Raises:
        ValueError: For an unknown name, or a bound that breaks its setting's rule; says which row.
    """
    TrialConfig.from_params({**space.fixed, **fixed})
    for row, params in space.corners():
        if twice := sorted(set(fixed) & set(params) - set(space.fixed)):
            raise ValueError(f"{twice[0]} is both searched and fixed; take one of the two away")
        try:
            TrialConfig.from_params({**params, **fixed})
        except ValueError as error:
            raise ValueError(f"{row.where}{error}") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """Read ``name=value``; the value as JSON where it is JSON (numbers, true), else as text.

    Raises:
        ValueError: If there is no ``=`` with a name before it, or the text looks like a number or
            truth value that is written in another way.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"an assignment is written name=value, got {text!r}")
    try:
        return name.strip(), json.loads(value)
    except json.JSONDecodeError:
        _check_text(name.strip(), value.strip())
        return name.strip(), value.strip()


def assignment(name: str, value: Any) -> str:
    """``name=value``, as `parse_assignment` reads it back."""
    if isinstance(value, str) and parse_assignment(f"name={value}") == ("name", value):
        return f"{name}={value}"
    return f"{name}={json.dumps(value)}"


def _check_text(name: str, value: str) -> None:
    """Refuse text that its writer takes for something else.

    Raises:
        ValueError: If it would be a number or truth value elsewhere.
    """
    if value in ("True", "False", "None"):
        meant = {"True": "true", "False": "false", "None": "null"}[value]
    else:
        try:
            number = float(value)
            is_whole = re.fullmatch(r"[+-]?[\d_]+", value) is not None
            meant = json.dumps(int(value) if is_whole else number, allow_nan=False)
        except ValueError:
            return
    raise ValueError(
        f"a value is written as in JSON, got {name}={value}: write {name}={meant}, or "
        f"{name}='\"{value}\"' if it is text"
    )
