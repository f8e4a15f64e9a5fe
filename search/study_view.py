"""A feeder's picture of its study's trials, kept current by reading only what changed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from trials.errors import TrialNotFoundError
from trials.store import TrialStore
from trials.trial import BUDGET_STATES, Trial, TrialState

ACTIVE_STATES = (TrialState.WAITING, TrialState.RUNNING)
RECOUNT_SECONDS = 10.0
RECOUNTS = 5
LARGEST_GAP = 1000
"""Numbers between two trials beyond which the higher one was made by hand: it counts, but the next
trial's number is not sought behind it."""
_log = logging.getLogger(__name__)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class StudyView:
    """All trials of one study as last read.

    A round reads the active trials, and each one that is active no more. What this cannot see (a
    trial retried and finished between two rounds) shows when the store's counts are compared.

    Args:
        store: Where the trials are.
        study: The study's name.
    """

    def __init__(self, store: TrialStore, study: str) -> None:
        self._store = store
        self._study = study
        self._trials: dict[int, Trial] = {}
        self._counts: Counter[TrialState] = Counter()
        self._active: set[int] = set()
        self._recount_at: float | None = None
        self._reread: set[int] = set()
        self.next_number = 0
        """The number of the next trial."""
        self.finished: list[Trial] = []
        """Trials that count towards the budget, in the order in which they ended."""

    def refresh(self, now: float, with_reports: bool) -> list[Trial]:
        """Read what changed; returns the trials that newly finished, none on the first reading.

        Args:
            now: Seconds that only go forward, to recount now and then.
            with_reports: Whether running trials' reports are wanted.
        """
        if self._recount_at is None:
            self._read_all()
            self._recount_at = now + RECOUNT_SECONDS
            return []
        before = set(self._active)
        active = self._store.list_trials(self._study, ACTIVE_STATES, with_reports)
        numbers = {trial.number for trial in active}
        ended = self._read((before - numbers) | self._unseen(numbers))
        newly = [kept for kept in map(lightened, [*active, *ended]) if self._put(kept)]
        self.finished += sorted(newly, key=ended_at)
        if now >= self._recount_at:
            self._recount_at = now + RECOUNT_SECONDS
            if self._is_stale():
                self._read_all()
        return newly

    def _unseen(self, active: set[int]) -> set[int]:
        """Numbers of trials that came and ended since the last reading."""
        latest = self.next_number
        for number in sorted(active):
            if number <= latest + LARGEST_GAP:
                latest = max(latest, number)
        return set(range(self.next_number, latest)) - active

    def _read(self, numbers: set[int]) -> list[Trial]:
        """These trials; one that is no longer there is forgotten."""
        found = []
        for number in sorted(numbers):
            try:
                found.append(self._store.get_trial(self._study, number))
            except TrialNotFoundError as error:
                _log.warning("gone: %s", error)
                self._drop(number)
        return found

    def _read_all(self) -> None:
        self._reread |= self._trials.keys()
        self._trials.clear()
        self._counts.clear()
        self._active.clear()
        self.next_number = 0
        listed = self._store.list_trials(self._study)
        newly = [kept for kept in map(lightened, listed) if self._put(kept)]
        self.finished = sorted(newly, key=ended_at)

    def _put(self, trial: Trial) -> bool:
        """Take in one trial; whether it has newly come to count towards the budget."""
        known = self._trials.get(trial.number)
        counted = known is not None and known.state in BUDGET_STATES
        counts = trial.state in BUDGET_STATES
        if known is not None:
            self._counts[known.state] -= 1
        if counted and not counts:  # it was retried
            self._uncount(trial.number)
        self._reread.add(trial.number)
        self._trials[trial.number] = trial
        self._counts[trial.state] += 1
        if trial.number <= self.next_number + LARGEST_GAP:
            self.next_number = max(self.next_number, trial.number + 1)
        elif known is None:
            _log.warning("trial %d of %s was numbered by hand", trial.number, self._study)
        if trial.state.is_finished:
            self._active.discard(trial.number)
        else:
            self._active.add(trial.number)
        return counts and not counted

    def _drop(self, number: int) -> None:
        known = self._trials.pop(number, None)
        if known is not None:
            self._reread.add(number)
            self._counts[known.state] -= 1
            self._active.discard(number)
            self._uncount(number)
        # The store takes no number behind one that is not there.
        while self.next_number and self.next_number - 1 not in self._trials:
            self.next_number -= 1

    def _uncount(self, number: int) -> None:
        self.finished = [other for other in self.finished if other.number != number]

    def _is_stale(self) -> bool:
        # A count may miss a trial that changes its state meanwhile; one that is gone, all miss.
        return not any(self._agrees(self._store.counts(self._study)) for _ in range(RECOUNTS))

    def _agrees(self, counts: Mapping[TrialState, int]) -> bool:
        retried = (TrialState.FAILED, TrialState.CANCELLED)
        return sum(counts.values()) == len(self._trials) and all(
            self._counts[state] <= counts[state] for state in retried
        )

    def add(self, trials: list[Trial]) -> None:
        """Take in trials that were just written."""
        for trial in trials:
            self._put(trial)

    def forget(self) -> None:
        """Read everything anew in the next round."""
        self._recount_at = None

    def count(self, *states: TrialState) -> int:
        """Trials in any of these states."""
        return sum(self._counts[state] for state in states)

    def reported(self, anew: bool = False) -> dict[int, Mapping[int, float]]:
        """Losses by step, by number, of the trials read since this was last asked.

        A trial that is gone has reported nothing.

        Args:
            anew: All trials', for somebody who knows nothing yet.
        """
        numbers, self._reread = self._reread, set()
        if anew:
            numbers |= self._trials.keys()
        return {number: self._curve(number) for number in numbers}

    def _curve(self, number: int) -> Mapping[int, float]:
        reports = self._trials[number].reports if number in self._trials else ()
        return {report.step: report.loss for report in reports}

    @property
    def trials(self) -> list[Trial]:
        """All trials by number, without those numbered by hand."""
        return [self._trials[n] for n in sorted(self._trials) if n < self.next_number]

    @property
    def active(self) -> list[Trial]:
        """The WAITING and RUNNING trials by number."""
        return [self._trials[number] for number in sorted(self._active)]


def lightened(trial: Trial) -> Trial:
    """A finished trial without what no feeder asks for, since thousands of them are remembered.

    Left out are the result, reported metrics and seconds, and all failures but the last.
    """
    if not trial.state.is_finished:
        return trial
    reports = tuple(replace(report, metrics=_NOTHING, seconds=0.0) for report in trial.reports)
    return replace(trial, result=_NOTHING, reports=reports, failures=trial.failures[-1:])


def ended_at(trial: Trial) -> tuple[datetime, int]:
    """Sort key: the order in which trials ended."""
    return trial.finished_at or trial.created_at, trial.number
