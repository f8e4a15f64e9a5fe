"""A study at one moment: what the live view, `status` and the dashboard show."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from search.purpose import Purpose, purpose_of
from search.results import spent_s, to_json_row, to_plain
from trials.clock import utc_now
from trials.store import TrialStore, WorkerInfo
from trials.study import Counts, Study, StudyState
from trials.trial import BUDGET_STATES, Trial, TrialState

if TYPE_CHECKING:
    from rich.console import RenderableType

LOOK_BACK = 32
"""Trials that one snapshot reads at most beside the running ones, whatever the study's size."""


@dataclass(frozen=True)
class Snapshot:
    """One study, its running trials and the workers alive."""

    study: Study
    counts: Counts
    best: Trial | None
    """Of a search: the one of least loss. What trains chosen settings again has none."""
    running: tuple[Trial, ...]
    """With their reports, by number."""
    workers: tuple[WorkerInfo, ...]
    """All that are alive, also those that serve other studies."""
    newly_finished: tuple[Trial, ...]
    """What finished since the snapshot before, by number (at most `LOOK_BACK`); first: none.

    Trials that were cancelled before they ever ran are left out.
    """
    latest_failed: Trial | None
    """The latest trial that FAILED, among those that were read, unless it was tried again."""
    typical_s: float | None
    """Mean seconds of the latest finished trials."""
    taken_at: datetime

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to the study by itself."""
        return self.study.state.is_over

    @property
    def finished(self) -> int:
        """Trials that count towards ``max_trials``."""
        return sum(self.counts[state] for state in BUDGET_STATES)

    @property
    def why_no_best(self) -> str:
        """What to tell in place of a best trial."""
        if purpose_of(self.study) is Purpose.SEARCH:
            return "No trial is complete yet."
        name = self.study.name
        return f"Trains chosen settings again; the result: larnn-search summary {name}"

    @property
    def elapsed_s(self) -> float:
        """Seconds since the study was created."""
        return max(0.0, (self.taken_at - self.study.created_at).total_seconds())

    @property
    def slots(self) -> int:
        """Trials of this study that can run at once, judged by what the workers do now."""
        own = (s for w in self.workers for s in w.slots if s.get("study") == self.study.name)
        return max(len(self.running), sum(1 for _ in own))

    @property
    def time_left_s(self) -> float | None:
        """Estimated seconds until the study is over; None where there is nothing to judge by.

        The trials still to do take as long as the latest ones took, spread over the slots that work
        for this study; the study's own ``timeout_s`` ends it earlier.
        """
        if self.is_over:
            return 0.0
        spec, left = self.study.spec, []
        if spec.timeout_s is not None:
            left.append(max(0.0, spec.timeout_s - self.elapsed_s))
        if spec.max_trials is not None and self.typical_s is not None and self.slots:
            to_do = max(spec.max_trials - self.finished, len(self.running))
            if self.study.state is StudyState.STOPPING:
                to_do = len(self.running)
            done = (min(self.age_s(t.started_at), self.typical_s) for t in self.running)
            left.append((to_do * self.typical_s - sum(done)) / self.slots)
        return min(left, default=None)

    def age_s(self, moment: datetime | None) -> float:
        """Seconds from ``moment`` to this snapshot, 0 for None or a clock ahead of ours."""
        return max(0.0, (self.taken_at - moment).total_seconds()) if moment is not None else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as ``status --json`` prints them."""
        spec = self.study.spec
        plain: dict[str, Any] = to_plain(
            {
                "study": self.study.name,
                "state": self.study.state,
                "message": self.study.message,
                "space": spec.space.get("name"),
                "objective": spec.objective,
                "created_at": self.study.created_at,
                "taken_at": self.taken_at,
                "max_trials": spec.max_trials,
                "finished": self.finished,
                "counts": self.counts,
                "time_left_s": self.time_left_s,
                "best": self.best and to_json_row(self.best),
                "why_no_best": None if self.best else self.why_no_best,
                "latest_failed": self.latest_failed and to_json_row(self.latest_failed),
                "running": [to_json_row(trial, with_reports=True) for trial in self.running],
                "workers": [self._worker_row(worker) for worker in self.workers],
            }
        )
        return plain

    def renderable(self) -> RenderableType:
        """What a terminal shows of it."""
        from search.live_screen import render  # rich only where something is drawn

        return render(self)

    def _worker_row(self, worker: WorkerInfo) -> dict[str, Any]:
        return {
            "name": worker.name,
            "host": worker.host,
            "pid": worker.pid,
            "slots": worker.slots,
            "message": worker.message,
            "last_seen_at": worker.last_seen_at,
            "seen_s_ago": self.age_s(worker.last_seen_at),
        }


class StudyFollower:
    """Takes snapshots of one study, each at a cost that does not grow with the study.

    It remembers how far it has looked, so that trials which finished are read once each.

    Args:
        store: Where the study is kept.
        name: The study's name.
        clock: Gives the present, UTC.
    """

    def __init__(
        self, store: TrialStore, name: str, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        self._frontier: int | None = None
        self._open: set[int] = set()
        self._failed: Trial | None = None
        self._durations: deque[float] = deque(maxlen=LOOK_BACK)

    def snapshot(self) -> Snapshot:
        """Read the study as it is now.

        Raises:
            StudyNotFoundError: If it is not, or no longer, there.
            StoreUnavailableError: If the store cannot be reached.
        """
        study = self._store.get_study(self._name)
        running = tuple(self._store.list_trials(self._name, states=[TrialState.RUNNING]))
        counts = self._store.counts(self._name)
        searches = purpose_of(study) is Purpose.SEARCH
        best = self._store.best_trial(self._name) if searches else None
        workers = tuple(self._store.list_workers())
        # Last: what this tells once must not get lost when the store fails at another.
        finished = self._look(counts, running)
        return Snapshot(
            study=study,
            counts=counts,
            best=best,
            running=running,
            workers=workers,
            newly_finished=finished,
            latest_failed=self._failed,
            typical_s=statistics.fmean(self._durations) if self._durations else None,
            taken_at=self._clock(),
        )

    def _look(self, counts: Counts, running: tuple[Trial, ...]) -> tuple[Trial, ...]:
        """Read the trials that may have finished since the last look; note failures, durations.

        Trials start by number, so those below ``frontier`` have started; a few may wait again.
        """
        first = self._frontier is None
        start = self._frontier or 0
        frontier = max(start, sum(counts.values()) - counts[TrialState.WAITING])
        busy = {trial.number for trial in running}
        fresh = range(max(start, frontier - LOOK_BACK), frontier)
        candidates = sorted((self._open | set(fresh)) - busy)[-LOOK_BACK:]
        seen = [self._store.get_trial(self._name, number) for number in candidates]
        finished = tuple(t for t in seen if t.state.is_finished and t.attempt > 0)
        self._frontier = frontier
        self._open = busy | {trial.number for trial in seen if not trial.state.is_finished}
        for trial in (*running, *seen):
            if trial.state is TrialState.FAILED:
                self._failed = trial
            elif self._failed is not None and self._failed.number == trial.number:
                self._failed = None
        for trial in finished:
            if trial.state in BUDGET_STATES and (took := spent_s(trial)) is not None:
                self._durations.append(took)
        return () if first else finished


def take_snapshot(
    store: TrialStore, name: str, clock: Callable[[], datetime] = utc_now
) -> Snapshot:
    """Read a study once, as ``status`` does.

    Raises:
        StudyNotFoundError: If there is no such study.
    """
    return StudyFollower(store, name, clock).snapshot()
