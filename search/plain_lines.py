"""A study's progress in plain lines, for a pipe or a log file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from rich.console import Console

from search.ending import last_failure
from search.results import spent_s
from search.snapshot import Snapshot
from search.text import format_duration, format_value
from trials.trial import Trial, TrialState

LINES_EVERY_SECONDS = 3.0
SUMMARY_EVERY_SECONDS = 15.0
"""How often plain lines tell workers and time left where nothing else does."""
MOST_LINES = 8
"""Trials that ended together, told one by one; more are counted."""


def summary(snapshot: Snapshot) -> str:
    """A snapshot in one line."""
    parts = [f"{snapshot.study.name} {snapshot.study.state}: {budget(snapshot)} finished"]
    if snapshot.best is not None:
        parts.append(f"best loss {format_value(snapshot.best.loss)} (trial {snapshot.best.number})")
    if not snapshot.is_over:
        alive = len(snapshot.workers)
        parts += [f"{len(snapshot.running)} running", f"{alive} worker{'s' * (alive != 1)}"]
        if snapshot.time_left_s is not None:
            parts.append(f"about {format_duration(snapshot.time_left_s)} left")
    return ", ".join(parts)


class PlainLines:
    """Prints what changed between snapshots, a line a change, not more often than people read."""

    def __init__(self, console: Console, timer: Callable[[], float]) -> None:
        self._console = console
        self._timer = timer
        self._pending: list[Trial] = []
        self._latest: Snapshot | None = None
        self._shown: object = None
        """State and number of workers that the latest summary told."""
        self._shown_best: int | None = None
        self._next_at = self._summary_at = 0.0

    def show(self, snapshot: Snapshot) -> None:
        """Take note of a snapshot, and print what is due."""
        first = self._latest is None
        self._latest = snapshot
        self._pending += snapshot.newly_finished
        if first:
            self._shown_best = snapshot.best.number if snapshot.best else None
        now, news = self._timer(), (snapshot.study.state, len(snapshot.workers))
        if snapshot.is_over or now >= self._next_at:
            is_due = news != self._shown or (now >= self._summary_at and not snapshot.is_over)
            if self._pending or is_due:
                self._next_at = now + LINES_EVERY_SECONDS
            self.flush()
            if is_due:
                self._shown, self._summary_at = news, now + SUMMARY_EVERY_SECONDS
                self.tell(summary(snapshot))

    def flush(self) -> None:
        """Print the changes that wait."""
        if self._latest is None or not self._pending:
            return
        best = self._latest.best
        if len(self._pending) > MOST_LINES:
            states = Counter(str(trial.state) for trial in self._pending)
            told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            self.tell(f"{len(self._pending)} trials ended ({told}); {summary(self._latest)}")
        else:
            for trial in self._pending:
                new = best is not None and trial.number == best.number != self._shown_best
                self.tell(self._line(trial) + (", the best so far" if new else ""))
        self._shown_best = best.number if best else None
        self._pending = []

    def _line(self, trial: Trial) -> str:
        assert self._latest is not None  # noqa: S101  # flush saw to it
        line = f"{budget(self._latest)}  trial {trial.number} {trial.state}"
        if trial.loss is not None:
            line += f", loss {format_value(trial.loss)}"
        if trial.state is TrialState.FAILED and (reason := last_failure(trial)):
            line += f": {reason}"
        if (seconds := spent_s(trial)) is not None:
            line += f", {format_duration(seconds)}"
        return line

    def tell(self, line: str) -> None:
        """Print a line as it is."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def budget(snapshot: Snapshot) -> str:
    """How many trials have finished, of how many."""
    limit = snapshot.study.spec.max_trials
    return f"{snapshot.finished}" if limit is None else f"{snapshot.finished}/{limit}"
