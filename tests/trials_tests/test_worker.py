import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.trials_tests.working import (
    ALLOWED,
    RunningWorker,
    add_study,
    eventually,
    finished,
    promised,
)
from trials.errors import (
    BrokenDocumentError,
    InvalidValueError,
    ServerNotFoundError,
    StoreUnavailableError,
    TrialRefusedError,
)
from trials.memory_store import MemoryStore
from trials.settings import Stop, WorkerSettings
from trials.study import StudyState
from trials.trial import FailureKind, Outcome, TrialState
from trials.worker import Worker

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "gate"


def run_all(store, **settings):
    with RunningWorker(store, **settings):
        return eventually(lambda: finished(store))


def is_running(store, number=0, name="s"):
    return store.get_trial(name, number).state is TrialState.RUNNING


def reported(store, count, number=0, name="s"):
    return len(store.get_trial(name, number).reports) >= count


def test_runs_all_trials_in_one_warm_child(store):
    add_study(store, "square", [{"x": x} for x in range(5)])
    trials = run_all(store)
    assert [t.loss for t in trials] == [0, 1, 4, 9, 16]
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert len({t.result["pid"] for t in trials}) == 1
    assert trials[0].result["device"] == "cpu"
    assert "loss" not in trials[0].result
    assert store.list_workers() == []  # it signed off


def test_the_child_sees_its_trial_and_no_way_to_the_database(store, monkeypatch):
    monkeypatch.setenv("LARNN_MONGO_URI", "mongodb://secret")
    add_study(store, "look_around", [{}], threads=2, requirements={"data": "abc"})
    (trial,) = run_all(store, slots=["cuda:5"])
    assert trial.result["environment"] == {
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "5",
        "LARNN_MONGO_URI": None,
    }
    assert trial.result["told"] == [0, 1, 0, 2]
    assert trial.result["told_device"] == "cuda"
    assert trial.result["device"] == "cuda:5"
    assert trial.result["requirements"] == {"data": "abc"}
    assert trial.result["path_end"] == os.getcwd()
    assert store.load_blob("s", 0, "weights") == b"\x00weights"


def test_running_trials_have_no_more_threads_than_the_worker_has_cores(store, gate):
    add_study(store, "steps", [{"steps": 2, "gate": str(gate)}] * 3, threads=2)
    with RunningWorker(store, slots=["cpu"] * 5, cores=5):
        eventually(lambda: store.counts("s")[TrialState.RUNNING] == 2)
        # A slot without cores is no slot: nobody should suggest trials for it.
        eventually(lambda: len(store.list_workers()[0].slots) == 2)
        assert store.counts("s")[TrialState.RUNNING] == 2
        add_study(store, "square", [{"x": 1}], name="narrow", priority=1000)
        gate.touch()
        eventually(lambda: finished(store) and finished(store, "narrow"))
        eventually(lambda: len(store.list_workers()[0].slots) == 5)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("raise", FailureKind.EXCEPTION, "ValueError: learning rate is on holiday"),
        ("exit", FailureKind.EXCEPTION, "SystemExit: enough"),
        ("die", FailureKind.CRASH, "exited with status 3"),
        ("segfault", FailureKind.CRASH, "SIGSEGV"),
        ("memory_error", FailureKind.OUT_OF_MEMORY, "no room"),
        ("cuda_memory", FailureKind.OUT_OF_MEMORY, "CUDA out of memory"),
        ("nan", FailureKind.NAN_LOSS, "the loss is nan: try less"),
        ("no_dict", FailureKind.EXCEPTION, "got a int"),
        ("no_loss", FailureKind.EXCEPTION, "needs a loss, got only accuracy"),
        ("word_loss", FailureKind.EXCEPTION, "loss must be a number, got 'low'"),
        ("odd_value", FailureKind.EXCEPTION, "result['model'] is a object"),
        ("stopped", FailureKind.EXCEPTION, "nothing told it to stop"),
    ],
)
def test_failures_are_told_apart(store, how, kind, message):
    add_study(store, "misbehave", [{"how": how}], max_retries=0)
    (trial,) = run_all(store)
    assert trial.state is TrialState.FAILED
    (failure,) = trial.failures
    assert failure.kind is kind
    assert message in failure.message
    assert failure.attempt == 1
    assert failure.worker == trial.worker
    assert failure.host == trial.host
    assert trial.result["device"] == "cpu"


