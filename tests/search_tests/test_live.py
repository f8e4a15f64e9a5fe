import dataclasses
import io
import json
import math
from datetime import timedelta

import pytest
from rich.console import Console
from rich.text import Text

from search.live import LiveView
from search.live_screen import render
from search.plain_lines import PlainLines, summary
from search.ranking import ranked
from search.snapshot import LOOK_BACK, Snapshot, StudyFollower, take_snapshot
from search.text import format_duration, format_value, sparkline
from tests.search_tests.sample_study import WORKERS, sample_study, sample_trials
from trials.errors import StoreUnavailableError, StudyNotFoundError
from trials.memory_store import MemoryStore
from trials.store import NewTrial, WorkerInfo
from trials.study import StudyState
from trials.trial import Failure, FailureKind, Outcome, TrialState


def sample_snapshot(**changes):
    trials = sample_trials(34, running=4)
    now = max(trial.started_at for trial in trials) + timedelta(seconds=20)
    running = tuple(trial for trial in trials if trial.state is TrialState.RUNNING)
    workers = tuple(
        WorkerInfo(
            name=name,
            host=name.split("-")[0],
            pid=7,
            slots=tuple(
                {"device": "cpu", "study": "quick", "number": t.number, "state": "RUNNING"}
                for t in running
                if t.worker == name
            ),
            last_seen_at=now - timedelta(seconds=2),
        )
        for name in sorted(set(WORKERS))
    )
    counts = {state: sum(t.state is state for t in trials) for state in TrialState}
    values = {
        "study": sample_study(),
        "counts": {**counts, TrialState.WAITING: 2},
        "best": ranked(sample_study(), trials)[0].trial,
        "running": running,
        "workers": workers,
        "newly_finished": (),
        "latest_failed": None,
        "typical_s": 22.0,
        "taken_at": now,
    }
    return Snapshot(**{**values, **changes})


def text_of(snapshot, width=80, encoding="utf-8"):
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding), width=width, color_system=None)
    console.print(render(snapshot))
    console.file.flush()
    return raw.getvalue().decode(encoding)


class Store(MemoryStore):
    """Counts what it is asked for, and lets trials run without a worker."""

    def __init__(self):
        super().__init__()
        self.reads = 0
        self.create_study(sample_study().spec)

    def get_trial(self, study, number):
        self.reads += 1
        return super().get_trial(study, number)

    def add(self, count, first=0):
        self.add_trials("quick", None, first, [NewTrial({"x": 1.0}, seed=0)] * count)

    def start(self):
        return self.reserve("quick", "w", "h", f"token {self.counts('quick')}")

    def run(self, loss):
        self.finish(self.start().claim, Outcome(TrialState.COMPLETE, loss=loss))


def test_80_columns_show_states_best_settings_running_curves_workers_and_time_left():
    shown = text_of(sample_snapshot())
    assert all(len(line) <= 80 for line in shown.splitlines())
    winner = sample_snapshot().best
    for words in (
        "30/60 trials, about",
        "2 waiting  4 running",
        f"loss {winner.loss:.4g}, trial {winner.number}",
        f"learning_rate {winner.params['learning_rate']:.4g}",
        "ares-4711-k3",
        "2 s ago",
        "█",
    ):
        assert words in shown
    assert "…" not in shown
    assert "epochs 12" not in shown  # fixed, not searched


def test_the_headline_tells_the_studys_age_not_that_it_runs():
    made = sample_study().created_at
    waiting = sample_snapshot(running=(), workers=(), taken_at=made + timedelta(hours=13))
    assert "created 13 h 00 min ago" in text_of(waiting)


def test_a_console_without_unicode_gets_plain_signs():
    shown = text_of(sample_snapshot(), encoding="ascii")
    assert shown.isascii()
    assert "@" in shown


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_console(width):
    assert all(len(line) <= width for line in text_of(sample_snapshot(), width).splitlines())


