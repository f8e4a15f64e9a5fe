"""Telling a bad slot from bad trials, so that it does not burn the whole budget."""

from __future__ import annotations

import logging
from collections.abc import Callable

from trials.errors import StudyNotFoundError
from trials.settings import WorkerSettings
from trials.store import TrialStore
from trials.trial import Failure, FailureKind, TrialState

LONGEST_QUARANTINE_SECONDS = 3600.0
log = logging.getLogger("larnn.worker")


class SlotHealth:
    """Counts a slot's failures in a row, of all studies, and lets it rest when others do better."""

    def __init__(
        self, store: TrialStore, settings: WorkerSettings, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._failed: list[tuple[str, int]] = []
        self._complete_before: dict[str, int] = {}
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
        self._complete_before.clear()
        self._rest_s = self._settings.quarantine_s

    def failed(self, study: str, number: int, failure: Failure) -> None:
        """A trial failed here. A NaN loss is the trial's own affair and counts neither way."""
        if failure.kind is FailureKind.NAN_LOSS:
            return
        if study not in self._complete_before:
            self._complete_before[study] = self._store.counts(study)[TrialState.COMPLETE]
        if (study, number) not in self._failed:
            self._failed.append((study, number))
        if len(self._failed) < self._settings.quarantine_after:
            return
        if any(self._goes_well_elsewhere(*of_study) for of_study in self._complete_before.items()):
            self._rest(failure)

    def _goes_well_elsewhere(self, study: str, complete_before: int) -> bool:
        """Whether others have finished trials of the study, or are at some.

        This slot runs none now and has completed none since its first failure, so that all which
        run, and all which became COMPLETE, did so elsewhere.
        """
        try:
            counts = self._store.counts(study)
        except StudyNotFoundError:  # deleted meanwhile
            return False
        return counts[TrialState.RUNNING] > 0 or counts[TrialState.COMPLETE] > complete_before

    def _rest(self, failure: Failure) -> None:
        trials = ", ".join(f"{study}/{number}" for study, number in self._failed)
        self._why = (
            f"quarantined for {self._rest_s:g} s: trials {trials} failed here in a row while "
            f"others did better elsewhere; last: {failure.message}"
        )
        log.error("%s", self._why)
        self._rests_until = self._clock() + self._rest_s
        self._rest_s = min(2 * self._rest_s, LONGEST_QUARANTINE_SECONDS)