def test_a_nan_keeps_what_the_objective_said_beside_it(store):
    add_study(store, "misbehave", [{"how": "nan"}])
    (trial,) = run_all(store)
    assert trial.state is TrialState.FAILED
    assert trial.result == {"epochs_run": 2, "device": "cpu"}


def test_an_exception_leaves_its_traceback(store):
    add_study(store, "misbehave", [{"how": "raise"}])
    (trial,) = run_all(store)
    assert "in _raise" in trial.failures[0].traceback
    assert len(trial.failures) == 1  # not tried again: max_retries is 2


def test_a_crash_is_retried_then_failed_and_the_slot_goes_on(store):
    add_study(store, "misbehave", [{"how": "die"}, {"how": "chatter"}], max_retries=2)
    crashed, other = run_all(store, elsewhere_s=0)
    assert crashed.state is TrialState.FAILED
    assert [f.kind for f in crashed.failures] == [FailureKind.CRASH] * 3
    assert "about to go" in crashed.failures[0].traceback
    assert other.state is TrialState.COMPLETE


@pytest.mark.parametrize(
    ("how", "limit", "kind"),
    [
        ("forever", {"trial_timeout_s": 0.2}, FailureKind.TIMEOUT),
        ("forever", {"stall_timeout_s": 0.2}, FailureKind.STALL),
        ("hog", {"memory_limit_bytes": 200 << 20}, FailureKind.OUT_OF_MEMORY),
        ("hog_in_child", {"memory_limit_bytes": 200 << 20}, FailureKind.OUT_OF_MEMORY),
    ],
)
def test_limits_are_enforced_from_outside(store, how, limit, kind):
    add_study(store, "misbehave", [{"how": how}], max_retries=0, **limit)
    (trial,) = run_all(store)
    assert trial.failures[0].kind is kind
    assert next(iter(limit)) in trial.failures[0].message


def test_time_that_a_checkpoint_waits_for_the_database_is_not_the_trials(store, gate, monkeypatch):
    gate.touch()
    limits = {"trial_timeout_s": 60, "stall_timeout_s": 60}
    add_study(store, "steps", [{"steps": 2, "gate": str(gate)}], **limits)
    store.finish(store.reserve("s", "w", "h", "t").claim, Outcome(TrialState.WAITING))
    late, load = 0.0, store.load_blob

    def load_late(*arguments):
        nonlocal late
        late += 90.0
        return load(*arguments)

    monkeypatch.setattr(store, "load_blob", load_late)
    with RunningWorker(store, clock=lambda: time.monotonic() + late):
        (trial,) = eventually(lambda: finished(store))
    assert (trial.state, trial.failures) == (TrialState.COMPLETE, ())


def test_a_trial_within_its_limits_is_left_in_peace(store):
    limits = {"trial_timeout_s": 60, "stall_timeout_s": 60, "memory_limit_bytes": 1 << 30}
    add_study(store, "sleepy", [{"seconds": 0.7}], **limits)  # long enough for a memory check
    (trial,) = run_all(store)
    assert trial.state is TrialState.COMPLETE


