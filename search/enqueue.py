"""Trials that a person asks for: checked as strictly as those that are suggested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.config import TrialConfig
from search.derivation import DERIVATIONS
from search.launch import DEFAULT_OBJECTIVE
from search.parameter import Parameter, did_you_mean
from search.space import Space
from trials.errors import LeaseLostError
from trials.store import NewTrial, TrialStore
from trials.study import Study, StudyState
from trials.trial import Trial

TRIES = 20
"""A feeder may take the next number at the same moment."""
OPEN_STATES = (StudyState.ACTIVE, StudyState.PAUSED)


def enqueue(store: TrialStore, name: str, given: Mapping[str, Any]) -> Trial:
    """Put a trial with these parameters into a study's queue.

    Args:
        store: Where the study is.
        name: The study's name.
        given: Every searched parameter; what the study fixes may be left out.

    Raises:
        ValueError: If the study takes no more trials, or ``given`` does not fit it.
        StudyNotFoundError: If there is no such study.
    """
    study = store.get_study(name)
    if study.state not in OPEN_STATES:
        raise ValueError(
            f"study {name} is {study.state} and starts no more trials; give it a larger budget "
            "first: the command that launched it, with a higher --max-trials"
        )
    params = complete(study, given)
    for attempt in range(TRIES):
        number = sum(store.counts(name).values())
        new = NewTrial(params, study.spec.seed + number, {"origin": "enqueued"})
        try:
            return store.add_trials(name, None, number, [new])[0]
        except LeaseLostError:
            if attempt == TRIES - 1:
                raise
    raise AssertionError("the last try returns or raises")


def complete(study: Study, given: Mapping[str, Any]) -> dict[str, Any]:
    """All params of a trial from those that a person gave.

    Raises:
        ValueError: For a parameter that is unknown, missing, fixed otherwise or out of range.
    """
    space = Space.from_dict(study.spec.space)
    fixed = {**space.fixed, **study.spec.fixed}
    for name, value in given.items():
        if name in fixed and value != fixed[name]:
            raise ValueError(
                f"{name} is fixed to {fixed[name]!r} in study {study.name}, got {value!r}"
            )
    chosen = {name: value for name, value in given.items() if name not in fixed}
    sampled = _sampled(space, chosen)
    _check_names(space, chosen)
    values = {row.name: _value(row, sampled) for row in space.rows if row.name in sampled}
    _check_complete(space, values)
    params = {**space.complete(values), **study.spec.fixed}
    if study.spec.objective == DEFAULT_OBJECTIVE:
        TrialConfig.from_params(params)
    return params


def _sampled(space: Space, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What would have to be drawn; takes the derived form (as trials show it) and the drawn one."""
    if space.derive is None or all(row.name in chosen for row in space.rows if not row.when):
        return dict(chosen)
    try:
        return DERIVATIONS[space.derive].backward(dict(chosen), space)
    except (KeyError, TypeError, ValueError):
        return dict(chosen)  # what is missing or unfit is told by its own name


def _check_names(space: Space, chosen: Mapping[str, Any]) -> None:
    known = tuple(dict.fromkeys([*(row.name for row in space.rows), *space.example()]))
    for name in chosen:
        if name not in known:
            raise ValueError(f"unknown parameter {name!r}; {did_you_mean(name, known)}")


def _check_complete(space: Space, values: Mapping[str, Any]) -> None:
    for row in space.rows:
        is_active = space.is_active(row, values)
        if is_active and row.name not in values:
            raise ValueError(f"parameter {row.name!r} is missing; it is searched in this study")
        if row.name in values and not is_active:
            told = ", ".join(f"{name} = {value!r}" for name, value in row.when.items())
            raise ValueError(f"parameter {row.name!r} has a use only when {told}: leave it out")


def _value(row: Parameter, sampled: Mapping[str, Any]) -> Any:
    """The value with the type that a suggestion would have."""
    value = sampled[row.name]
    if not row.contains(value):
        if row.kind == "choice":
            allowed = "one of " + ", ".join(map(repr, row.choices))
        else:
            whole = "a whole number " if row.is_integer else ""
            allowed = f"{whole}between {row.low:g} and {row.high:g}"
        raise ValueError(f"parameter {row.name!r} must be {allowed}, got {value!r}")
    return value if row.kind == "choice" or row.is_integer else float(value)
