"""The store contract: what a queue of trials promises, whichever way it keeps them.

Rules that every store keeps (`tests/trials_tests/test_store_contract.py` runs over all of them):

* **One owner.** A RUNNING trial belongs to one `Claim` (study, number, attempt, token). `beat`,
  `report`, `finish` and `save_blob` are compare-and-set on state, attempt and token: a stale claim
  is refused with `LeaseLostError` and changes nothing.
* **Told twice is told once.** A write whose answer was lost may be sent again: `reserve` with the
  same token returns the same trial, `finish` with the same claim and outcome is recognised as done,
  a report of a step already reported by this attempt is dropped.
* **No trial beyond the budget.** Of a study with ``max_trials`` no more run and have finished
  (`BUDGET_STATES`) together, however many wait: `reserve` gives none out beyond it.
* **The store's clock.** Leases are granted and judged by the store's clock alone. Workers' clocks
  may be wrong.
* **Values come back as they went in.** Params keep their types (int stays int), NaN stays NaN.
* **Outages.** A method that cannot reach the database retries with jittered backoff for as long as
  its store was told to, then raises `StoreUnavailableError`.
* **Nothing read is executed.** A document that does not fit is refused for that trial alone. A
  study that cannot be read, or is of another version, is left out of `list_studies` and `offers`
  and logged; whoever asks for it by name gets the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from trials.study import Counts, Study, StudySpec, StudyState
from trials.trial import Claim, Outcome, Report, Trial, TrialState

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 3.0
ELSEWHERE_SECONDS = 10.0
"""How long a trial that is tried again waits for another worker than those on which it failed. An
idle worker asks every 1.25 s or sooner, and after an outage every 5 s: whoever is free has asked
twice. Beside the minutes that a trial takes it is little, for a worker that is alone."""
REUNION_SECONDS = 15.0
"""After an outage, until whoever lives is heard of again: the longest pause between two tries, a
try that still waits for an answer or a connection, and a heartbeat. Who has just started cannot
know whether there was one, and takes back no lease before."""
CHECKPOINT = "checkpoint"
"""Blob kind: where a stopped attempt goes on from; deleted when the trial finishes."""
WEIGHTS = "weights"
"""Blob kind: what a finished trial leaves behind, for `best --save` and the test people."""
LOG = "log"
"""Blob kind: the trial's own output (stdout and stderr), UTF-8."""


@dataclass(frozen=True, slots=True)
class NewTrial:
    """A suggestion on its way into the queue."""

    params: Mapping[str, Any]
    seed: int
    suggestion: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself with every beat."""

    name: str
    """Unique: host, process id and a random suffix."""
    host: str
    pid: int
    slots: tuple[Mapping[str, Any], ...] = ()
    """One a slot: ``{"device": str, "study": str | None, "number": int | None, "state": str}``."""
    version: str = ""
    message: str = ""
    """For people: quarantined and why, studies left alone and why."""
    studies: tuple[str, ...] | None = None
    """The only ones it serves; None: all."""
    last_seen_at: datetime | None = None
    """By the store's clock; set by the store."""

    def serves(self, study: str) -> bool:
        """Whether it was started for this study, among others."""
        return self.studies is None or study in self.studies


@dataclass(frozen=True, slots=True)
class Control:
    """What a beat brings back: how the trial should go on."""

    study_state: StudyState
    cutoffs: Mapping[int, float]
    cancel: bool = False
    """This one trial was cancelled."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A study that has trials to reserve, as seen by a worker that chooses between studies."""

    study: str
    objective: str
    priority: int
    running: int