def test_reports_arrive_in_order(store, gate):
    gate.touch()
    add_study(store, "steps", [{"steps": 4, "gate": str(gate)}])
    (trial,) = run_all(store)
    assert [(r.step, r.loss) for r in trial.reports] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert trial.reports[1].metrics == {"accuracy": 0.2}
    seconds = [r.seconds for r in trial.reports]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_a_trial_above_the_cutoff_is_pruned_one_below_is_not(store, gate):
    add_study(store, "steps", [{"steps": 3, "gate": str(gate), "gate_from": 2}])
    with RunningWorker(store):
        eventually(lambda: reported(store, 2))
        assert store.acquire_feeder("s", "feeder")
        store.set_cutoffs("s", "feeder", {1: 0.1, 2: 0.6, 3: 0.1})  # at step 2: 0.5 is allowed
        seen = store.get_trial("s", 0).lease_expires_at
        eventually(lambda: store.get_trial("s", 0).lease_expires_at > seen)  # a beat
        assert is_running(store)
        store.set_cutoffs("s", "feeder", {2: 0.4})
        (trial,) = eventually(lambda: finished(store))
    assert trial.state is TrialState.PRUNED
    assert trial.loss == 0.5
    assert trial.result == {"done": 2, "device": "cpu"}


def test_one_bad_step_ends_no_trial_that_was_good_before(store, gate):
    add_study(store, "steps", [{"steps": 3, "gate": str(gate), "gate_from": 2, "bad_step": 2}])
    with RunningWorker(store):
        eventually(lambda: reported(store, 2))
        assert store.acquire_feeder("s", "feeder")
        store.set_cutoffs("s", "feeder", {2: 1.0})  # step 1 was as good
        seen = store.get_trial("s", 0).lease_expires_at
        eventually(lambda: store.get_trial("s", 0).lease_expires_at > seen)  # a beat
        assert is_running(store)
        store.set_cutoffs("s", "feeder", {2: 0.9})
        (trial,) = eventually(lambda: finished(store))
    assert (trial.state, trial.loss) == (TrialState.PRUNED, 9.0)


@pytest.mark.parametrize("stubborn", [False, True])
def test_cancel_ends_a_running_trial(store, gate, stubborn):
    add_study(store, "steps", [{"steps": 2, "gate": str(gate), "stubborn": stubborn}])
    with RunningWorker(store):
        eventually(lambda: reported(store, 1))
        store.cancel_trial("s", 0)
        (trial,) = eventually(lambda: finished(store), promised(5))
    assert trial.state is TrialState.CANCELLED


def test_a_cancelled_study_is_dropped_at_once(store, gate):
    add_study(store, "steps", [{"steps": 2, "gate": str(gate), "stubborn": True}] * 2)
    with RunningWorker(store):
        eventually(lambda: reported(store, 1))
        store.set_study_state("s", StudyState.CANCELLED)
        trials = eventually(lambda: finished(store), promised(5))
    assert {t.state for t in trials} == {TrialState.CANCELLED}


def test_pause_requeues_with_a_checkpoint_and_resume_goes_on_from_it(store, gate):
    add_study(store, "steps", [{"steps": 3, "gate": str(gate), "gate_from": 2}])
    with RunningWorker(store):
        eventually(lambda: reported(store, 2))
        store.set_study_state("s", StudyState.PAUSED)
        eventually(lambda: store.get_trial("s", 0).state is TrialState.WAITING, promised(5))
        assert store.load_blob("s", 0, "checkpoint") == b'{"done": 2}'
        gate.touch()
        store.set_study_state("s", StudyState.ACTIVE)
        (trial,) = eventually(lambda: finished(store))
    assert trial.state is TrialState.COMPLETE
    assert trial.result["resumed_from"] == 2
    assert (trial.attempt, trial.retries, trial.failures) == (2, 0, ())
    assert [r.step for r in trial.reports] == [1, 2, 3]
    assert trial.reports[2].seconds > trial.reports[1].seconds
    assert store.load_blob("s", 0, "checkpoint") is None