def test_a_pipe_hundreds_of_columns_wide_gets_lines_that_can_be_read():
    assert max(len(line.rstrip()) for line in text_of(sample_snapshot(), 400).splitlines()) <= 120


def test_an_empty_study_says_what_is_missing_and_how_to_start_it():
    counts = dict.fromkeys(TrialState, 0)
    shown = text_of(sample_snapshot(counts=counts, best=None, running=(), workers=()))
    assert "No trial is complete yet." in shown
    assert "larnn-search worker" in shown


def test_many_running_trials_are_counted_not_listed():
    running = sample_snapshot().running * 5
    assert "and 12 more running trials" in text_of(sample_snapshot(running=running))


def test_time_left_spreads_what_is_to_do_over_the_slots():
    snapshot = sample_snapshot()
    started = tuple(
        dataclasses.replace(trial, started_at=snapshot.taken_at - timedelta(seconds=11))
        for trial in snapshot.running
    )
    snapshot = dataclasses.replace(snapshot, running=started)
    assert snapshot.time_left_s == pytest.approx((30 * 22 - 4 * 11) / 4)


def test_time_left_ends_with_the_studys_timeout_and_is_unknown_without_anything_to_judge_by():
    study = sample_study()
    timed = dataclasses.replace(study, spec=dataclasses.replace(study.spec, timeout_s=200.0))
    snapshot = sample_snapshot(study=timed, taken_at=study.created_at + timedelta(seconds=190))
    assert snapshot.time_left_s == pytest.approx(10)
    assert sample_snapshot(typical_s=None).time_left_s is None
    assert sample_snapshot(running=(), workers=()).time_left_s is None


def test_a_stopping_study_ends_with_what_runs():
    study = dataclasses.replace(sample_study(), state=StudyState.STOPPING)
    snapshot = sample_snapshot(study=study)
    started = tuple(
        dataclasses.replace(trial, started_at=snapshot.taken_at - timedelta(seconds=11))
        for trial in snapshot.running
    )
    assert dataclasses.replace(snapshot, running=started).time_left_s == pytest.approx(11)


def test_a_study_that_is_over_wants_no_worker():
    over = dataclasses.replace(sample_study(), state=StudyState.COMPLETE)
    assert "worker" not in text_of(sample_snapshot(study=over, running=(), workers=()))


def test_json_is_strict_and_names_the_best_the_running_and_the_workers():
    running = sample_snapshot().running[0]
    nan = dataclasses.replace(running.reports[-1], loss=math.nan)
    running = dataclasses.replace(running, reports=(nan,))
    row = json.loads(json.dumps(sample_snapshot(running=(running,)).to_json(), allow_nan=False))
    assert (row["study"], row["state"], row["finished"], row["max_trials"]) == (
        "quick",
        "ACTIVE",
        30,
        60,
    )
    assert row["counts"]["RUNNING"] == 4
    assert row["best"]["params"]["data"] == "har"
    assert row["running"][0]["reports"][0]["loss"] is None
    assert row["workers"][0]["seen_s_ago"] == 2.0


def test_follower_tells_each_finished_trial_once():
    store = Store()
    store.add(6)
    store.run(0.5)
    follower = StudyFollower(store, "quick")
    assert follower.snapshot().newly_finished == ()
    store.run(0.4)
    running = store.start()
    store.run(0.3)
    assert [t.number for t in follower.snapshot().newly_finished] == [1, 3]
    store.finish(running.claim, Outcome(TrialState.WAITING))
    assert follower.snapshot().newly_finished == ()
    store.run(0.2)
    snapshot = follower.snapshot()
    assert [t.number for t in snapshot.newly_finished] == [2]
    assert snapshot.best.loss == 0.2
    assert snapshot.typical_s is not None


