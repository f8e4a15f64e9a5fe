"""The live view of a study: a display that redraws itself, or plain lines where nobody looks on."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.results import searched_settings
from search.snapshot import Snapshot, StudyFollower, take_snapshot, utc_now
from search.text import format_duration, format_value, sparkline
from trials.errors import StoreUnavailableError
from trials.patience import patience
from trials.store import TrialStore, WorkerInfo
from trials.trial import Trial, TrialState

__all__ = ["LiveView", "Snapshot", "render", "take_snapshot"]

REFRESH_SECONDS = 0.5
LINES_EVERY_SECONDS = 3.0
PATIENCE_SECONDS = 5.0
"""So long the store is silent before people are told."""
OUTAGE_SECONDS = 900.0
"""After a longer outage the view ends; workers and feeders wait for as long as it takes."""
SUMMARY_EVERY_SECONDS = 15.0
"""How often plain lines tell workers and time left where nothing else does."""
MOST_ROWS = 8
"""Running trials, and workers, listed one by one; what goes beyond is counted."""
STATE_STYLES = {
    TrialState.COMPLETE: "green",
    TrialState.PRUNED: "yellow",
    TrialState.FAILED: "red",
    TrialState.CANCELLED: "magenta",
    TrialState.RUNNING: "cyan",
    TrialState.WAITING: "dim",
}


def render(snapshot: Snapshot) -> RenderableType:
    """A snapshot as it is drawn on a terminal; reads well from 80 columns on."""
    parts: list[RenderableType] = [_headline(snapshot), _progress(snapshot), _states(snapshot)]
    parts += [Text(), *_best(snapshot)]
    if snapshot.running:
        parts += [Text(), _running(snapshot)]
    parts += [Text(), _workers(snapshot)]
    return Group(*parts)


def summary(snapshot: Snapshot) -> str:
    """A snapshot in one line."""
    parts = [f"{snapshot.study.name} {snapshot.study.state}: {_budget(snapshot)} finished"]
    if snapshot.best is not None:
        parts.append(f"best loss {format_value(snapshot.best.loss)} (trial {snapshot.best.number})")
    if not snapshot.is_over:
        alive = len(snapshot.workers)
        parts += [f"{len(snapshot.running)} running", f"{alive} worker{'s' * (alive != 1)}"]
        if snapshot.time_left_s is not None:
            parts.append(f"about {format_duration(snapshot.time_left_s)} left")
    return ", ".join(parts)


class LiveView:
    """Follows one study on a console; use it as a context manager.

    On a terminal one display is redrawn by each `refresh`. Elsewhere (a pipe, a log file) a line is
    printed for each trial that finished, at most every few seconds and then together.

    Args:
        store: Where the study is kept.
        study: The study's name.
        console: Where to draw; None: standard output.
        clock: Gives the present, UTC.
        timer: Seconds that only go forward, for the pace of lines.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        store: TrialStore,
        study: str,
        console: Console | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._follower = StudyFollower(store, study, clock)
        self._console = console or Console()
        self._sleep = sleep
        self._lines = PlainLines(self._console, timer)
        self._timer = timer
        self._latest: Snapshot | None = None
        self._silent_since: float | None = None
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            self._lines.flush()

    def follow(self, study: str) -> None:
        """Show another study from now on."""
        self._follower = StudyFollower(self._store, study, self._clock)

    def refresh(self, footer: str = "", *, above: RenderableType | None = None) -> Snapshot:
        """Read the study, show it, and return what was read last: an outage is told and sat out.

        Args:
            footer: A line to show below; not where plain lines are printed.
            above: What to show above it; not where plain lines are printed.

        Raises:
            StudyNotFoundError: If the study was deleted meanwhile.
            StoreUnavailableError: If the store could not be reached at first, or not for too long.
        """
        try:
            with patience(math.inf if self._latest is None else PATIENCE_SECONDS):
                self._latest = self._follower.snapshot()
        except StoreUnavailableError as error:
            return self._outlast(error, above)
        self._silent_since = None
        if self._live is not None:
            self._draw(self._live, self._latest, footer, above)
        else:
            self._lines.show(self._latest)
        return self._latest

    def _outlast(self, error: StoreUnavailableError, above: RenderableType | None) -> Snapshot:
        """Tell that the store does not answer; what is known meanwhile."""
        now, is_new = self._timer(), self._silent_since is None
        since = self._silent_since = now if self._silent_since is None else self._silent_since
        if self._latest is None or now - since > OUTAGE_SECONDS:
            raise error
        line = f"MongoDB does not answer, trying again: {error}"
        if self._live is not None:
            self._draw(self._live, self._latest, line, above)
        elif is_new:
            self._lines.tell(line)
        return self._latest

    def _draw(
        self, live: Live, snapshot: Snapshot, footer: str, above: RenderableType | None
    ) -> None:
        below = [Text(), Text(footer, style="dim")] if footer else []
        before = [] if above is None else [above, Text()]
        live.update(Group(*before, render(snapshot), *below), refresh=True)

    def wait(self) -> None:
        """Let the time between two refreshes pass."""
        self._sleep(REFRESH_SECONDS)


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
        if len(self._pending) > MOST_ROWS:
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
        line = f"{_budget(self._latest)}  trial {trial.number} {trial.state}"
        if trial.loss is not None:
            line += f", loss {format_value(trial.loss)}"
        if trial.state is TrialState.FAILED and trial.failures:
            line += f": {trial.failures[-1].kind}: {trial.failures[-1].message}"
        if trial.started_at and trial.finished_at:
            seconds = (trial.finished_at - trial.started_at).total_seconds()
            line += f", {format_duration(seconds)}"
        return line

    def tell(self, line: str) -> None:
        """Print a line as it is."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _budget(snapshot: Snapshot) -> str:
    limit = snapshot.study.spec.max_trials
    return f"{snapshot.finished}" if limit is None else f"{snapshot.finished}/{limit}"


def _headline(snapshot: Snapshot) -> RenderableType:
    study = snapshot.study
    line = Table.grid(expand=True)
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    title = Text.assemble((study.name, "bold"), f"  {study.state}")
    if study.message:
        title.append(f": {study.message}")
    line.add_row(title, Text(f"running for {format_duration(snapshot.elapsed_s)}", style="dim"))
    return line


def _progress(snapshot: Snapshot) -> RenderableType:
    limit = snapshot.study.spec.max_trials
    left = snapshot.time_left_s
    words = f"{_budget(snapshot)} trials"
    if not snapshot.is_over:
        words += f", about {format_duration(left)} left" if left is not None else ""
    line = Table.grid(expand=True, padding=(0, 2, 0, 0))
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    bar: RenderableType = Text("no limit of trials: runs until stopped", style="dim")
    if limit is not None:
        bar = ProgressBar(total=limit, completed=min(snapshot.finished, limit))
    line.add_row(bar, words)
    return line


def _states(snapshot: Snapshot) -> Text:
    shown = [state for state in TrialState if snapshot.counts[state] or state in _ALWAYS_SHOWN]
    words = [Text(f"{snapshot.counts[s]} {s.lower()}", style=STATE_STYLES[s]) for s in shown]
    return Text("  ").join(words)


_ALWAYS_SHOWN = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)


def _best(snapshot: Snapshot) -> list[RenderableType]:
    best = snapshot.best
    if best is None:
        return [Text("No trial is complete yet.", style="dim")]
    words = Text.assemble(
        ("Best so far", "bold"), f"  loss {format_value(best.loss)}, trial {best.number}"
    )
    accuracy = best.result.get("validation_accuracy")
    if isinstance(accuracy, float):
        words.append(f", validation accuracy {accuracy:.1%}".replace("%", " %"))
    settings = [
        Text.assemble((f"{name} ", "dim"), format_value(value))
        for name, value in searched_settings(snapshot.study, best).items()
    ]
    return [words, Columns(settings, padding=(0, 3), column_first=True)]


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        numeric = column in ("trial", "step", "loss", "time", "seen")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    return table


def _running(snapshot: Snapshot) -> RenderableType:
    table = _table("trial", "step", "loss", "curve", "time", "host")
    for trial in snapshot.running[:MOST_ROWS]:
        curve = [report.loss for report in trial.reports]
        last = trial.reports[-1] if trial.reports else None
        table.add_row(
            f"{trial.number}" + (f", attempt {trial.attempt}" if trial.attempt > 1 else ""),
            str(last.step) if last else "-",
            format_value(last.loss) if last else "-",
            _Curve(curve),
            format_duration(snapshot.age_s(trial.started_at)),
            trial.host or "-",
        )
    return _with_rest(table, len(snapshot.running), "running trials")


def _workers(snapshot: Snapshot) -> RenderableType:
    if not snapshot.workers:
        return Text("No worker is alive; start one with: larnn-search worker", style="yellow")
    table = _table("worker", "slots", "runs", "seen")
    table.columns[2].no_wrap = False
    table.columns[0].overflow = "ellipsis"
    for worker in snapshot.workers[:MOST_ROWS]:
        devices = Counter(str(slot.get("device", "?")) for slot in worker.slots)
        table.add_row(
            worker.name,
            ", ".join(f"{count} {device}" for device, count in devices.items()) or "-",
            _runs(snapshot, worker),
            f"{format_duration(snapshot.age_s(worker.last_seen_at))} ago",
        )
    return _with_rest(table, len(snapshot.workers), "workers")


def _runs(snapshot: Snapshot, worker: WorkerInfo) -> str:
    """What a worker's slots do; the followed study's trials by number alone."""
    busy = [slot for slot in worker.slots if slot.get("number") is not None]
    own = [str(slot["number"]) for slot in busy if slot.get("study") == snapshot.study.name]
    words = [f"trial {', '.join(own)}"] if own else []
    words += [
        f"{slot['study']} {slot['number']}"
        for slot in busy
        if slot.get("study") != snapshot.study.name
    ]
    return "; ".join([*words, worker.message] if worker.message else words) or "idle"


def _with_rest(table: Table, total: int, what: str) -> RenderableType:
    if total <= MOST_ROWS:
        return table
    return Group(table, Text(f"and {total - MOST_ROWS} more {what}", style="dim"))


class _Curve:
    """A sparkline in signs that the console can print."""

    def __init__(self, values: list[float]) -> None:
        self._values = values

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        length = len(sparkline(self._values))
        return Measurement(length, length)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(sparkline(self._values, ascii_only=options.ascii_only), style="cyan")
