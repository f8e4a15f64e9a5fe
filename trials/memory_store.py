"""The queue in this process's memory: for tests, and for a search that needs no second process."""

from __future__ import annotations

import functools
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from trials import documents
from trials.documents import canonical, plain
from trials.rules import (
    LOST,
    check_cancel,
    check_kind,
    check_retry,
    check_same_study,
    feeder_lost,
    lease_lost,
    numbers_taken,
    reopens,
    study_exists,
    study_not_found,
    trial_not_found,
)
from trials.store import CHECKPOINT, LEASE_SECONDS, Control, NewTrial, Offer, WorkerInfo
from trials.study import Counts, Study, StudySpec, StudyState
from trials.transfer import check_whole, study_document, trial_document
from trials.trial import (
    Claim,
    Failure,
    FailureKind,
    Outcome,
    Report,
    Trial,
    TrialState,
    check_transition,
)

P = ParamSpec("P")
T = TypeVar("T")


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class _Entry:
    """A trial and what a store knows of it beside."""

    trial: Trial
    cancel: bool = False
    ended: tuple[Claim, str] | None = None
    """The latest claim that ended, and how: recognises a result that is told twice."""
    reported_by: dict[int, int] = field(default_factory=dict)
    """Attempt by step."""
    blobs: dict[str, bytes] = field(default_factory=dict)


@dataclass
class _StudyEntry:
    study: Study
    trials: list[_Entry] = field(default_factory=list)
    feeder: tuple[str, datetime] | None = None
    """Token, and when its lease runs out."""