class TrialStore(Protocol):
    """Where studies and trials are kept. Safe to use from several threads."""

    def now(self) -> datetime:
        """The store's clock, which alone says when a study's time is up."""

    # -- studies ---------------------------------------------------------------------------------

    def create_study(self, spec: StudySpec) -> Study:
        """Write a study, or return the one of this name when it agrees in `IDENTITY_FIELDS`.

        Fields outside `IDENTITY_FIELDS` are updated to the new spec. A COMPLETE study whose
        ``max_trials`` is above its finished trials becomes ACTIVE again, and so does a STOPPING one
        whose ``max_trials`` or ``timeout_s`` was raised.

        Raises:
            StudyMismatchError: If a study of this name differs; names each field with both values.
        """

    def get_study(self, name: str) -> Study:
        """Read a study.

        Raises:
            StudyNotFoundError: If there is none; names the closest existing ones.
        """

    def list_studies(self) -> list[Study]:
        """Read all studies, oldest first."""

    def set_study_state(
        self,
        name: str,
        state: StudyState,
        message: str = "",
        *,
        was: Study | None = None,
        token: str | None = None,
    ) -> Study:
        """Pause, resume, stop, complete or cancel a study.

        CANCELLED also cancels its WAITING trials and tells running ones through `Control`.

        Args:
            name: The study's name.
            state: A state that `LEGAL_STUDY_TRANSITIONS` allows, or the one that it has.
            message: Why, for people.
            was: What the caller had read when it decided so. A program names it, so that it does
                not overrule what somebody did meanwhile; a person means what he says.
            token: The feeder's token, if a feeder decided so.

        Raises:
            IllegalTransitionError: If the study's state does not allow it.
            StudyChangedError: If its state or one of `LIMIT_FIELDS` is no longer as in ``was``.
            LeaseLostError: If ``token`` is not the feeder's.
        """

    def delete_study(self, name: str) -> None:
        """Remove a study with its trials and blobs."""

    def restore_study(self, study: Study, trials: Sequence[Trial]) -> Study:
        """Write a study with its trials as they were in another store, blobs left out.

        A RUNNING trial is WAITING here: its worker belongs to the other store.

        Args:
            study: Its state, times, cut-offs and test looks are kept.
            trials: All of its trials, by number.

        Raises:
            StudyMismatchError: If there is a study of this name.
            InvalidValueError: If the trials are not the study's 0, 1, 2, ...
        """

    def record_test_look(self, name: str, look: Mapping[str, Any]) -> Study:
        """Log one look at the test people; ``look`` plus ``at`` (store's clock).

        Of two launchers that look for the same trial (``number``) at once the first one's counts.
        """

    # -- feeding ---------------------------------------------------------------------------------

    def acquire_feeder(self, name: str, token: str, lease_s: float = LEASE_SECONDS) -> bool:
        """Become (or stay) the study's one feeder; False while another holds the lease."""

    def release_feeder(self, name: str, token: str) -> None:
        """Give the feeder's lease back; without effect when it is not held by ``token``."""

    def unfed_studies(self) -> list[str]:
        """Names of ACTIVE and STOPPING studies whose feeder's lease is free, alphabetically."""

    def set_cutoffs(self, name: str, token: str, cutoffs: Mapping[int, float]) -> None:
        """Publish the pruner's cut-offs (feeder only).

        Raises:
            LeaseLostError: If ``token`` is not the feeder's.
        """

    def add_trials(
        self, study: str, token: str | None, first_number: int, trials: Sequence[NewTrial]
    ) -> list[Trial]:
        """Append WAITING trials numbered from ``first_number``.

        Args:
            study: The study's name.
            token: The feeder's token; None for trials a person enqueues.
            first_number: The number of trials the caller saw; guards against a second feeder.
            trials: What to add.

        Returns:
            The trials as stored. Trials already there with the same number and params are returned
            as they are (an answer was lost).

        Raises:
            LeaseLostError: If ``token`` is not the feeder's, or the numbers are taken by others.
        """

    # -- one trial's life ------------------------------------------------------------------------

    def offers(self) -> list[Offer]:
        """Studies that are ACTIVE and have WAITING trials, with how many of their trials run."""

    def reserve(
        self,
        study: str,
        worker: str,
        host: str,
        token: str,
        lease_s: float = LEASE_SECONDS,
        elsewhere_s: float = ELSEWHERE_SECONDS,
    ) -> Trial | None:
        """Take the lowest-numbered WAITING trial of an ACTIVE study; None when there is none.

        None, too, while as many run and have finished as the study's ``max_trials`` says.
        A trial that no change fits into any more (MongoDB keeps 16 MB of one) becomes FAILED.
        A trial whose latest attempt used up a retry is kept from the workers on which it failed
        until it has waited ``elsewhere_s``; then it is anybody's, so that a lone worker gets it.
        """

    def beat(self, claim: Claim, lease_s: float = LEASE_SECONDS) -> Control:
        """Renew the lease and read what people decided meanwhile.

        Raises:
            LeaseLostError: If the claim is stale.
        """

    def report(self, claim: Claim, reports: Sequence[Report]) -> None:
        """Append reports; steps this trial reported before (a resumed attempt) are replaced.

        Raises:
            LeaseLostError: If the claim is stale.
        """

    def finish(self, claim: Claim, outcome: Outcome) -> Trial:
        """End an attempt.

        A finished trial's CHECKPOINT blob is deleted. With ``outcome.state`` WAITING the trial
        returns to the queue under its old number, keeps reports and checkpoint, and its failure (if
        any) is appended.

        Raises:
            LeaseLostError: If the claim is stale and this outcome was not recorded under it.
        """

    def release_expired(self) -> list[Trial]:
        """Return trials whose lease ran out to WAITING, with a LOST_WORKER failure; not a retry.

        One that lost `MOST_LOSSES` workers in a row, each before its first report, becomes FAILED.
        After an outage that others may have shared, they get the time to renew their leases.
        """

    def cancel_trial(self, study: str, number: int) -> Trial:
        """Cancel a WAITING trial at once, a RUNNING one through its next beat."""

    def retry_trial(self, study: str, number: int) -> Trial:
        """Put a FAILED or CANCELLED trial back to WAITING with its retries cleared.

        A COMPLETE study becomes ACTIVE by it.

        Raises:
            IllegalTransitionError: If the trial runs or has a result, the study is STOPPING or
                CANCELLED, or its budget has no place left for a CANCELLED trial, which was
                replaced.
        """

    # -- reading ---------------------------------------------------------------------------------

    def get_trial(self, study: str, number: int) -> Trial:
        """Read one trial.

        Raises:
            TrialNotFoundError: If there is none.
        """

    def list_trials(
        self, study: str, states: Sequence[TrialState] | None = None, with_reports: bool = True
    ) -> list[Trial]:
        """Read trials by number; ``with_reports=False`` leaves `Trial.reports` empty (cheaper).

        Without ``states`` every trial is there, also one that changes its state meanwhile; with
        them such a trial may be missing, though it was in one of them all the time.
        """

    def counts(self, study: str) -> Counts:
        """Count trials by state; one that changes its state meanwhile may be missing."""

    def best_trial(self, study: str) -> Trial | None:
        """The COMPLETE trial of least loss (NaN excluded; ties: lowest number)."""

    # -- blobs -----------------------------------------------------------------------------------

    def save_blob(self, claim: Claim, kind: str, data: bytes) -> None:
        """Keep bytes with a trial, replacing what it had of this kind.

        Raises:
            LeaseLostError: If the claim is stale.
        """

    def load_blob(self, study: str, number: int, kind: str) -> bytes | None:
        """Read a trial's bytes, None when it has none of this kind."""

    def drop_blobs(self, study: str, kind: str, keep: Sequence[int]) -> int:
        """Delete blobs of finished trials except those of the numbers in ``keep``; how many."""

    def sweep_blobs(self) -> int:
        """Delete what uploads that were cut off left behind; how many blobs that was."""

    # -- workers ---------------------------------------------------------------------------------

    def beat_worker(self, worker: WorkerInfo) -> None:
        """Say that a worker is alive."""

    def remove_worker(self, name: str) -> None:
        """Say that a worker has left."""

    def list_workers(self, seen_within_s: float = LEASE_SECONDS) -> list[WorkerInfo]:
        """Workers heard of within that many seconds, by name."""

    def close(self) -> None:
        """Let go of connections."""