def test_pause_frees_the_slot_of_a_trial_that_does_not_listen(store, gate):
    add_study(store, "steps", [{"steps": 2, "gate": str(gate), "stubborn": True}])
    with RunningWorker(store, grace_s=1000, leave_s=0.6):  # the grace is for leaving alone
        eventually(lambda: reported(store, 1))
        store.set_study_state("s", StudyState.PAUSED)
        eventually(lambda: store.get_trial("s", 0).state is TrialState.WAITING, promised(5))
    assert (
        WorkerSettings(objectives=[]).heartbeat_s + WorkerSettings(objectives=[]).pause_grace_s < 5
    )


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_gentle_stop_requeues_even_a_trial_that_does_not_listen(store, gate, stubborn):
    add_study(store, "steps", [{"steps": 3, "gate": str(gate), "stubborn": stubborn}])
    with RunningWorker(store, grace_s=0.2) as running:
        eventually(lambda: store.load_blob("s", 0, "checkpoint"))
        running.worker.stop()
        running.thread.join(promised(5))
        assert not running.thread.is_alive()
    trial = store.get_trial("s", 0)
    assert trial.state is TrialState.WAITING
    assert (trial.retries, trial.failures) == (0, ())
    assert store.load_blob("s", 0, "checkpoint") == b'{"done": 1}'


def test_a_second_stop_does_not_wait_for_the_grace(store, gate):
    add_study(store, "steps", [{"steps": 3, "gate": str(gate), "stubborn": True}])
    with RunningWorker(store, grace_s=1000, leave_s=1000) as running:
        eventually(lambda: reported(store, 1))
        running.worker.stop()
        running.worker.stop(Stop.AT_ONCE)
        running.thread.join(promised(5))
        assert not running.thread.is_alive()
    assert store.get_trial("s", 0).state is TrialState.WAITING


def test_a_refused_study_is_left_alone_and_others_go_on(store):
    add_study(store, "misbehave", [{"how": "refuse"}], priority=1000)
    add_study(store, "square", [{"x": 2}], name="other")
    with RunningWorker(store):
        eventually(lambda: finished(store, "other"))
        message = eventually(lambda: [w for w in store.list_workers() if w.message])[0].message
        assert store.get_trial("s", 0).state is TrialState.WAITING
    assert message == "leaves study 's' alone: this machine has other data"
    trial = store.get_trial("s", 0)
    assert (trial.attempt, trial.retries, trial.failures) == (1, 0, ())


def test_a_worker_that_can_run_none_of_its_studies_leaves_and_says_why(store):
    add_study(store, "no.such.module:f", [{}])
    with RunningWorker(store, studies=["s"], objectives=["no.such.module:f"]) as running:
        running.thread.join(20)
        assert not running.thread.is_alive()
    assert isinstance(running.error, TrialRefusedError)
    assert "No module named 'no'" in str(running.error)
    assert store.get_trial("s", 0).state is TrialState.WAITING


def test_an_objective_off_the_allow_list_is_left_alone(store):
    add_study(store, "os:getcwd", [{}])
    with RunningWorker(store):
        message = eventually(lambda: [w for w in store.list_workers() if w.message])[0].message
    assert "--allow-objective os:getcwd" in message
    assert store.get_trial("s", 0).attempt == 0


def test_a_worker_fenced_out_kills_its_trial_and_goes_on(gate):
    class Clock:
        now = datetime(2026, 1, 1, tzinfo=UTC)

        def __call__(self):
            return self.now

    clock = Clock()
    store = MemoryStore(clock=clock)
    add_study(store, "steps", [{"steps": 2, "gate": str(gate), "stubborn": True}])
    with RunningWorker(store, heartbeat_s=29.9):
        eventually(lambda: reported(store, 1))
        clock.now += timedelta(seconds=31)
        assert store.release_expired()
        # Another worker takes it and ends it; ours learns of that only when it reports.
        taken = store.reserve("s", "other", "elsewhere", "token")
        gate.touch()
        add_study(store, "square", [{"x": 1}], name="next")
        eventually(lambda: finished(store, "next"))
        trial = store.get_trial("s", 0)
        assert trial.claim == taken.claim
        assert trial.worker == "other"
        assert [f.kind for f in trial.failures] == [FailureKind.LOST_WORKER]


def test_a_worker_that_has_just_started_takes_back_no_lease(store, monkeypatch):
    now, released_at = [0.0], []
    monkeypatch.setattr(store, "release_expired", lambda: released_at.append(now[0]) or [])
    with RunningWorker(store, clock=lambda: now[0]):
        eventually(store.list_workers)
        for now[0] in (14.0, 16.0):
            before = store.list_workers()[0].last_seen_at
            eventually(lambda: store.list_workers()[0].last_seen_at > before)  # noqa: B023  # awaited
        eventually(lambda: released_at)
    assert released_at[0] == 16.0


