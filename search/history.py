"""What a search algorithm learns from trials.

* COMPLETE trials come first, by loss; then PRUNED ones, further steps before fewer, then by their
  least loss. Algorithms look at the order only, so each trial gets its place as its loss.
* WAITING and RUNNING trials count as not good (an infinite loss), so that parallel workers are sent
  elsewhere.
* A trial that failed with a NaN loss counts as not good; other failures say nothing about the
  parameters and are left out, like CANCELLED trials.
* Trials of other studies (`StudySpec.from_studies`) come before all own ones, in time. Losses of
  two studies are not compared, since data and epochs may differ: each trial has its place among
  those of its own study, from 0 for the best to 1 (as in Salinas et al. 2020).
* Of long histories the best `HISTORY_BEST` and the latest `HISTORY_LATEST` trials are used.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from search.derivation import DERIVATIONS
from search.space import Space
from trials.errors import StudyNotFoundError
from trials.store import TrialStore
from trials.study import StudySpec
from trials.trial import FINISHED_STATES, FailureKind, Trial, TrialState, least_loss

ALGORITHMS = ("tpe", "random", "anneal", "grid")
DEAF = ("random", "grid")
"""Algorithms that suggest the same whatever trials have shown."""
HISTORY_BEST = 100
HISTORY_LATEST = 400

Raw = Mapping[str, float]
"""What Hyperopt draws for the active rows: choices as indices, whole numbers as floats."""
Merit = tuple[float, ...]
"""Sort key of what a trial teaches, the best first."""
NOT_GOOD: Merit = (2.0,)
_BY_MERIT = attrgetter("merit")


def merit_of(trial: Trial) -> Merit | None:
    """How good a trial is; None where it teaches nothing."""
    if trial.state is TrialState.COMPLETE and trial.loss is not None and math.isfinite(trial.loss):
        return (0.0, trial.loss)
    if trial.state is TrialState.PRUNED and trial.reports:
        last, least = trial.reports[-1], least_loss(trial.reports)
        return (1.0, -last.step, least) if math.isfinite(last.loss) else NOT_GOOD
    if trial.state is TrialState.FAILED:
        nan = trial.failures and trial.failures[-1].kind is FailureKind.NAN_LOSS
        return NOT_GOOD if nan else None
    return None if trial.state is TrialState.CANCELLED else NOT_GOOD


@dataclass(frozen=True, slots=True)
class Entry:
    """What is remembered of a trial between two suggestions."""

    trial: Trial | None
    number: int
    """Negative in other studies: they come before all own trials."""
    raw: Raw | None
    """None where the space cannot express the trial's params (enqueued ones)."""
    merit: Merit | None
    params_key: str
    study: str = ""
    """The other study it is of; empty: this one."""

    @property
    def teaches(self) -> bool:
        """Whether an algorithm can learn from it."""
        return self.raw is not None and self.merit is not None

    @property
    def has_ended(self) -> bool:
        """Whether its merit is final."""
        return self.trial is not None and self.trial.state.is_finished

    @property
    def is_cancelled(self) -> bool:
        """Whether it was to be left undone."""
        return self.trial is not None and self.trial.state is TrialState.CANCELLED


def places(entries: Sequence[Entry]) -> list[float]:
    """Where each entry stands among those of its study: 0 the best, 1 the worst; equal ones alike.

    An entry that is not good stands at infinity.
    """
    merits: dict[str, list[Merit]] = defaultdict(list)
    for entry in entries:
        if entry.merit is not None and entry.merit != NOT_GOOD:
            merits[entry.study].append(entry.merit)
    for known in merits.values():
        known.sort()
    found = []
    for entry in entries:
        if entry.merit is None or entry.merit == NOT_GOOD:
            found.append(math.inf)
            continue
        known = merits[entry.study]
        # Half a place: a single trial is neither the best nor the worst that could be.
        found.append((bisect.bisect_left(known, entry.merit) + 0.5) / len(known))
    return found


def shortened(entries: Sequence[Entry]) -> tuple[list[Entry], int]:
    """Those to learn from, in order, and how many there were: of many the best and the latest."""
    # As `Entry.teaches`, without a call for each of thousands.
    usable = [entry for entry in entries if entry.raw is not None and entry.merit is not None]
    if len(usable) <= HISTORY_BEST + HISTORY_LATEST:
        return usable, len(usable)
    older: dict[str, list[Entry]] = defaultdict(list)
    for entry in usable[:-HISTORY_LATEST]:
        older[entry.study].append(entry)
    ranked = [
        ((rank + 0.5) / len(known), entry)
        for known in older.values()
        for rank, entry in enumerate(heapq.nsmallest(HISTORY_BEST, known, key=_BY_MERIT))
    ]
    best = heapq.nsmallest(HISTORY_BEST, ranked, key=lambda pair: pair[0])
    kept = sorted((entry for _, entry in best), key=lambda entry: entry.number)
    return kept + usable[-HISTORY_LATEST:], len(usable)


# -- other studies -------------------------------------------------------------------------------


def in_common(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """What of another study's params this space could have sampled too."""
    values = dict(params)
    if space.derive is not None:
        try:
            values = DERIVATIONS[space.derive].sampled(params, space) or values
        except (KeyError, TypeError):
            return {}
    return {
        row.name: values[row.name]
        for row in space.rows
        if row.name in values and space.is_active(row, values) and row.contains(values[row.name])
    }


def other_trials(store: TrialStore, spec: StudySpec) -> list[Trial]:
    """The finished trials of ``spec.from_studies``, study by study, with their reports.

    Raises:
        ValueError: If one of these studies is gone, or has nothing to teach.
    """
    space, found = Space.from_dict(spec.space), []
    for name in spec.from_studies:
        try:
            trials = store.list_trials(store.get_study(name).name, sorted(FINISHED_STATES))
        except StudyNotFoundError as error:
            raise ValueError(f"--from-study: {error}") from error
        if not any(merit_of(trial) and in_common(space, trial.params) for trial in trials):
            searched = ", ".join(row.name for row in space.rows)
            raise ValueError(
                f"--from-study: none of the {len(trials)} finished trials of {name} has a value in "
                f"the range of what is searched here ({searched})"
            )
        found += trials
    return found
