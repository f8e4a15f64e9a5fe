"""One study: what is searched, by which rules, and how it is doing."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from trials.errors import InvalidValueError
from trials.trial import TAKEN_STATES, TrialState

STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_study_name(name: str) -> str:
    """Return ``name`` when it can name a study.

    Raises:
        InvalidValueError: If it is empty, over 64 characters, or has characters other than letters,
            digits, ``-`` and ``_`` (a name becomes a file name and a database key).
    """
    if not STUDY_NAME.fullmatch(name):
        shown = name if len(name) <= 40 else name[:40] + "…"
        raise InvalidValueError(
            "a study name has 1 to 64 letters, digits, '-' and '_', and starts with a letter or "
            f"digit, got {shown!r}"
        )
    return name


class StudyState(enum.StrEnum):
    """What workers and feeders may do for a study."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"
    """No trial starts; running ones are checkpointed and go back to the queue."""
    STOPPING = "STOPPING"
    """No trial starts; running ones finish; then the study is COMPLETE."""
    COMPLETE = "COMPLETE"
    CANCELLED = "CANCELLED"
    """Everything was dropped at once, without checkpoints."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self in (StudyState.COMPLETE, StudyState.CANCELLED)


LEGAL_STUDY_TRANSITIONS: Mapping[StudyState, frozenset[StudyState]] = {
    StudyState.ACTIVE: frozenset(StudyState) - {StudyState.ACTIVE},
    StudyState.PAUSED: frozenset({StudyState.ACTIVE, StudyState.STOPPING, StudyState.CANCELLED}),
    # Back to ACTIVE: `larnn-search resume`, or launched again with a larger budget.
    StudyState.STOPPING: frozenset(StudyState) - {StudyState.STOPPING},
    # The same, or one of its trials is to be run again.
    StudyState.COMPLETE: frozenset({StudyState.ACTIVE}),
    StudyState.CANCELLED: frozenset(),
}


def states_before(state: StudyState) -> list[StudyState]:
    """From which states a study may come to ``state``, this one included: to ask twice is legal."""
    return [old for old in StudyState if old is state or state in LEGAL_STUDY_TRANSITIONS[old]]


@dataclass(frozen=True, slots=True)
class StudySpec:
    """Everything that is decided when a study is launched."""

    name: str
    objective: str
    """``module:function``; a worker runs it only when its allow list names it."""
    space: Mapping[str, Any]
    """The searched parameters: ``{"name": str, "rows": [...]}`` (`search.space.Space.to_dict`)."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that every trial shares; together with a sample they are a trial's ``params``."""
    algorithm: str = "tpe"
    from_studies: tuple[str, ...] = ()
    """Studies whose finished trials the algorithm learns from, beside this one's."""
    seed: int = 0
    max_trials: int | None = None
    """Trials that finish COMPLETE, PRUNED or FAILED; None: until stopped."""
    timeout_s: float | None = None
    """Wall-clock seconds from the study's creation until no further trial starts."""
    until_loss: float | None = None
    """The study ends when a trial is COMPLETE with at most this loss."""
    patience: int | None = None
    """The study ends when this many trials in a row finished without a new least loss."""
    threads: int = 1
    """CPU threads of each trial."""
    priority: int = 1
    """Share of the workers, relative to the other studies'."""
    max_retries: int = 2
    trial_timeout_s: float | None = None
    stall_timeout_s: float | None = None
    memory_limit_bytes: int | None = None
    pruner: Mapping[str, Any] = field(default_factory=lambda: {"name": "none"})
    requirements: Mapping[str, Any] = field(default_factory=dict)
    """What a worker must have, checked by the objective: ``{"data_fingerprint": str, ...}``."""

    def __post_init__(self) -> None:
        _check_kinds(self)
        check_study_name(self.name)
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.objective):
            raise InvalidValueError(
                f"an objective is named 'module:function', got {self.objective!r}"
            )
        for name, least in {"threads": 1, "priority": 1, "max_retries": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                raise InvalidValueError(
                    f"{name} must be at least {least}, got {getattr(self, name)}"
                )
        for name in (
            "max_trials",
            "timeout_s",
            "patience",
            "trial_timeout_s",
            "stall_timeout_s",
            "memory_limit_bytes",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:  # NaN neither
                raise InvalidValueError(f"{name} must be above 0, got {value}")
        # A document's list equals the tuple that was written.
        object.__setattr__(self, "from_studies", tuple(self.from_studies))
        for name in self.from_studies:
            check_study_name(name)
        if self.until_loss is not None and math.isnan(self.until_loss):
            raise InvalidValueError("until_loss must be a number to be reached, got nan")


def _kinds(hint: Any) -> tuple[type, ...]:
    """What a field may hold, by its annotation."""
    if isinstance(hint, UnionType):
        return tuple(kind for option in get_args(hint) for kind in _kinds(option))
    kind = get_origin(hint) or hint
    # A document's list stands for a tuple, and its whole number for a float.
    return {float: (float, int), tuple: (tuple, list)}.get(kind, (kind,))


_KINDS = {name: _kinds(hint) for name, hint in get_type_hints(StudySpec).items()}


def _check_kinds(spec: StudySpec) -> None:
    """Refuse values of another type than annotated: documents and callers may hold anything.

    Raises:
        InvalidValueError: Names the setting, and what was found.
    """
    for name, kinds in _KINDS.items():
        value = getattr(spec, name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise InvalidValueError(f"{name} must be {wanted}, got {str(value)[:80]!r}")
    if not all(isinstance(one, str) for one in spec.from_studies):
        raise InvalidValueError(f"from_studies must be names, got {str(spec.from_studies)[:80]}")


IDENTITY_FIELDS = (
    "objective",
    "space",
    "fixed",
    "algorithm",
    "from_studies",
    "seed",
    "threads",
    "requirements",
)
"""A study started again must agree in these; the others may change (a larger budget, say)."""


LIMIT_FIELDS = ("max_trials", "timeout_s", "until_loss", "patience")
"""What decides when a study ends."""


@dataclass(frozen=True, slots=True)
class Study:
    """A study as it was when it was read."""

    spec: StudySpec
    state: StudyState
    created_at: datetime
    cutoffs: Mapping[int, float] = field(default_factory=dict)
    """Per reported step, what a trial's least loss so far must not exceed, or it is given up."""
    message: str = ""
    """Why the study is in its state, for people."""
    test_looks: tuple[Mapping[str, Any], ...] = ()
    """Every look taken at the test people: ``{"number", "test_accuracy", "at", ...}``."""

    @property
    def name(self) -> str:
        """The study's name."""
        return self.spec.name

    def look_at(self, number: int) -> Mapping[str, Any] | None:
        """The look at the test people for a trial, if one was taken."""
        return next((look for look in self.test_looks if look["number"] == number), None)


Counts = Mapping[TrialState, int]
"""Trials by state; every state is a key."""


def taken(counts: Counts) -> int:
    """How many places of its ``max_trials`` a study has given out: what runs, and has finished."""
    return sum(counts[state] for state in TAKEN_STATES)