def test_the_latest_failure_is_told_in_few_lines_until_another_comes():
    store, shown = Store(), []
    store.add(4)
    follower = StudyFollower(store, "quick")
    assert follower.snapshot().latest_failed is None
    for message in ("no [red]such[/red] file\nand more", "long " * 100):
        failure = Failure(FailureKind.EXCEPTION, message, "w", "h", 1)
        store.finish(store.start().claim, Outcome(TrialState.FAILED, failure=failure))
        told = follower.snapshot()
        shown.append(text_of(told))
        store.run(0.5)
        assert follower.snapshot().latest_failed == told.latest_failed
    assert "Trial 0 failed: exception: no [red]such[/red] file" in shown[0]
    assert "and more" not in shown[0]
    assert "Trial 2 failed: exception: long" in shown[1]
    assert 10 < shown[1].count("long") < 32
    store.retry_trial("quick", 2)
    store.start()
    assert follower.snapshot().latest_failed is None
    row = json.loads(json.dumps(told.to_json(), allow_nan=False))
    assert row["latest_failed"]["failures"][0]["kind"] == "exception"


def test_a_snapshot_of_a_large_study_reads_a_bounded_number_of_trials():
    store = Store()
    store.create_study(sample_study(max_trials=300).spec)
    store.add(300)
    for _ in range(200):
        store.run(1.0)
    follower = StudyFollower(store, "quick")
    follower.snapshot()
    assert store.reads == LOOK_BACK
    follower.snapshot()
    assert store.reads == LOOK_BACK


def test_a_snapshot_of_no_study_names_it():
    with pytest.raises(StudyNotFoundError, match="nope"):
        take_snapshot(Store(), "nope")


def test_lines_without_a_terminal_tell_each_end_and_the_new_best():
    store, file = Store(), io.StringIO()
    seconds = iter(range(0, 15, 3))
    store.add(4)
    view = LiveView(store, "quick", Console(file=file), timer=lambda: float(next(seconds)))
    with view:
        view.refresh()
        for loss in (0.5, 0.7):
            store.run(loss)
            view.refresh()
        claim = store.start().claim
        failure = Failure(FailureKind.CRASH, "signal 11", "w", "h", 1)
        store.finish(claim, Outcome(TrialState.FAILED, failure=failure))
        view.refresh()
        store.set_study_state("quick", StudyState.CANCELLED)
        assert view.refresh().is_over
    lines = file.getvalue().splitlines()
    assert lines[0] == "quick ACTIVE: 0/60 finished, 0 running, 0 workers"
    assert lines[1].startswith("1/60  trial 0 COMPLETE, loss 0.5")
    assert lines[1].endswith("the best so far")
    assert lines[2].startswith("2/60  trial 1 COMPLETE, loss 0.7")
    assert "best" not in lines[2]
    assert lines[3].startswith("3/60  trial 2 FAILED: crash: signal 11")
    assert lines[4].startswith("quick CANCELLED: 3/60 finished, best loss 0.5 (trial 0)")
    assert len(lines) == 5


def test_lines_wait_for_their_pace_and_then_come_together():
    now = [100.0]
    file = io.StringIO()
    lines = PlainLines(Console(file=file, width=300), lambda: now[0])
    done = [trial for trial in sample_trials(30) if trial.loss is not None]
    lines.show(sample_snapshot())
    now[0] += 3
    lines.show(sample_snapshot(newly_finished=tuple(done[:1])))
    assert len(file.getvalue().splitlines()) == 2
    for trial in done[1:15]:
        now[0] += 0.1
        lines.show(sample_snapshot(newly_finished=(trial,)))
    assert len(file.getvalue().splitlines()) == 2
    now[0] += 3
    lines.show(sample_snapshot())
    assert file.getvalue().splitlines()[2].startswith("14 trials ended (")


