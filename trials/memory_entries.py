"""What the store in memory keeps, and how one trial changes there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from trials.documents import legible
from trials.rules import LOST, LOST_AGAIN, MOST_LOSSES
from trials.store import CHECKPOINT
from trials.study import Study
from trials.trial import Claim, Failure, FailureKind, Trial, TrialState, check_transition


@dataclass
class Entry:
    """A trial and what a store knows of it beside."""

    trial: Trial
    cancelled: bool = False
    """Someone asked for it; a running trial's worker hears of it with its next beat."""
    ended: tuple[Claim, str] | None = None
    """The latest claim that ended, and how: recognises a result that is told twice."""
    requeued_at: datetime | None = None
    """When its latest attempt went wrong, where that led to another try."""
    losses: int = 0
    """Workers lost in a row, each before its first report."""
    reported_by: dict[int, int] = field(default_factory=dict)
    """Attempt by step."""
    blobs: dict[str, bytes] = field(default_factory=dict)

    def is_open_to(self, worker: str, waited: datetime) -> bool:
        """Whether it waits, and did not fail on this very worker since ``waited``."""
        if self.trial.state is not TrialState.WAITING:
            return False
        if self.requeued_at is None or self.requeued_at <= waited:
            return True
        return all(failure.worker != worker for failure in self.trial.failures)

    def end(self, state: TrialState, failure: Failure | None, now: datetime) -> None:
        """End an attempt; back to the queue only if nobody cancelled the trial meanwhile.

        Raises:
            IllegalTransitionError: If the trial's state has no such successor.
        """
        if state is TrialState.WAITING and self.cancelled:
            state = TrialState.CANCELLED
        check_transition(self.trial.state, state)
        failures = self.trial.failures
        if failure is not None:
            failures = (*failures, legible(failure))
        if state.is_finished:
            self.blobs.pop(CHECKPOINT, None)
        self.trial = replace(
            self.trial,
            state=state,
            token=None,
            lease_expires_at=None,
            failures=failures,
            finished_at=now if state.is_finished else None,
            worker=self.trial.worker if state.is_finished else None,
            host=self.trial.host if state.is_finished else None,
        )

    def lose_worker(self, now: datetime) -> None:
        """Return it to the queue, or end it after `MOST_LOSSES`."""
        old = self.trial
        self.losses = 0 if old.attempt in self.reported_by.values() else self.losses + 1
        is_last = self.losses >= MOST_LOSSES and not self.cancelled
        message = LOST_AGAIN if is_last else LOST
        who = old.worker or "", old.host or "", old.attempt
        failure = Failure(FailureKind.LOST_WORKER, message, *who)
        self.end(TrialState.FAILED if is_last else TrialState.WAITING, failure, now)

    def give_back(self, now: datetime) -> None:
        """Undo a reservation."""
        self.end(TrialState.WAITING, None, now)
        attempt = self.trial.attempt - 1
        started_at = self.trial.started_at if attempt else None
        self.trial = replace(self.trial, attempt=attempt, started_at=started_at)

    def cancel(self, now: datetime) -> None:
        """Cancel a WAITING trial at once, a RUNNING one through its next beat."""
        self.cancelled = True
        if self.trial.state is TrialState.WAITING:
            self.end(TrialState.CANCELLED, None, now)


@dataclass
class StudyEntry:
    """A study, its trials by number, and who feeds it."""

    study: Study
    trials: list[Entry] = field(default_factory=list)
    feeder: tuple[str, datetime] | None = None
    """Token, and when its lease runs out."""
