"""The queue in this process's memory: for tests, and for a search that needs no second process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from trials.documents import encode_outcome, encode_report
from trials.memory_entries import Entry
from trials.memory_studies import MemoryStudies, locked
from trials.rules import check_cancel, check_kind, check_retry, lease_lost, trial_not_found
from trials.store import ELSEWHERE_SECONDS, LEASE_SECONDS, Control
from trials.study import StudyState, taken
from trials.trial import Claim, Outcome, Report, Trial, TrialState
from trials.values import canonical


class MemoryStore(MemoryStudies):
    """A `trials.store.TrialStore` for the threads of one process.

    Args:
        clock: The store's clock; aware, UTC.
    """

    # -- one trial's life ------------------------------------------------------------------------

    @locked
    def reserve(
        self,
        study: str,
        worker: str,
        host: str,
        token: str,
        lease_s: float = LEASE_SECONDS,
        elsewhere_s: float = ELSEWHERE_SECONDS,
    ) -> Trial | None:
        """See `TrialStore.reserve`."""
        entry, now = self._study(study), self._clock()
        for one in entry.trials:
            if one.trial.token == token:
                return self._within_budget(study, one)
        waited = now - timedelta(seconds=elsewhere_s)
        open_ones = (one for one in entry.trials if one.is_open_to(worker, waited))
        chosen = next(open_ones, None)
        if entry.study.state is not StudyState.ACTIVE or chosen is None:
            return None
        chosen.cancelled = False
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
        return self._within_budget(study, chosen)

    def _within_budget(self, study: str, reserved: Entry) -> Trial | None:
        """The trial that was just reserved; given back when it is one too many."""
        budget = self._study(study).study.spec.max_trials
        if budget is not None and taken(self.counts(study)) > budget:
            reserved.give_back(self._clock())
            return None
        return reserved.trial

    @locked
    def beat(self, claim: Claim, lease_s: float = LEASE_SECONDS) -> Control:
        """See `TrialStore.beat`."""
        entry = self._owned(claim)
        expires = self._clock() + timedelta(seconds=lease_s)
        entry.trial = replace(entry.trial, lease_expires_at=expires)
        study = self._study(claim.study).study
        return Control(study.state, dict(study.cutoffs), entry.cancelled)

    @locked
    def report(self, claim: Claim, reports: Sequence[Report]) -> None:
        """See `TrialStore.report`."""
        encoded = [encode_report(one, claim.attempt) for one in reports]
        entry = self._owned(claim)
        by_step = {one.step: one for one in entry.trial.reports}
        for one, document in zip(reports, encoded, strict=True):
            if entry.reported_by.get(one.step) != claim.attempt:
                entry.reported_by[one.step] = claim.attempt
                by_step[one.step] = replace(one, metrics=document["metrics"])
        ordered = tuple(by_step[step] for step in sorted(by_step))
        entry.trial = replace(entry.trial, reports=ordered)

    @locked
    def finish(self, claim: Claim, outcome: Outcome) -> Trial:
        """See `TrialStore.finish`."""
        encoded = encode_outcome(outcome)
        ending = (claim, canonical([outcome.state, encoded["loss"]]))
        known = self._find(claim.study, claim.number)
        if known is not None and known.ended == ending:
            return known.trial
        entry = self._owned(claim)
        entry.ended = ending
        waits, now = outcome.state is TrialState.WAITING, self._clock()
        retries = waits and outcome.counts_as_retry
        entry.requeued_at = now if retries else None
        entry.losses = 0
        entry.end(outcome.state, outcome.failure, now)
        entry.trial = replace(
            entry.trial,
            retries=entry.trial.retries + retries,
            loss=None if waits else encoded["loss"],
            result={} if waits else encoded["result"],
        )
        return entry.trial

    @locked
    def release_expired(self) -> list[Trial]:
        """See `TrialStore.release_expired`."""
        released, now = [], self._clock()
        for one in (entry for study in self._studies.values() for entry in study.trials):
            old = one.trial
            if old.lease_expires_at is not None and old.lease_expires_at <= now:
                one.lose_worker(now)
                released.append(one.trial)
        return released

    @locked
    def cancel_trial(self, study: str, number: int) -> Trial:
        """See `TrialStore.cancel_trial`."""
        entry = self._trial(study, number)
        check_cancel(number, entry.trial.state)
        entry.cancel(self._clock())
        return entry.trial

    @locked
    def retry_trial(self, study: str, number: int) -> Trial:
        """See `TrialStore.retry_trial`."""
        of_study, entry = self._study(study), self._trial(study, number)
        check_retry(of_study.study, entry.trial, self.counts(study))
        if entry.trial.state is not TrialState.WAITING:
            entry.cancelled, entry.losses = False, 0
            entry.reported_by.clear()
            entry.end(TrialState.WAITING, None, self._clock())
            entry.trial = replace(entry.trial, retries=0, loss=None, result={}, reports=())
        if of_study.study.state is StudyState.COMPLETE:
            of_study.study = replace(of_study.study, state=StudyState.ACTIVE, message="")
        return entry.trial

    # -- reading ---------------------------------------------------------------------------------

    @locked
    def get_trial(self, study: str, number: int) -> Trial:
        """See `TrialStore.get_trial`."""
        return self._trial(study, number).trial

    @locked
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

    @locked
    def best_trial(self, study: str) -> Trial | None:
        """See `TrialStore.best_trial`."""
        complete = [
            (trial.loss, trial.number, trial)
            for trial in self.list_trials(study, [TrialState.COMPLETE])
            if trial.loss is not None and not math.isnan(trial.loss)
        ]
        return min(complete)[2] if complete else None

    # -- blobs -----------------------------------------------------------------------------------

    @locked
    def save_blob(self, claim: Claim, kind: str, data: bytes) -> None:
        """See `TrialStore.save_blob`."""
        self._owned(claim).blobs[check_kind(kind)] = bytes(data)

    @locked
    def load_blob(self, study: str, number: int, kind: str) -> bytes | None:
        """See `TrialStore.load_blob`."""
        entry = self._find(study, number)
        return None if entry is None else entry.blobs.get(check_kind(kind))

    @locked
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

    def close(self) -> None:
        """See `TrialStore.close`; nothing to let go of."""

    # -- finding ---------------------------------------------------------------------------------

    def _find(self, study: str, number: int) -> Entry | None:
        trials = self._studies[study].trials if study in self._studies else []
        return trials[number] if 0 <= number < len(trials) else None

    def _trial(self, study: str, number: int) -> Entry:
        self._study(study)
        entry = self._find(study, number)
        if entry is None:
            raise trial_not_found(study, number)
        return entry

    def _owned(self, claim: Claim) -> Entry:
        entry = self._find(claim.study, claim.number)
        if entry is None:
            raise lease_lost(claim, "deleted")
        if (entry.trial.token, entry.trial.attempt) != (claim.token, claim.attempt):
            raise lease_lost(claim, f"{entry.trial.state}, attempt {entry.trial.attempt}")
        return entry
