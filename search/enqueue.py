"""Trials that a person asks for: checked as strictly as those that are suggested."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.config import TrialConfig
from model.words import did_you_mean
from search.derivation import DERIVATIONS
from search.launch import DEFAULT_OBJECTIVE
from search.parameter import Parameter
from search.ranking import ranked
from search.space import Space
from trials.errors import LeaseLostError
from trials.store import NewTrial, TrialStore
from trials.study import Study, StudySpec, StudyState, taken
from trials.transfer import parse
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
    _check_open(store, study)
    return _add(store, study, complete(study.spec, given))


def _check_open(store: TrialStore, study: Study) -> None:
    budget, name = study.spec.max_trials, study.name
    larger = "the command that launched it, with a higher --max-trials"
    if study.state is StudyState.CANCELLED:
        raise ValueError(f"study {name} is CANCELLED for good: launch it under another name")
    if budget is not None and taken(store.counts(name)) >= budget:
        raise ValueError(
            f"study {name} has {budget} trials that run or have finished, and starts no more: give "
            f"it a larger budget first, {larger}"
        )
    if study.state not in OPEN_STATES:
        raise ValueError(
            f"study {name} is {study.state} and starts no more trials: "
            f"`larnn-search resume {name}` first, or {larger}"
        )


def _add(store: TrialStore, study: Study, params: Mapping[str, Any]) -> Trial:
    for attempt in range(TRIES):
        number = sum(store.counts(study.name).values())
        new = NewTrial(params, study.spec.seed + number, {"origin": "enqueued"})
        try:
            added = store.add_trials(study.name, None, number, [new])[0]
        except LeaseLostError:
            if attempt == TRIES - 1:
                raise
            continue
        # A feeder may have completed it meanwhile, before there was anything to see.
        if (found := store.get_study(study.name)).state is StudyState.COMPLETE:
            store.set_study_state(study.name, StudyState.ACTIVE, was=found)
        return added
    raise AssertionError("the last try returns or raises")


# -- points from files -----------------------------------------------------------------------------


def complete_points(spec: StudySpec, files: Sequence[Path]) -> list[dict[str, Any]]:
    """The params that a study is to try first, as files name them; equal ones once.

    Raises:
        ValueError: If a file cannot be read, a point does not fit the study, or there are more
            points than trials.
    """
    points: list[dict[str, Any]] = []
    for file in files:
        for place, given in enumerate(read_points(file, spec), start=1):
            try:
                params = complete(spec, given)
            except ValueError as error:
                raise ValueError(f"--enqueue {file}, point {place}: {error}") from error
            if params not in points:
                points.append(params)
    if spec.max_trials is not None and len(points) > spec.max_trials:
        raise ValueError(
            f"--enqueue names {len(points)} points, more than the {spec.max_trials} trials of the "
            "study: raise --max-trials or leave some out"
        )
    return points


def add_points(store: TrialStore, study: Study, points: Sequence[Mapping[str, Any]]) -> None:
    """Enqueue those that the study does not have yet, so that a command may be repeated.

    Raises:
        ValueError: If there are such, and the study takes no more trials.
    """
    if not points:
        return
    known = [dict(trial.params) for trial in store.list_trials(study.name, with_reports=False)]
    for params in points:
        if params not in known:
            _check_open(store, study)
            _add(store, study, params)


def read_points(file: Path, spec: StudySpec) -> list[dict[str, Any]]:
    """The points in a JSON file.

    A point is an object of settings, or a trial as ``best``, ``trials``, ``show`` and ``run`` print
    it with ``--json`` (then only what ``spec`` searches is taken of its params: epochs and data are
    this study's own). A file holds one point or an array of them; of an exported study
    (``.jsonl``) the best trial is the point.

    Raises:
        ValueError: If it cannot be read, is no JSON, or holds no point.
    """
    try:
        text = file.read_text(encoding="utf-8")
        found = _best_of_export(text) if file.suffix == ".jsonl" else json.loads(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"--enqueue {file}: not a file of settings as JSON ({error})") from error
    searched = searched_names(Space.from_dict(spec.space))
    listed = found if isinstance(found, list) else [found]
    points = [_point(one, searched) for one in listed]
    if not points or None in points:
        raise ValueError(
            f'--enqueue {file}: takes settings like {{"dropout": 0.1}}, trials as '
            f"`larnn-search best STUDY --json` prints them, or an array of these, got {text[:60]!r}"
        )
    return [point for point in points if point is not None]


def _point(found: object, searched: Container[str]) -> dict[str, Any] | None:
    if not isinstance(found, dict) or not found:
        return None
    trial = found.get("best", found)  # the last line of `run --json`
    if isinstance(trial, dict) and isinstance(trial.get("params"), dict):
        return {name: value for name, value in trial["params"].items() if name in searched}
    return found if trial is found else None


def _best_of_export(text: str) -> list[dict[str, Any]]:
    study, trials = parse(text.splitlines())
    return [{"params": one.trial.params} for one in ranked(study, trials)[:1]]


# -- what fits a study -----------------------------------------------------------------------------


def complete(spec: StudySpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """All params of a trial from those that a person gave.

    Raises:
        ValueError: For a parameter that is unknown, missing, fixed or derived otherwise, or out of
            range.
    """
    space = Space.from_dict(spec.space)
    fixed = {**space.fixed, **spec.fixed}
    for name, value in given.items():
        if name in fixed and value != fixed[name]:
            raise ValueError(
                f"{name} is fixed to {fixed[name]!r} in study {spec.name}, got {value!r}"
            )
    chosen = {name: value for name, value in given.items() if name not in fixed}
    sampled = _sampled(space, chosen)
    _check_names(space, chosen)
    values = {row.name: _value(row, sampled) for row in space.rows if row.name in sampled}
    _check_complete(space, values)
    params = {**space.complete(values), **spec.fixed}
    _check_derived(space, chosen, params)
    if spec.objective == DEFAULT_OBJECTIVE:
        TrialConfig.from_params(params)
    return params


def searched_names(space: Space) -> tuple[str, ...]:
    """What a point may name: what is sampled, and what is derived from it."""
    fixed = set(space.fixed)
    names = [*(row.name for row in space.rows), *space.example()]
    return tuple(dict.fromkeys(name for name in names if name not in fixed))


def _sampled(space: Space, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What would have to be drawn; takes the derived form (as trials show it) and the drawn one."""
    if space.derive is None or all(row.name in chosen for row in space.rows if not row.when):
        return dict(chosen)
    try:
        return DERIVATIONS[space.derive].backward(dict(chosen), space)
    except (KeyError, TypeError, ValueError):
        return dict(chosen)  # what is missing or unfit is told by its own name


def _check_names(space: Space, chosen: Mapping[str, Any]) -> None:
    known = searched_names(space)
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


def _check_derived(space: Space, chosen: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Refuse a derived setting that would train as another."""
    if space.derive is None:
        return
    drawn = {row.name for row in space.rows}
    for name, value in chosen.items():
        if name not in drawn and params.get(name) != value:
            raise ValueError(
                f"parameter {name!r} would be {params.get(name, 'left out')}, got {value!r}: "
                f"{DERIVATIONS[space.derive].doc}; "
                f"leave it out and give {', '.join(sorted(drawn - params.keys()))}"
            )


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