def _locked(
    method: Callable[Concatenate[MemoryStore, P], T],
) -> Callable[Concatenate[MemoryStore, P], T]:
    @functools.wraps(method)
    def run(self: MemoryStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            return method(self, *args, **kwargs)

    return run


class MemoryStore:
    """A `trials.store.TrialStore` for the threads of one process.

    Args:
        clock: The store's clock; aware, UTC.
    """

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._studies: dict[str, _StudyEntry] = {}
        self._workers: dict[str, WorkerInfo] = {}

    # -- studies ---------------------------------------------------------------------------------

    @_locked
    def create_study(self, spec: StudySpec) -> Study:
        """See `TrialStore.create_study`."""
        spec = documents.decode_spec(documents.encode_spec(spec))
        if spec.name not in self._studies:
            study = Study(spec, StudyState.ACTIVE, self._clock())
            self._studies[spec.name] = _StudyEntry(study)
            return study
        entry = self._studies[spec.name]
        check_same_study(entry.study.spec, spec)
        if reopens(entry.study, spec, self.counts(spec.name)):
            entry.study = replace(entry.study, state=StudyState.ACTIVE, message="")
        entry.study = replace(entry.study, spec=spec)
        return entry.study

    @_locked
    def get_study(self, name: str) -> Study:
        """See `TrialStore.get_study`."""
        return self._study(name).study

    @_locked
    def list_studies(self) -> list[Study]:
        """See `TrialStore.list_studies`."""
        return sorted((e.study for e in self._studies.values()), key=lambda s: s.created_at)

    @_locked
    def set_study_state(self, name: str, state: StudyState, message: str = "") -> Study:
        """See `TrialStore.set_study_state`."""
        entry = self._study(name)
        entry.study = replace(entry.study, state=state, message=message)
        if state is StudyState.CANCELLED:
            for one in entry.trials:
                if one.trial.state in (TrialState.WAITING, TrialState.RUNNING):
                    self._cancel(one)
        return entry.study

    @_locked
    def delete_study(self, name: str) -> None:
        """See `TrialStore.delete_study`."""
        self._study(name)
        del self._studies[name]

    @_locked
    def restore_study(self, study: Study, trials: Sequence[Trial]) -> Study:
        """See `TrialStore.restore_study`."""
        check_whole(study, trials)
        if study.name in self._studies:
            raise study_exists(study.name)
        restored = documents.decode_study(study_document(study))
        entries = [_Entry(documents.decode_trial(trial_document(trial))) for trial in trials]
        self._studies[study.name] = _StudyEntry(restored, entries)
        return restored

    @_locked
    def record_test_look(self, name: str, look: Mapping[str, Any]) -> Study:
        """See `TrialStore.record_test_look`."""
        entry = self._study(name)
        logged = {**plain(look, "a look at the test people"), "at": self._clock()}
        entry.study = replace(entry.study, test_looks=(*entry.study.test_looks, logged))
        return entry.study

    # -- feeding ---------------------------------------------------------------------------------

    @_locked
    def acquire_feeder(self, name: str, token: str, lease_s: float = LEASE_SECONDS) -> bool:
        """See `TrialStore.acquire_feeder`."""
        entry, now = self._study(name), self._clock()
        if entry.feeder is not None and entry.feeder[0] != token and now < entry.feeder[1]:
            return False
        entry.feeder = (token, now + timedelta(seconds=lease_s))
        return True

    @_locked
    def unfed_studies(self) -> list[str]:
        """See `TrialStore.unfed_studies`."""
        now = self._clock()
        return sorted(
            name
            for name, entry in self._studies.items()
            if entry.study.state in (StudyState.ACTIVE, StudyState.STOPPING)
            and (entry.feeder is None or entry.feeder[1] <= now)
        )

    @_locked
    def release_feeder(self, name: str, token: str) -> None:
        """See `TrialStore.release_feeder`."""
        entry = self._study(name)
        if entry.feeder is not None and entry.feeder[0] == token:
            entry.feeder = None

    @_locked
    def set_cutoffs(self, name: str, token: str, cutoffs: Mapping[int, float]) -> None:
        """See `TrialStore.set_cutoffs`."""
        entry = self._study(name)
        self._check_feeder(entry, token)
        entry.study = replace(entry.study, cutoffs=dict(cutoffs))

    @_locked
    def add_trials(
        self, study: str, token: str | None, first_number: int, trials: Sequence[NewTrial]
    ) -> list[Trial]:
        """See `TrialStore.add_trials`."""
        entry = self._study(study)
        self._check_feeder(entry, token)
        now = self._clock()
        made = [
            documents.decode_trial(documents.encode_trial(study, number, new, now))
            for number, new in enumerate(trials, first_number)
        ]
        there = [e.trial for e in entry.trials[first_number : first_number + len(made)]]
        same = all(canonical(a.params) == canonical(b.params) for a, b in zip(there, made))  # noqa: B905
        if first_number > len(entry.trials) or not same:
            raise numbers_taken(study, first_number)
        entry.trials += [_Entry(trial) for trial in made[len(there) :]]
        return there + made[len(there) :]

    # -- one trial's life ------------------------------------------------------------------------

    @_locked
    def offers(self) -> list[Offer]:
        """See `TrialStore.offers`."""
        made = []
        for name, entry in sorted(self._studies.items()):
            counts, spec = self.counts(name), entry.study.spec
            if entry.study.state is StudyState.ACTIVE and counts[TrialState.WAITING]:
                made.append(Offer(name, spec.objective, spec.priority, counts[TrialState.RUNNING]))
        return made

    @_locked
    def reserve(
        self, study: str, worker: str, host: str, token: str, lease_s: float = LEASE_SECONDS
    ) -> Trial | None:
        """See `TrialStore.reserve`."""
        entry = self._study(study)
        for one in entry.trials:
            if one.trial.token == token:
                return one.trial
        waiting = [e for e in entry.trials if e.trial.state is TrialState.WAITING]
        if entry.study.state is not StudyState.ACTIVE or not waiting:
            return None
        fresh = [e for e in waiting if all(f.host != host for f in e.trial.failures)]
        chosen, now = (fresh or waiting)[0], self._clock()
        chosen.cancel = False
        chosen.trial = replace(
            chosen.trial,
            state=TrialState.RUNNING,
            attempt=chosen.trial.attempt + 1,
            token=token,
            worker=worker,
            host=host,
            started_at=now,
            lease_expires_at=now + timedelta(seconds=lease_s),
        )
        return chosen.trial

    @_locked
    def beat(self, claim: Claim, lease_s: float = LEASE_SECONDS) -> Control:
        """See `TrialStore.beat`."""
        entry = self._owned(claim)
        expires = self._clock() + timedelta(seconds=lease_s)
        entry.trial = replace(entry.trial, lease_expires_at=expires)
        study = self._study(claim.study).study
        return Control(study.state, dict(study.cutoffs), entry.cancel)

    @_locked
    def report(self, claim: Claim, reports: Sequence[Report]) -> None:
        """See `TrialStore.report`."""
        encoded = [documents.encode_report(one, claim.attempt) for one in reports]
        entry = self._owned(claim)
        by_step = {one.step: one for one in entry.trial.reports}
        for one, document in zip(reports, encoded, strict=True):
            if entry.reported_by.get(one.step) != claim.attempt:
                entry.reported_by[one.step] = claim.attempt
                by_step[one.step] = replace(one, metrics=document["metrics"])
        ordered = tuple(by_step[step] for step in sorted(by_step))
        entry.trial = replace(entry.trial, reports=ordered)

    @_locked
    def finish(self, claim: Claim, outcome: Outcome) -> Trial:
        """See `TrialStore.finish`."""
        encoded = documents.encode_outcome(outcome)
        ending = (claim, canonical([outcome.state, encoded["loss"]]))
        known = self._find(claim.study, claim.number)
        if known is not None and known.ended == ending:
            return known.trial
        entry = self._owned(claim)
        entry.ended = ending
        waits = outcome.state is TrialState.WAITING
        entry.trial = replace(
            self._ended(entry, outcome.state, outcome.failure),
            retries=entry.trial.retries + (waits and outcome.counts_as_retry),
            loss=None if waits else encoded["loss"],
            result={} if waits else encoded["result"],
        )
        return entry.trial

    def _ended(self, entry: _Entry, state: TrialState, failure: Failure | None) -> Trial:
        """The trial after an attempt; back in the queue only if nobody cancelled it meanwhile."""
        if state is TrialState.WAITING and entry.cancel:
            state = TrialState.CANCELLED
        check_transition(entry.trial.state, state)
        failures = entry.trial.failures
        if failure is not None:
            failures = (*failures, documents.legible(failure))
        if state.is_finished:
            entry.blobs.pop(CHECKPOINT, None)
        return replace(
            entry.trial,
            state=state,
            token=None,
            lease_expires_at=None,
            failures=failures,
            finished_at=self._clock() if state.is_finished else None,
            worker=entry.trial.worker if state.is_finished else None,
            host=entry.trial.host if state.is_finished else None,
        )

    @_locked
    def release_expired(self) -> list[Trial]:
        """See `TrialStore.release_expired`."""
        released, now = [], self._clock()
        for one in (entry for study in self._studies.values() for entry in study.trials):
            old = one.trial
            if old.lease_expires_at is not None and old.lease_expires_at <= now:
                lost = Failure(
                    FailureKind.LOST_WORKER, LOST, old.worker or "", old.host or "", old.attempt
                )
                one.trial = self._ended(one, TrialState.WAITING, lost)
                released.append(one.trial)
        return released

    @_locked
    def cancel_trial(self, study: str, number: int) -> Trial:
        """See `TrialStore.cancel_trial`."""
        entry = self._trial(study, number)
        check_cancel(number, entry.trial.state)
        self._cancel(entry)
        return entry.trial

    def _cancel(self, entry: _Entry) -> None:
        entry.cancel = True
        if entry.trial.state is TrialState.WAITING:
            entry.trial = self._ended(entry, TrialState.CANCELLED, None)

    @_locked
    def retry_trial(self, study: str, number: int) -> Trial:
        """See `TrialStore.retry_trial`."""
        entry = self._trial(study, number)
        check_retry(number, entry.trial.state)
        if entry.trial.state is not TrialState.WAITING:
            entry.cancel = False
            entry.reported_by.clear()
            waiting = self._ended(entry, TrialState.WAITING, None)
            entry.trial = replace(waiting, retries=0, loss=None, result={}, reports=())
        return entry.trial

    # -- reading ---------------------------------------------------------------------------------

    @_locked
    def get_trial(self, study: str, number: int) -> Trial:
        """See `TrialStore.get_trial`."""
        return self._trial(study, number).trial

    @_locked
    def list_trials(
        self, study: str, states: Sequence[TrialState] | None = None, with_reports: bool = True
    ) -> list[Trial]:
        """See `TrialStore.list_trials`."""
        chosen = [
            entry.trial
            for entry in self._study(study).trials
            if states is None or entry.trial.state in states
        ]
        return chosen if with_reports else [replace(trial, reports=()) for trial in chosen]

    @_locked
    def counts(self, study: str) -> Counts:
        """See `TrialStore.counts`."""
        found = Counter(entry.trial.state for entry in self._study(study).trials)
        return {state: found[state] for state in TrialState}

    @_locked
    def best_trial(self, study: str) -> Trial | None:
        """See `TrialStore.best_trial`."""
        complete = [
            (trial.loss, trial.number, trial)
            for trial in self.list_trials(study, [TrialState.COMPLETE])
            if trial.loss is not None and not math.isnan(trial.loss)
        ]
        return min(complete)[2] if complete else None

    # -- blobs -----------------------------------------------------------------------------------

    @_locked
    def save_blob(self, claim: Claim, kind: str, data: bytes) -> None:
        """See `TrialStore.save_blob`."""
        self._owned(claim).blobs[check_kind(kind)] = bytes(data)

    @_locked
    def load_blob(self, study: str, number: int, kind: str) -> bytes | None:
        """See `TrialStore.load_blob`."""
        entry = self._find(study, number)
        return None if entry is None else entry.blobs.get(check_kind(kind))

    @_locked
    def drop_blobs(self, study: str, kind: str, keep: Sequence[int]) -> int:
        """See `TrialStore.drop_blobs`."""
        dropped = [
            entry.blobs.pop(check_kind(kind), None)
            for entry in self._study(study).trials
            if entry.trial.state.is_finished and entry.trial.number not in keep
        ]
        return len(dropped) - dropped.count(None)

    def sweep_blobs(self) -> int:
        """See `TrialStore.sweep_blobs`; here every blob is whole."""
        return 0

    # -- workers ---------------------------------------------------------------------------------

    @_locked
    def beat_worker(self, worker: WorkerInfo) -> None:
        """See `TrialStore.beat_worker`."""
        encoded = {"_id": worker.name, **documents.encode_worker(worker)}
        seen = documents.decode_worker({**encoded, "last_seen_at": self._clock()})
        self._workers[worker.name] = seen

    @_locked
    def remove_worker(self, name: str) -> None:
        """See `TrialStore.remove_worker`."""
        self._workers.pop(name, None)

    @_locked
    def list_workers(self, seen_within_s: float = LEASE_SECONDS) -> list[WorkerInfo]:
        """See `TrialStore.list_workers`."""
        since = self._clock() - timedelta(seconds=seen_within_s)
        return [
            worker
            for _, worker in sorted(self._workers.items())
            if worker.last_seen_at is not None and worker.last_seen_at >= since
        ]

    def close(self) -> None:
        """See `TrialStore.close`; nothing to let go of."""

    # -- finding ---------------------------------------------------------------------------------

    def _study(self, name: str) -> _StudyEntry:
        if name not in self._studies:
            raise study_not_found(name, self._studies)
        return self._studies[name]

    def _find(self, study: str, number: int) -> _Entry | None:
        trials = self._studies[study].trials if study in self._studies else []
        return trials[number] if 0 <= number < len(trials) else None

    def _trial(self, study: str, number: int) -> _Entry:
        entry = self._find(study, number)
        if entry is None:
            raise trial_not_found(study, number)
        return entry

    def _owned(self, claim: Claim) -> _Entry:
        entry = self._find(claim.study, claim.number)
        if entry is None:
            raise lease_lost(claim, "deleted")
        if (entry.trial.token, entry.trial.attempt) != (claim.token, claim.attempt):
            raise lease_lost(claim, f"{entry.trial.state}, attempt {entry.trial.attempt}")
        return entry

    def _check_feeder(self, entry: _StudyEntry, token: str | None) -> None:
        if token is not None and (entry.feeder is None or entry.feeder[0] != token):
            raise feeder_lost(entry.study.name)