def test_what_a_trial_prints_is_kept_head_and_tail(store):
    add_study(store, "misbehave", [{"how": "chatter"}])
    run_all(store)
    log = store.load_blob("s", 0, "log").decode()
    assert log.startswith("first words\n")
    assert log.endswith("last words\n")
    assert "bytes left out" in log
    assert len(log) < 300_000


def test_leaves_when_its_studies_are_done(store):
    add_study(store, "square", [{"x": 1}])
    with RunningWorker(store, exit_when_done=["s"]) as running:
        eventually(lambda: finished(store))
        store.set_study_state("s", StudyState.COMPLETE)
        running.thread.join(10)
        assert not running.thread.is_alive()
    assert running.error is None


def test_a_signal_handler_that_stops_a_worker_waits_for_no_lock(store):
    worker = Worker(store, WorkerSettings(objectives=ALLOWED))
    handler = threading.Thread(target=worker.stop, daemon=True)
    with worker._shared.stopping._cond:  # as whoever is interrupted may hold it
        handler.start()
        handler.join(10)
        assert not handler.is_alive()


class FlakyStore(MemoryStore):
    """Fails every call while ``down`` is set, as a database that is out of reach."""

    REMOTE = frozenset(
        {"report", "beat", "finish", "save_blob", "reserve", "offers", "beat_worker"}
    )

    def __init__(self):
        super().__init__()
        self.down = threading.Event()
        self.refused = set()

    def __getattribute__(self, name):
        get = super().__getattribute__
        if name in FlakyStore.REMOTE and get("down").is_set():
            get("refused").add(name)
            raise StoreUnavailableError("the database is away")
        return get(name)


def test_training_goes_on_through_an_outage_and_nothing_is_lost(gate):
    store = FlakyStore()
    add_study(store, "steps", [{"steps": 5, "gate": str(gate)}, {"steps": 1, "gate": str(gate)}])
    with RunningWorker(store) as running:
        eventually(lambda: reported(store, 1))
        store.down.set()
        gate.touch()
        slot = running.worker._slots[0]
        eventually(lambda: slot.attempt and slot.attempt._latest.step == 5)
        eventually(lambda: {"beat", "report"} <= store.refused)
        store.down.clear()
        trials = eventually(lambda: finished(store))
    assert [r.step for r in trials[0].reports] == [1, 2, 3, 4, 5]
    assert (trials[0].state, trials[0].attempt) == (TrialState.COMPLETE, 1)
    assert trials[1].state is TrialState.COMPLETE


@pytest.mark.parametrize("error", [RuntimeError, BrokenDocumentError, ServerNotFoundError])
def test_the_heart_goes_on_whatever_a_beat_meets(gate, store, monkeypatch, error):
    beats = []

    def beat(claim, lease_s):
        beats.append(claim)
        raise error("an answer that nobody foresaw")

    monkeypatch.setattr(store, "beat", beat)
    add_study(store, "steps", [{"steps": 2, "gate": str(gate)}])
    with RunningWorker(store):
        eventually(lambda: len(beats) >= 3)
        gate.touch()
        (trial,) = eventually(lambda: finished(store))
    assert (trial.state, trial.attempt) == (TrialState.COMPLETE, 1)


class SilentStore(MemoryStore):
    """Answers nothing while ``answers`` is not set, as a database behind a broken network."""

    REMOTE = FlakyStore.REMOTE | {"remove_worker", "release_expired"}

    def __init__(self):
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()

    def __getattribute__(self, name):
        get = super().__getattribute__
        if name in SilentStore.REMOTE:
            get("answers").wait()
        return get(name)


