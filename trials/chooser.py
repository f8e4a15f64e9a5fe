"""Which study a worker serves next, and which it leaves alone."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trials.store import Offer, TrialStore
from trials.study import Study

OFFERS_VALID_SECONDS = 0.5
"""Between two short trials the studies on offer are not asked for again."""


class Chooser:
    """Shares a worker's slots between studies by priority. Safe to use from several threads."""

    def __init__(
        self,
        store: TrialStore,
        objectives: Sequence[str],
        studies: Sequence[str] | None,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._objectives = frozenset(objectives)
        self._studies = frozenset(studies) if studies is not None else None
        self._clock = clock
        self._lock = threading.Lock()
        self._offers: list[Offer] = []
        self._asked_at = -math.inf
        self._left_alone: dict[str, tuple[object, str]] = {}
        self._held_for: str | None = None

    def offers(self, patience_s: float = 0.0) -> list[Offer]:
        """Studies to serve, the most deserving first: fewest running trials for its priority.

        An exponential draw breaks near ties in proportion to priority, so that a single slot, which
        sees none running whenever it chooses, starves no study.

        Args:
            patience_s: How old an empty answer may be. Slots that have long been idle share one;
                for one that just got free, the feeder may be about to add a trial.
        """
        with self._lock:
            age = self._clock() - self._asked_at
            known = self._offers if age < OFFERS_VALID_SECONDS else []
        # Outside the lock, which nobody must hold through an outage.
        if not known and age >= patience_s:
            offered = self._store.offers()
            with self._lock:
                known = self._offers = self._serve(offered)
                self._asked_at = self._clock()
        known = [o for o in known if o.study == self._held_for] or known
        return sorted(known, key=lambda o: (o.running + random.expovariate(1.0)) / o.priority)

    def hold(self, study: str) -> None:
        """Offer nothing else until this study, for whose trials too few cores are free, has one.

        Else one whose trials take fewer cores would always be first to get those that become free.
        """
        with self._lock:
            self._held_for = study

    def _serve(self, offered: Sequence[Offer]) -> list[Offer]:
        """Those that this worker may serve; why not the others is told while they are on offer."""
        wanted = [o for o in offered if self._studies is None or o.study in self._studies]
        left = {name: told for name, told in self._left_alone.items() if told[0] is not None}
        for offer in wanted:
            if offer.objective not in self._objectives:
                why = (
                    f"its objective {offer.objective!r} is not on this worker's allow list; "
                    f"start the worker with --allow-objective {offer.objective}"
                )
                left[offer.study] = (None, why)
        self._left_alone = left
        return [offer for offer in wanted if offer.objective in self._objectives]

    def took(self, study: str) -> None:
        """Count a trial that a slot of this worker started."""
        with self._lock:
            self._held_for = None
            self._offers = [
                replace(o, running=o.running + 1) if o.study == study else o for o in self._offers
            ]

    def forget(self) -> None:
        """Ask the store again next time: an offer turned out to be empty."""
        with self._lock:
            self._offers, self._asked_at, self._held_for = [], -math.inf, None

    def accepts(self, study: Study) -> bool:
        """Whether this worker can serve a study it was offered."""
        if study.spec.objective not in self._objectives:  # replaced since it was offered
            return False
        if study.spec.memory_limit_bytes is not None and not Path("/proc/self/stat").exists():
            self.leave_alone(study, "memory_limit_bytes can be enforced on Linux only")
        with self._lock:
            refused_at, _ = self._left_alone.get(study.name, (None, ""))
            if refused_at == study.created_at:
                return False
            self._left_alone.pop(study.name, None)  # it was of another study of this name
        return True

    def leave_alone(self, study: Study, why: str) -> None:
        """Serve the study no more; one of the same name that is created later is another one."""
        with self._lock:
            self._left_alone[study.name] = (study.created_at, why)

    @property
    def is_useless(self) -> bool:
        """Whether all studies that the worker was started for are left alone."""
        with self._lock:
            return self._studies is not None and self._studies <= self._left_alone.keys()

    @property
    def message(self) -> str:
        """The studies left alone and why, for people."""
        with self._lock:
            left = sorted(self._left_alone.items())
        return "; ".join(f"leaves study {name!r} alone: {why}" for name, (_, why) in left)
