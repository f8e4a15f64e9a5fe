"""Telling a bad slot from a bad study, so that neither burns the whole budget."""

from __future__ import annotations

import logging
from collections.abc import Callable

from trials.settings import WorkerSettings
from trials.store import TrialStore
from trials.study import StudyState
from trials.trial import Failure, FailureKind, TrialState

HOPELESS_AFTER = 5
"""Finished trials of a study that all failed, before it is stopped."""
LONGEST_QUARANTINE_SECONDS = 3600.0
log = logging.getLogger("larnn.worker")


class SlotHealth:
    """Counts a slot's failures in a row, and lets it rest when others do better."""

    def __init__(
        self, store: TrialStore, settings: WorkerSettings, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._failed: list[int] = []
        self._study: str | None = None
        self._complete_before = 0
        self._rest_s = settings.quarantine_s
        self._rests_until = float("-inf")
        self._why = ""

    @property
    def rests(self) -> bool:
        """Whether the slot must not reserve now."""
        return self._clock() < self._rests_until

    @property
    def message(self) -> str:
        """Why it rests, for people; empty when it does not."""
        return self._why if self.rests else ""

    def succeeded(self) -> None:
        """A trial ended well here."""
        self._failed.clear()
        self._rest_s = self._settings.quarantine_s

    def failed(self, study: str, number: int, failure: Failure) -> None:
        """A trial failed here. A NaN loss is the trial's own affair and counts neither way."""
        if failure.kind is FailureKind.NAN_LOSS:
            return
        if study != self._study or not self._failed:
            self._study, self._failed = study, []
            self._complete_before = self._complete(study)
        if number not in self._failed:
            self._failed.append(number)
        if len(self._failed) < self._settings.quarantine_after:
            return
        # In a row here, so whatever became COMPLETE meanwhile did so elsewhere.
        if self._complete(study) > self._complete_before:
            self._rest(failure)

    def _rest(self, failure: Failure) -> None:
        numbers = ", ".join(map(str, self._failed))
        self._why = (
            f"quarantined for {self._rest_s:g} s: trials {numbers} of study {self._study!r} failed "
            f"here in a row while others succeeded elsewhere; last: {failure.message}"
        )
        log.error("%s", self._why)
        self._rests_until = self._clock() + self._rest_s
        self._rest_s = min(2 * self._rest_s, LONGEST_QUARANTINE_SECONDS)

    def _complete(self, study: str) -> int:
        return self._store.counts(study)[TrialState.COMPLETE]


def stop_hopeless_study(store: TrialStore, study: str, failure: Failure) -> bool:
    """Stop a study of which the first trials have all FAILED; whether it was stopped now."""
    counts = store.counts(study)
    if counts[TrialState.COMPLETE] or counts[TrialState.PRUNED]:
        return False
    failed = counts[TrialState.FAILED]
    if failed < HOPELESS_AFTER or store.get_study(study).state is not StudyState.ACTIVE:
        return False
    message = f"stopped: all {failed} finished trials failed; last: {failure.message}"
    store.set_study_state(study, StudyState.STOPPING, message)
    log.error("study %r %s", study, message)
    return True