def test_a_worker_leaves_in_time_though_the_database_does_not_answer(gate):
    store = SilentStore()
    add_study(store, "steps", [{"steps": 3, "gate": str(gate), "stubborn": True}])
    try:
        with RunningWorker(store, grace_s=0.1, leave_s=0.3) as running:
            eventually(lambda: reported(store, 1))
            store.answers.clear()
            running.worker.stop()
            running.thread.join(promised(5))
            assert not running.thread.is_alive()
            assert store.get_trial("s", 0).state is TrialState.RUNNING  # its lease will run out
    finally:
        store.answers.set()
    for thread in (*running.worker._slots, running.worker._heart):
        thread.join(10)


@pytest.mark.parametrize(
    "error", [InvalidValueError("at most 16 MB, got 20 MB"), OverflowError("8-byte ints only")]
)
def test_a_result_the_store_refuses_fails_its_trial_only(error, monkeypatch):
    store = MemoryStore()
    finish = store.finish

    def refuse(claim, outcome):
        if outcome.state is TrialState.COMPLETE:
            raise error
        return finish(claim, outcome)

    monkeypatch.setattr(store, "finish", refuse)
    add_study(store, "square", [{"x": 1}])
    (trial,) = run_all(store)
    assert trial.state is TrialState.FAILED
    assert trial.failures[0].message == f"its result cannot be kept: {error}"


@pytest.mark.parametrize(
    "error", [InvalidValueError("at most 1000 metrics"), OverflowError("8-byte ints only")]
)
def test_reports_the_store_refuses_fail_their_trial_only(error, monkeypatch, gate, store):
    def refuse(claim, reports):
        raise error

    monkeypatch.setattr(store, "report", refuse)
    # It waits at a gate that stays shut: its worker ends it at once, not as it ends.
    add_study(store, "steps", [{"steps": 2, "gate": str(gate), "gate_from": 1}])
    add_study(store, "square", [{"x": 1}], name="other")
    with RunningWorker(store):
        (trial,) = eventually(lambda: finished(store))
        (other,) = eventually(lambda: finished(store, "other"))
    assert trial.state is TrialState.FAILED
    assert str(error) in trial.failures[0].message
    assert other.state is TrialState.COMPLETE


def test_what_an_objective_does_to_its_output_costs_no_result(store):
    add_study(store, "misbehave", [{"how": "mute"}, {"how": "chatter"}], max_retries=0)
    assert [trial.state for trial in run_all(store)] == [TrialState.COMPLETE] * 2


def test_the_log_tells_how_a_trial_was_written(store, monkeypatch, caplog):
    finish = store.finish

    def refuse(claim, outcome):
        if outcome.state is TrialState.COMPLETE:
            raise InvalidValueError("at most 16 MB")
        return finish(claim, outcome)

    monkeypatch.setattr(store, "finish", refuse)
    add_study(store, "square", [{"x": 1}])
    with caplog.at_level("INFO", "larnn.worker"):
        run_all(store)
    assert "ends FAILED: exception: its result cannot be kept: at most 16 MB" in caplog.text
    assert "COMPLETE" not in caplog.text


def test_a_child_that_speaks_nonsense_fails_its_trial_only(store):
    add_study(store, "misbehave", [{"how": "nonsense"}, {"how": "chatter"}], max_retries=0)
    first, second = run_all(store)
    assert first.state is TrialState.FAILED
    assert second.state is TrialState.COMPLETE


def test_an_import_that_never_ends_is_told_and_given_up(store, monkeypatch):
    monkeypatch.setattr("trials.slot.WARM_SECONDS", 1.0)
    objective = "tests.trials_tests.stuck_import:never"
    add_study(store, objective, [{}])
    with RunningWorker(store, objectives=[objective]):
        (told,) = eventually(lambda: [w.message for w in store.list_workers() if w.message])
    assert told == "cpu importing tests.trials_tests.stuck_import takes longer than 1 s"
    trial = store.get_trial("s", 0)
    assert (trial.state, trial.failures) == (TrialState.WAITING, ())


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(InvalidValueError, match="shorter than the lease"):
        WorkerSettings(objectives=[], lease_s=3, heartbeat_s=3)
    with pytest.raises(InvalidValueError, match="at least one slot"):
        WorkerSettings(objectives=[], slots=[])
