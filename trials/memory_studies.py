"""Studies, feeders and workers in this process's memory."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from trials.clock import utc_now
from trials.documents import encode_spec, encode_trial, encode_worker
from trials.memory_entries import Entry, StudyEntry
from trials.reading import decode_spec, decode_study, decode_trial, decode_worker
from trials.rules import (
    check_same_study,
    check_study_change,
    feeder_lost,
    numbers_taken,
    reopens,
    study_exists,
    study_not_found,
)
from trials.store import LEASE_SECONDS, NewTrial, Offer, WorkerInfo
from trials.study import Counts, Study, StudySpec, StudyState
from trials.transfer import check_whole, study_document, trial_document
from trials.trial import Trial, TrialState
from trials.values import canonical, plain

S = TypeVar("S", bound="MemoryStudies")
P = ParamSpec("P")
T = TypeVar("T")


def locked(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Let one thread at a time into a store's methods."""

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            return method(self, *args, **kwargs)

    return run


class MemoryStudies:
    """The part of `MemoryStore` that concerns studies as a whole."""

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._studies: dict[str, StudyEntry] = {}
        self._workers: dict[str, WorkerInfo] = {}

    def now(self) -> datetime:
        """See `TrialStore.now`."""
        return self._clock()

    # -- studies ---------------------------------------------------------------------------------

    @locked
    def create_study(self, spec: StudySpec) -> Study:
        """See `TrialStore.create_study`."""
        spec = decode_spec(encode_spec(spec))
        if spec.name not in self._studies:
            study = Study(spec, StudyState.ACTIVE, self._clock())
            self._studies[spec.name] = StudyEntry(study)
            return study
        entry = self._studies[spec.name]
        check_same_study(entry.study.spec, spec)
        if reopens(entry.study, spec, self.counts(spec.name)):
            entry.study = replace(entry.study, state=StudyState.ACTIVE, message="")
        entry.study = replace(entry.study, spec=spec)
        return entry.study

    @locked
    def get_study(self, name: str) -> Study:
        """See `TrialStore.get_study`."""
        return self._study(name).study

    @locked
    def list_studies(self) -> list[Study]:
        """See `TrialStore.list_studies`."""
        return sorted((e.study for e in self._studies.values()), key=lambda s: s.created_at)

    @locked
    def set_study_state(
        self,
        name: str,
        state: StudyState,
        message: str = "",
        *,
        was: Study | None = None,
        token: str | None = None,
    ) -> Study:
        """See `TrialStore.set_study_state`."""
        entry = self._study(name)
        self._check_feeder(entry, token)
        check_study_change(entry.study, state, message, was)
        entry.study = replace(entry.study, state=state, message=message)
        if state is StudyState.CANCELLED:
            for one in entry.trials:
                if one.trial.state in (TrialState.WAITING, TrialState.RUNNING):
                    one.cancel(self._clock())
        return entry.study

    @locked
    def delete_study(self, name: str) -> None:
        """See `TrialStore.delete_study`."""
        self._study(name)
        del self._studies[name]

    @locked
    def restore_study(self, study: Study, trials: Sequence[Trial]) -> Study:
        """See `TrialStore.restore_study`."""
        check_whole(study, trials)
        if study.name in self._studies:
            raise study_exists(study.name)
        restored = decode_study(study_document(study))
        entries = [Entry(decode_trial(trial_document(trial))) for trial in trials]
        self._studies[study.name] = StudyEntry(restored, entries)
        return restored

    @locked
    def record_test_look(self, name: str, look: Mapping[str, Any]) -> Study:
        """See `TrialStore.record_test_look`."""
        entry = self._study(name)
        if entry.study.look_at(look["number"]) is not None:
            return entry.study
        logged = {**plain(look, "a look at the test people"), "at": self._clock()}
        entry.study = replace(entry.study, test_looks=(*entry.study.test_looks, logged))
        return entry.study

    # -- feeding ---------------------------------------------------------------------------------

    @locked
    def acquire_feeder(self, name: str, token: str, lease_s: float = LEASE_SECONDS) -> bool:
        """See `TrialStore.acquire_feeder`."""
        entry, now = self._study(name), self._clock()
        if entry.feeder is not None and entry.feeder[0] != token and now < entry.feeder[1]:
            return False
        entry.feeder = (token, now + timedelta(seconds=lease_s))
        return True

    @locked
    def unfed_studies(self) -> list[str]:
        """See `TrialStore.unfed_studies`."""
        now = self._clock()
        return sorted(
            name
            for name, entry in self._studies.items()
            if entry.study.state in (StudyState.ACTIVE, StudyState.STOPPING)
            and (entry.feeder is None or entry.feeder[1] <= now)
        )

    @locked
    def release_feeder(self, name: str, token: str) -> None:
        """See `TrialStore.release_feeder`."""
        entry = self._study(name)
        if entry.feeder is not None and entry.feeder[0] == token:
            entry.feeder = None

    @locked
    def set_cutoffs(self, name: str, token: str, cutoffs: Mapping[int, float]) -> None:
        """See `TrialStore.set_cutoffs`."""
        entry = self._study(name)
        self._check_feeder(entry, token)
        entry.study = replace(entry.study, cutoffs=dict(cutoffs))

    @locked
    def add_trials(
        self, study: str, token: str | None, first_number: int, trials: Sequence[NewTrial]
    ) -> list[Trial]:
        """See `TrialStore.add_trials`."""
        entry = self._study(study)
        self._check_feeder(entry, token)
        now = self._clock()
        made = [
            decode_trial(encode_trial(study, number, new, now))
            for number, new in enumerate(trials, first_number)
        ]
        there = [e.trial for e in entry.trials[first_number : first_number + len(made)]]
        same = all(canonical(a.params) == canonical(b.params) for a, b in zip(there, made))  # noqa: B905  # one may be shorter
        if first_number > len(entry.trials) or not same:
            raise numbers_taken(study, first_number)
        entry.trials += [Entry(trial) for trial in made[len(there) :]]
        return there + made[len(there) :]

    # -- choosing --------------------------------------------------------------------------------

    @locked
    def offers(self) -> list[Offer]:
        """See `TrialStore.offers`."""
        made = []
        for name, entry in sorted(self._studies.items()):
            counts, spec = self.counts(name), entry.study.spec
            if entry.study.state is StudyState.ACTIVE and counts[TrialState.WAITING]:
                made.append(Offer(name, spec.objective, spec.priority, counts[TrialState.RUNNING]))
        return made

    @locked
    def counts(self, study: str) -> Counts:
        """See `TrialStore.counts`."""
        found = Counter(entry.trial.state for entry in self._study(study).trials)
        return {state: found[state] for state in TrialState}

    # -- workers ---------------------------------------------------------------------------------

    @locked
    def beat_worker(self, worker: WorkerInfo) -> None:
        """See `TrialStore.beat_worker`."""
        encoded = {"_id": worker.name, **encode_worker(worker)}
        seen = decode_worker({**encoded, "last_seen_at": self._clock()})
        self._workers[worker.name] = seen

    @locked
    def remove_worker(self, name: str) -> None:
        """See `TrialStore.remove_worker`."""
        self._workers.pop(name, None)

    @locked
    def list_workers(self, seen_within_s: float = LEASE_SECONDS) -> list[WorkerInfo]:
        """See `TrialStore.list_workers`."""
        since = self._clock() - timedelta(seconds=seen_within_s)
        return [
            worker
            for _, worker in sorted(self._workers.items())
            if worker.last_seen_at is not None and worker.last_seen_at >= since
        ]

    # -- finding ---------------------------------------------------------------------------------

    def _study(self, name: str) -> StudyEntry:
        if name not in self._studies:
            raise study_not_found(name, self._studies)
        return self._studies[name]

    def _check_feeder(self, entry: StudyEntry, token: str | None) -> None:
        if token is not None and (entry.feeder is None or entry.feeder[0] != token):
            raise feeder_lost(entry.study.name)