def test_lines_tell_of_workers_that_come_and_now_and_then_the_time_left():
    now, file = [100.0], io.StringIO()
    lines = PlainLines(Console(file=file, width=300), lambda: now[0])
    workers = sample_snapshot().workers
    told = []
    for seconds, alive in ((0, 0), (1, 1), (2, 2), (3, 2), (6, 2), (17, 2), (18, 2), (25, 3)):
        now[0] = 100.0 + seconds
        lines.show(sample_snapshot(workers=(workers * 2)[:alive]))
        told.append(file.getvalue().splitlines())
    assert [len(lines) for lines in told] == [1, 1, 1, 2, 2, 2, 3, 4]
    for line, alive in zip(told[-1], (0, 2, 2, 3), strict=True):
        assert f", {alive} workers, about " in line
    assert len(file.getvalue().splitlines()) == 4
    lines.show(sample_snapshot(workers=workers[:1]))
    now[0] += 3
    lines.show(sample_snapshot(workers=workers[:1]))
    assert ", 1 worker, about " in file.getvalue().splitlines()[-1]


def test_a_terminal_gets_one_display_and_wait_uses_the_given_sleep():
    store, file, slept = Store(), io.StringIO(), []
    store.add(1)
    console = Console(file=file, force_terminal=True, width=80, height=30)
    with LiveView(store, "quick", console, sleep=slept.append) as view:
        view.refresh()
        store.run(0.25)
        view.refresh()
        view.wait()
    assert "loss 0.25, trial 0" in file.getvalue()
    assert len(slept) == 1


def test_a_terminal_shows_a_workers_words_as_they_are(capsys, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)
    store = Store()
    store.beat_worker(WorkerInfo("w", "h", 7, (), message="[/tmp/x] has :x: other data"))
    with LiveView(store, "quick") as view:
        view.refresh()
    assert "[/tmp/x] has :x: other data" in Text.from_ansi(capsys.readouterr().out).plain


class FlakyStore(Store):
    """Does not answer while ``is_down``."""

    is_down = False

    def list_workers(self, *arguments):
        if self.is_down:
            raise StoreUnavailableError("cannot reach MongoDB at host")
        return super().list_workers(*arguments)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_an_outage_is_told_and_sat_out(is_terminal):
    store, file, now = FlakyStore(), io.StringIO(), [0.0]
    store.add(2)
    console = Console(file=file, force_terminal=is_terminal, width=100, height=40)
    with LiveView(store, "quick", console, timer=lambda: now[0]) as view:
        before = view.refresh()
        store.is_down = True
        store.run(0.25)
        for _ in range(5):  # many minutes
            assert view.refresh() is before
            now[0] += 150
        store.is_down = False
        assert view.refresh().best.loss == 0.25
    shown = file.getvalue()
    assert "MongoDB does not answer, trying again: cannot reach MongoDB at host" in shown
    assert "loss 0.25" in shown  # what ended meanwhile
    assert is_terminal or len(shown.splitlines()) == 4  # the last is a summary, due by then


def test_an_outage_without_end_ends_the_view():
    store, now = FlakyStore(), [0.0]
    with LiveView(store, "quick", Console(file=io.StringIO()), timer=lambda: now[0]) as view:
        view.refresh()
        store.is_down = True
        view.refresh()
        now[0] += 1000
        with pytest.raises(StoreUnavailableError):
            view.refresh()


def test_summary_is_one_line():
    line = summary(sample_snapshot())
    assert "\n" not in line
    assert line.startswith("quick ACTIVE: 30/60 finished, best loss")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations_in_words(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("elu", "elu"),
        (128, "128"),
        (True, "True"),
        (0.0, "0"),
        (0.00312345, "0.003123"),
        (1.234e-7, "1.23e-7"),
        (1e-5, "1e-5"),
        (2.5e8, "2.5e8"),
        (12345.6, "1.23e4"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_values_in_words(value, text):
    assert format_value(value) == text


def test_sparkline_scales_to_its_curve_and_leaves_gaps():
    assert sparkline([2.0, math.nan, 1.0]) == "█ ▁"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline(range(100), width=5) == "▁▃▅▆█"
    assert sparkline([math.nan]) == " "
    assert sparkline([]) == ""
