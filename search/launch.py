"""From what a user asked for to a study in the store."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.config import DataConfig, ModelConfig
from search.grid import grid
from search.named_spaces import resolve
from search.presets import PRESETS
from search.space import Space, check_larnn, parse_assignment
from trials.study import StudySpec, check_study_name

DEFAULT_OBJECTIVE = "search.objective:train_larnn"
JUDGING_OBJECTIVE = "search.judging:train_and_judge"
OWN_OBJECTIVES = (DEFAULT_OBJECTIVE, JUDGING_OBJECTIVE)
"""What every worker may run."""
_DEFAULTS: Mapping[str, Any] = {f.name: f.default for f in dataclasses.fields(StudySpec)}


@dataclass(frozen=True)
class Request:
    """The options of `run` and `launch`, whose defaults they take from here.

    None means: as the preset says, or no such limit.
    """

    study: str
    preset: str = "full"
    data: str | None = None
    space: str | None = None
    objective: str | None = None
    algorithm: str = _DEFAULTS["algorithm"]
    pruner: str = "asha"
    max_trials: int | None = None
    timeout: float | None = None
    until_loss: float | None = None
    patience: int | None = None
    epochs: int | None = None
    fix: tuple[str, ...] = field(default=())
    from_study: tuple[str, ...] = field(default=())
    enqueue: tuple[Path, ...] = field(default=())
    """Files of points to try first (`search.enqueue.read_points`)."""
    seed: int = _DEFAULTS["seed"]
    threads: int = _DEFAULTS["threads"]
    priority: int = _DEFAULTS["priority"]
    max_retries: int = _DEFAULTS["max_retries"]
    trial_timeout: float | None = None
    stall_timeout: float | None = None
    memory_limit: int | None = None
    """Bytes."""


CHANGEABLE: Mapping[str, str] = {
    "pruner": "pruner",
    "max_trials": "max_trials",
    "timeout": "timeout_s",
    "until_loss": "until_loss",
    "patience": "patience",
    "priority": "priority",
    "max_retries": "max_retries",
    "trial_timeout": "trial_timeout_s",
    "stall_timeout": "stall_timeout_s",
    "memory_limit": "memory_limit_bytes",
}
"""Options that may differ when a study is started again, and their fields of its spec."""


def spec_again(
    old: StudySpec, request: Request, given: Collection[str], say: Callable[[str], None]
) -> StudySpec:
    """Settle what an existing study goes on with: what is not said stays as it was.

    Args:
        old: Its settings.
        request: What the user asked for now.
        given: The options of `Request` that were said; the others have their defaults.
        say: As of `build_spec`.

    Raises:
        ValueError: As `build_spec`, where anything was said that a study keeps for good.
    """
    # An objective of the user's own is run because he names it, never because a database does.
    said = set(given) - {"study", "enqueue", *CHANGEABLE}
    if said or old.objective != DEFAULT_OBJECTIVE:
        asked = build_spec(request, say)
    else:
        request = dataclasses.replace(request, algorithm=old.algorithm)
        budget = _budget(request, Space.from_dict(old.space), request.max_trials)
        asked = dataclasses.replace(old, **_changeable(request, budget))
    kept = {f: getattr(old, f) for name, f in CHANGEABLE.items() if name not in given}
    return dataclasses.replace(asked, **kept)


def build_spec(request: Request, say: Callable[[str], None]) -> StudySpec:
    """Settle every setting of the study that ``request`` describes.

    Args:
        request: What the user asked for.
        say: Takes lines for the user about what takes time.

    Raises:
        ValueError: For an unknown space, data set or parameter, or a value out of range.
    """
    check_study_name(request.study)  # before what takes time
    own = request.objective in (None, DEFAULT_OBJECTIVE)
    space, fixed, max_trials = _own_settings(request) if own else _foreign_settings(request)
    given = [parse_assignment(assignment) for assignment in request.fix]
    if request.epochs is not None:
        given.append(("epochs", request.epochs))
    for name, value in given:
        if name in {row.name for row in space.rows}:
            space = space.fix(name, value)
        else:
            fixed[name] = value
    if not space.rows:
        raise ValueError(
            f"every parameter is fixed, so that space {space.name!r} leaves nothing to search: "
            "drop a --fix"
        )
    requirements: dict[str, Any] = {}
    if own:
        check_larnn(space, fixed)
        requirements["data_fingerprint"] = _data_fingerprint({**space.fixed, **fixed}, say)
    return StudySpec(
        name=request.study,
        objective=request.objective or DEFAULT_OBJECTIVE,
        space=space.to_dict(),
        fixed=fixed,
        algorithm=request.algorithm,
        from_studies=tuple(dict.fromkeys(request.from_study)),
        seed=request.seed,
        threads=request.threads,
        requirements=requirements,
        **_changeable(request, _budget(request, space, max_trials)),
    )


def _budget(request: Request, space: Space, max_trials: int | None) -> int | None:
    """Trials to finish: of a grid no more than it has."""
    if request.algorithm != "grid":
        return max_trials
    size = len(grid(space))
    return min(request.max_trials or size, size)


def _changeable(request: Request, max_trials: int | None) -> dict[str, Any]:
    """Fields of a spec, those of `CHANGEABLE`."""
    told = {field: getattr(request, name) for name, field in CHANGEABLE.items()}
    return told | {"pruner": {"name": request.pruner}, "max_trials": max_trials}


def _own_settings(request: Request) -> tuple[Space, dict[str, Any], int | None]:
    """Space, fixed parameters and budget for the LARNN objective.

    What the user said goes before what the space names, and that before what the preset fixes.
    """
    preset = PRESETS[request.preset]
    space = resolve(request.space) if request.space else preset.space_of(_cell(request.fix))
    own = {*space.fixed, *(row.name for row in space.rows)}
    fixed = {name: value for name, value in preset.fixed.items() if name not in own}
    if request.data or "data" not in space.fixed:
        fixed["data"] = request.data or DataConfig.data
    return space, fixed, request.max_trials or preset.max_trials


def _cell(fix: tuple[str, ...]) -> str:
    """The cell that the user fixed, or the LARNN."""
    return str(dict(map(parse_assignment, fix)).get("cell", ModelConfig.cell))


def _foreign_settings(request: Request) -> tuple[Space, dict[str, Any], int | None]:
    """Space, fixed parameters and budget for a user's objective: only what the user said."""
    if request.space is None:
        raise ValueError(
            "an objective of your own needs a space of its own, got --objective "
            f"{request.objective} without --space: write one (docs/extending.md)"
        )
    for name in ("data", "epochs"):
        if getattr(request, name) is not None:
            raise ValueError(
                f"--{name} belongs to the LARNN objective; give it to {request.objective} "
                f"with --fix {name}={getattr(request, name)}"
            )
    return resolve(request.space), {}, request.max_trials


def _data_fingerprint(fixed: Mapping[str, Any], say: Callable[[str], None]) -> str:
    from model import data

    say(f"Loading data {fixed['data']} …")
    return data.load(str(fixed["data"]), int(fixed.get("time_stride", 1))).fingerprint


def own_command(*arguments: str) -> list[str]:
    """A command line that starts `larnn-search` under this very Python.

    -P keeps the current folder off the front of the import path: a user's search.py is not ours.
    """
    return [sys.executable, "-P", "-m", "search", *arguments]
