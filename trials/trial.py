"""One trial: a set of parameters, what became of it, and which steps between states are legal."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trials.errors import IllegalTransitionError


class TrialState(enum.StrEnum):
    """Where a trial stands."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to the trial by itself."""
        return self in FINISHED_STATES


FINISHED_STATES = frozenset(
    {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.CANCELLED}
)
BUDGET_STATES = frozenset({TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED})
"""States that count towards ``max_trials``: a cancelled trial was never answered."""

TAKEN_STATES = (TrialState.RUNNING, *sorted(BUDGET_STATES))
"""States that take up a place of ``max_trials``; running first, since from there they move on."""

LEGAL_TRANSITIONS: Mapping[TrialState, frozenset[TrialState]] = {
    TrialState.WAITING: frozenset({TrialState.RUNNING, TrialState.CANCELLED}),
    # Back to WAITING: stopped with a checkpoint, refused by this worker, or lost with its worker.
    TrialState.RUNNING: FINISHED_STATES | {TrialState.WAITING},
    TrialState.FAILED: frozenset({TrialState.WAITING}),  # `larnn-search retry`
    TrialState.CANCELLED: frozenset({TrialState.WAITING}),  # `larnn-search retry`
    TrialState.COMPLETE: frozenset(),
    TrialState.PRUNED: frozenset(),
}


def check_transition(old: TrialState, new: TrialState) -> None:
    """Refuse a step that `LEGAL_TRANSITIONS` does not list.

    Raises:
        IllegalTransitionError: If a trial in state ``old`` cannot become ``new``.
    """
    if new not in LEGAL_TRANSITIONS[old]:
        allowed = ", ".join(sorted(LEGAL_TRANSITIONS[old])) or "nothing: it is final"
        raise IllegalTransitionError(f"a {old} trial cannot become {new}; it can become {allowed}")


class FailureKind(enum.StrEnum):
    """Why an attempt ended without a result; each has its own retry policy (`failures.py`)."""

    EXCEPTION = "exception"
    CRASH = "crash"
    OUT_OF_MEMORY = "out of memory"
    NAN_LOSS = "nan loss"
    TIMEOUT = "timeout"
    STALL = "stall"
    LOST_WORKER = "lost worker"


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in one attempt."""

    kind: FailureKind
    message: str
    worker: str
    host: str
    attempt: int
    traceback: str = ""
    """Last lines of the traceback, where there is one."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an objective said about one step (for the LARNN: one epoch)."""

    step: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    """Seconds of this trial's running time until the report, attempts before this one included."""


def least_loss(reports: Iterable[Report]) -> float:
    """The least loss reported; infinite where there is none, and for NaN."""
    return min((r.loss for r in reports if not math.isnan(r.loss)), default=math.inf)


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to one attempt at one trial; every write names it, stale ones fail."""

    study: str
    number: int
    attempt: int
    token: str
    """Made by the worker, so that a reservation whose answer was lost can be found again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    state: TrialState
    """COMPLETE, PRUNED, FAILED or CANCELLED; WAITING gives the trial back to the queue."""
    loss: float | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    """What the objective returned beside loss and status: plain JSON values."""
    failure: Failure | None = None
    counts_as_retry: bool = False
    """With WAITING: whether this attempt uses up one of the study's ``max_retries``."""

    def __post_init__(self) -> None:
        if self.state is TrialState.RUNNING:
            raise IllegalTransitionError("an attempt cannot end as RUNNING")
        if self.state is TrialState.COMPLETE and self.loss is None:
            raise IllegalTransitionError("a COMPLETE trial needs a loss")
        if self.state is TrialState.FAILED and self.failure is None:
            raise IllegalTransitionError("a FAILED trial needs the failure that ended it")


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial as it was when it was read."""

    study: str
    number: int
    """0-based, in order of suggestion."""
    state: TrialState
    params: Mapping[str, Any]
    """Decoded values, sampled and fixed ones: exactly what trains."""
    seed: int
    created_at: datetime
    attempt: int = 0
    """How often it was reserved; 0 before the first time."""
    retries: int = 0
    """How many attempts counted against ``max_retries``."""
    token: str | None = None
    worker: str | None = None
    host: str | None = None
    started_at: datetime | None = None
    """Start of the latest attempt."""
    finished_at: datetime | None = None
    lease_expires_at: datetime | None = None
    loss: float | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    reports: tuple[Report, ...] = ()
    failures: tuple[Failure, ...] = ()
    """One for each attempt that went wrong, oldest first."""
    suggestion: Mapping[str, Any] = field(default_factory=dict)
    """How the params were found: ``{"origin": "tpe" | "enqueued" | ..., "draw": int, ...}``."""

    def __post_init__(self) -> None:
        if (self.state is TrialState.RUNNING) != (self.token is not None):
            raise IllegalTransitionError(
                f"trial {self.number} of study {self.study!r}: a token belongs to a RUNNING trial "
                f"and to no other, found state {self.state} and token {self.token!r}"
            )

    @property
    def claim(self) -> Claim:
        """The right under which the trial runs now.

        Raises:
            IllegalTransitionError: If it does not run.
        """
        if self.token is None:
            raise IllegalTransitionError(f"trial {self.number} is {self.state}: nobody claims it")
        return Claim(self.study, self.number, self.attempt, self.token)
