"""A study's progress as it is drawn on a terminal."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.ending import last_failure
from search.plain_lines import budget
from search.results import searched_settings
from search.snapshot import Snapshot
from search.text import format_duration, format_share, format_value, sparkline
from trials.store import WorkerInfo
from trials.trial import TrialState

MOST_ROWS = 8
"""Running trials, and workers, listed one by one; what goes beyond is counted."""
LONGEST_FAILURE = 158
"""Characters of a failure's message."""
WIDEST = 120
"""Columns of what spreads to the right-hand margin: a pipe may have hundreds."""
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
    spread = Group(
        _headline(snapshot), _progress(snapshot), _states(snapshot), Text(), *_best(snapshot)
    )
    parts: list[RenderableType] = [Constrain(spread, WIDEST), *_failure(snapshot)]
    if snapshot.running:
        parts += [Text(), _running(snapshot)]
    if snapshot.workers or not snapshot.is_over:
        parts += [Text(), _workers(snapshot)]
    return Group(*parts)


def _headline(snapshot: Snapshot) -> RenderableType:
    study = snapshot.study
    line = Table.grid(expand=True)
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    title = Text.assemble((study.name, "bold"), f"  {study.state}")
    if study.message:
        title.append(f": {study.message}")
    line.add_row(title, Text(f"created {format_duration(snapshot.elapsed_s)} ago", style="dim"))
    return line


def _progress(snapshot: Snapshot) -> RenderableType:
    limit = snapshot.study.spec.max_trials
    left = snapshot.time_left_s
    words = f"{budget(snapshot)} trials"
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
        return [Text(snapshot.why_no_best, style="dim")]
    words = Text.assemble(
        ("Best so far", "bold"), f"  loss {format_value(best.loss)}, trial {best.number}"
    )
    accuracy = best.result.get("validation_accuracy")
    if isinstance(accuracy, float):
        words.append(f", validation accuracy {format_share(accuracy)}")
    settings = [
        Text.assemble((f"{name} ", "dim"), format_value(value))
        for name, value in searched_settings(snapshot.study, best).items()
    ]
    return [words, Columns(settings, padding=(0, 3), column_first=True)]


def _failure(snapshot: Snapshot) -> list[RenderableType]:
    """Why the latest trial failed, in two lines at most; all of it is in ``show``."""
    trial = snapshot.latest_failed
    if trial is None:
        return []
    words = f"Trial {trial.number} failed: {last_failure(trial)}"
    return [Text(), Text(words[:LONGEST_FAILURE], style="red")]


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
