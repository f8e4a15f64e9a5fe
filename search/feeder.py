"""Suggests a study's trials, one leased feeder at a time, and ends the study when it is done.

Several feeders may stand by for one study; whoever holds the lease feeds it. All that a feeder
knows is in the store, so another one goes on where it left off.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from search.ending import all_failed, reason_to_end
from search.history import other_trials
from search.pruning import NoPruning, Standings, make_rule
from search.ranking import candidates
from search.results import spent_s
from search.space import Space
from search.study_view import StudyView
from trials.errors import (
    IllegalTransitionError,
    LeaseLostError,
    StoreUnavailableError,
    StudyChangedError,
    TrialNotFoundError,
    TrialsError,
)
from trials.store import LEASE_SECONDS, REUNION_SECONDS, WEIGHTS, TrialStore
from trials.study import Study, StudyState
from trials.trial import BUDGET_STATES, Trial, TrialState

if TYPE_CHECKING:
    from search.suggest import Suggester

KEPT_WEIGHTS = 5
"""The weights of this many best trials are kept."""
BATCH = 8
"""Suggestions in one round, so that the lease is renewed between them."""
SHORTEST_PAUSE, LONGEST_PAUSE, STANDBY_PAUSE = 0.02, 0.5, 1.0
"""Seconds between two rounds: while workers are hungry, while all is quiet, without the lease."""
ORPHANS_SECONDS = 3600.0
"""Between two looks for blobs that were left behind."""
_log = logging.getLogger(__name__)


class Feeder:
    """Feeds one study.

    Args:
        store: Where the study is.
        study: The study's name.
        ahead: Trials that wait beside one for each free slot; 0 suggests only for free slots (the
            order of suggestions is then that of a serial search); None: as few as keep all slots
            busy, judged by how long trials took.
        lease_s: Seconds without a sign of life after which another feeder takes over.
        clock: Seconds that only go forward, for its own pace. What a study's time is, the store's
            clock says.
        wait: Waits on an event for some seconds.
    """

    def __init__(
        self,
        store: TrialStore,
        study: str,
        *,
        ahead: int | None = None,
        lease_s: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        if ahead is not None and ahead < 0:
            raise ValueError(f"ahead must be at least 0, got {ahead}")
        self._store = store
        self._name = study
        self._ahead = ahead
        self._token = f"feeder-{secrets.token_hex(8)}"
        self._lease_s = lease_s
        self._clock = clock
        self._wait = wait
        self._view = StudyView(store, study)
        self._suggester: Suggester | None = None
        self._standings: Standings | None = None
        patience_s = min(REUNION_SECONDS, lease_s)
        self._timers = {"expired": clock() + patience_s}
        self._slots = 0
        self._finished_here: list[Trial] = []
        self._unswept = 0
        self.pause = SHORTEST_PAUSE
        """Seconds until the next round is worth its while."""

    def run(self, stop: threading.Event) -> None:
        """Feed until the study is over or ``stop`` is set; outages of the store are sat out.

        Raises:
            StudyNotFoundError: If the study does not exist, or was deleted.
        """
        try:
            while not stop.is_set() and self.survive(self.step):
                self._wait(stop, self.pause)
        finally:
            self.leave()

    def leave(self) -> None:
        """Give the lease back, so that another feeder need not wait until it runs out."""
        self._timers.pop("lease", None)
        with suppress(TrialsError):  # else it runs out
            self._store.release_feeder(self._name, self._token)

    def survive(self, step: Callable[[], bool]) -> bool:
        """Do one round; what time mends (an outage, a lost lease) only delays the next one."""
        try:
            return step()
        except StoreUnavailableError as error:
            _log.warning("study %s waits for the database: %s", self._name, error)
        except LeaseLostError as error:
            _log.info("study %s is fed by another: %s", self._name, error)
            self._view.forget()
        self._timers.pop("lease", None)
        self.pause = STANDBY_PAUSE
        return True

    def step(self) -> bool:
        """Do one round; False when the study is over.

        Raises:
            StudyNotFoundError: If the study does not exist.
            StoreUnavailableError: If the store cannot be reached.
            LeaseLostError: If another feeder took over in the midst of the round.
        """
        study = self._store.get_study(self._name)
        if study.state.is_over:
            if study.state is StudyState.CANCELLED and "lease" in self._timers:
                # Once more, for what this feeder added while somebody cancelled.
                self._store.set_study_state(self._name, study.state, study.message)
            self.leave()
            return False
        if not self._holds_lease():
            self.pause = STANDBY_PAUSE
            return True
        if self._is_due("expired", self._lease_s / 10):
            self._store.release_expired()
        if self._is_due("orphans", ORPHANS_SECONDS):
            self._store.sweep_blobs()
        before = self._stand()
        rule_wants_reports = dict(study.spec.pruner) != {"name": "none"}
        finished = self._view.refresh(self._clock(), rule_wants_reports)
        self._finished_here += finished
        self._unswept += len(finished)
        self._sweep_weights(study)
        over = False
        if (reason := self._reason_to_end(study)) is not None:
            over = self._end(study, reason)
        elif study.state is StudyState.ACTIVE:
            try:
                self._publish_cutoffs(study)
                self._feed(study)
            except ValueError as error:  # a space or pruner that no version of ours has written
                over = self._end(study, f"stopped: {error}")
        self._choose_pause(changed=before != self._stand())
        return not over

    # -- the lease and the clock -----------------------------------------------------------------

    def _holds_lease(self) -> bool:
        if "lease" not in self._timers:
            self._view.forget()  # others may have changed what this feeder remembers
        elif self._clock() < self._timers["lease"]:
            return True
        asked_at = self._clock()
        if self._store.acquire_feeder(self._name, self._token, self._lease_s):
            self._timers["lease"] = asked_at + self._lease_s / 3
            return True
        self._timers.pop("lease", None)
        return False

    def _is_due(self, what: str, seconds: float) -> bool:
        """Whether ``seconds`` have gone by since this was last true."""
        now = self._clock()
        if now < self._timers.get(what, now):
            return False
        self._timers[what] = now + seconds
        return True

    def _stand(self) -> tuple[int, ...]:
        return tuple(self._view.count(state) for state in TrialState)

    def _choose_pause(self, changed: bool) -> None:
        """Short after a change, then longer and longer, in proportion to how long trials take."""
        longest = min(LONGEST_PAUSE, max(SHORTEST_PAUSE, self._typical_seconds(2.0) / 20))
        self.pause = SHORTEST_PAUSE if changed else min(2 * self.pause, longest)

    def _typical_seconds(self, unknown: float) -> float:
        """Mean running time of the latest trials, all attempts of each."""
        known = map(spent_s, self._view.finished[-20:])
        times = [seconds for seconds in known if seconds is not None]
        return sum(times) / len(times) if times else unknown

    # -- feeding ---------------------------------------------------------------------------------

    def _feed(self, study: Study) -> None:
        waiting, running = (self._view.count(s) for s in (TrialState.WAITING, TrialState.RUNNING))
        room = math.inf
        if study.spec.max_trials is not None:
            room = study.spec.max_trials - self._view.count(*BUDGET_STATES) - waiting - running
        if room < 0:
            self._cancel_surplus(int(-room))
            return
        slots = max(1, self._serving_slots(), running)
        wanted = slots - running + self._trials_ahead(slots) - waiting
        count = int(min(wanted, room, BATCH))
        if count > 0:
            self._suggester = self._suggester or _make_suggester(self._store, study)
            proposals = self._suggester.suggest(self._view.trials, count)
            first = self._view.next_number
            self._view.add(self._store.add_trials(self._name, self._token, first, proposals))

    def _serving_slots(self) -> int:
        """Slots of live workers that serve this study, and run its trials or none."""
        if self._is_due("workers", 1.0):
            self._slots = sum(
                isinstance(slot, Mapping) and slot.get("study") in (None, "", self._name)
                for worker in self._store.list_workers()
                if worker.serves(self._name)
                for slot in worker.slots
            )
        return self._slots

    def _trials_ahead(self, slots: int) -> int:
        """Enough for what the workers finish until the next round comes, and one to be sure."""
        if self._ahead is not None:
            return self._ahead
        seconds = max(self._typical_seconds(math.inf), 1e-3)
        return min(2 * slots, 1 + int(slots * LONGEST_PAUSE / seconds))

    def _cancel_surplus(self, count: int) -> None:
        """Make room for enqueued trials: the latest suggestions go first."""
        waiting = [t for t in self._view.active if t.state is TrialState.WAITING]
        waiting.sort(key=lambda t: (t.suggestion.get("origin") == "enqueued", -t.number))
        for trial in waiting[:count]:
            self._cancel(trial)

    def _cancel(self, trial: Trial) -> None:
        # It was run to its end since we looked, or deleted.
        with suppress(IllegalTransitionError, TrialNotFoundError):
            self._view.add([self._store.cancel_trial(self._name, trial.number)])

    # -- pruning and weights ---------------------------------------------------------------------

    def _publish_cutoffs(self, study: Study) -> None:
        rule = make_rule(study.spec.pruner)
        if isinstance(rule, NoPruning) or not self._is_due("cutoffs", 1.0):
            return
        standings = self._standings
        is_new = standings is None or standings.rule != rule
        if standings is None or is_new:
            standings = self._standings = Standings(rule)
        for number, curve in self._view.reported(anew=is_new).items():
            standings.update(number, curve)
        cutoffs = standings.cutoffs()
        if dict(cutoffs) != dict(study.cutoffs):
            self._store.set_cutoffs(self._name, self._token, cutoffs)

    def _sweep_weights(self, study: Study, *, is_over: bool = False) -> None:
        """Drop the weights of all but the best trials, once enough new ones are there."""
        if self._unswept < 10 and not is_over:
            return
        self._unswept = 0
        best = candidates(study, self._view.finished, KEPT_WEIGHTS, is_over=is_over)
        # A trial may end while we look: spare those that we take to be active, or do not know yet.
        spared = [t.number for t in (*best, *self._view.active)]
        spared += range(self._view.next_number, self._view.next_number + 1000)
        self._store.drop_blobs(self._name, WEIGHTS, spared)

    # -- the end ---------------------------------------------------------------------------------

    def _reason_to_end(self, study: Study) -> str | None:
        if study.state is StudyState.STOPPING:
            return study.message or "stopped"
        if study.state is not StudyState.ACTIVE:
            return None
        if (reason := reason_to_end(study, self._view.finished, self._store.now)) is not None:
            return reason
        worked = self._view.count(TrialState.COMPLETE, TrialState.PRUNED) > 0
        return None if worked else all_failed(self._name, self._finished_here, self._view.active)

    def _end(self, study: Study, reason: str) -> bool:
        """Let running trials finish, drop waiting ones, complete the study; True once it is."""
        try:
            return self._end_unchanged(study, reason)
        except StudyChangedError as error:
            _log.info("not ended: %s", error)
            return False

    def _end_unchanged(self, study: Study, reason: str) -> bool:
        waiting = [t for t in self._view.active if t.state is TrialState.WAITING]
        # Only after a round in STOPPING it is certain that no worker takes another trial.
        if self._view.count(TrialState.RUNNING) or (waiting and study.state is StudyState.ACTIVE):
            if study.state is StudyState.ACTIVE:
                self._set_state(StudyState.STOPPING, reason, study)
            return False
        for trial in waiting:
            self._cancel(trial)
        self._sweep_weights(study, is_over=True)
        self._store.sweep_blobs()
        ended = self._set_state(StudyState.COMPLETE, reason, study)
        left = self._store.list_trials(self._name, [TrialState.WAITING], with_reports=False)
        if any(trial.state is TrialState.WAITING for trial in left):  # a broken one never will be
            # Somebody enqueued or retried a trial since we looked: look again.
            self._set_state(StudyState.ACTIVE, "", ended)
            return False
        self.leave()
        return True

    def _set_state(self, state: StudyState, message: str, was: Study) -> Study:
        return self._store.set_study_state(self._name, state, message, was=was, token=self._token)


def _make_suggester(store: TrialStore, study: Study) -> Suggester:
    from search.suggest import Suggester  # Hyperopt takes a second or more to import

    spec, others = study.spec, other_trials(store, study.spec)
    return Suggester(Space.from_dict(spec.space), spec.algorithm, spec.seed, spec.fixed, others)
