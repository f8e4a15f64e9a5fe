"""Workers as real processes on a real mongod, killed, paused and told to leave."""

import contextlib
import itertools
import os
import signal
import statistics

import pytest

from tests.acceptance.worker_process import started_worker
from tests.trials_tests.objectives import SICK
from tests.trials_tests.working import (
    add_study,
    children,
    eventually,
    finished,
    is_alive,
    promised,
)
from trials.store import CHECKPOINT, HEARTBEAT_SECONDS, LEASE_SECONDS, NewTrial
from trials.study import StudyState
from trials.trial import FailureKind, TrialState

pytestmark = pytest.mark.mongo
SHORT_LEASE = {"lease_s": 1.5, "heartbeat_s": 0.3}


@pytest.fixture
def start(mongo_uri, store, tmp_path):
    """Starts worker processes; those still running at the end are killed."""
    with contextlib.ExitStack() as stack:

        def start(**settings):
            settings = SHORT_LEASE | settings
            database = store.database.name
            return stack.enter_context(started_worker(mongo_uri, database, tmp_path, **settings))

        yield start


def reported(store, count, number=0):
    return len(store.get_trial("s", number).reports) >= count


def test_a_killed_workers_trial_is_run_again_and_its_child_is_gone(store, start, tmp_path):
    gate = tmp_path / "gate"
    add_study(store, "steps", [{"steps": 2, "gate": str(gate)}])
    first = start()
    eventually(lambda: store.load_blob("s", 0, "checkpoint"))
    owner = store.get_trial("s", 0).worker
    (child,) = children(first.pid)
    first.kill()
    eventually(lambda: not is_alive(child), promised(5))
    start()
    gate.touch()
    (trial,) = eventually(lambda: finished(store))
    assert trial.state is TrialState.COMPLETE
    assert trial.worker != owner
    assert (trial.attempt, trial.retries) == (2, 0)
    assert [f.kind for f in trial.failures] == [FailureKind.LOST_WORKER]
    assert trial.failures[0].worker == owner
    assert trial.result["resumed_from"] == 1  # its last checkpoint


@pytest.mark.parametrize("stuck", [False, True])
def test_all_that_a_killed_workers_trial_started_is_gone(store, start, tmp_path, stuck):
    pids = tmp_path / "pids"
    add_study(store, "spawns", [{"pids": str(pids), "stuck": stuck}])
    worker = start()
    eventually(pids.exists)
    worker.kill()
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    eventually(lambda: not any(is_alive(pid) for pid in started), promised(5))


def test_a_worker_paused_past_its_lease_is_refused(store, start, tmp_path):
    gate = tmp_path / "gate"
    add_study(store, "steps", [{"steps": 2, "gate": str(gate)}])
    sleeper = start()
    eventually(lambda: reported(store, 1))
    sleeper.send_signal(signal.SIGSTOP)
    start()
    eventually(lambda: store.get_trial("s", 0).attempt == 2)
    gate.touch()  # both attempts end now, the first one's result unheard
    (trial,) = eventually(lambda: finished(store))
    add_study(store, "square", [{"x": 3}] * 20, name="next")
    sleeper.send_signal(signal.SIGCONT)
    eventually(lambda: "its result counts no more" in sleeper.log())
    assert store.get_trial("s", 0) == trial
    assert trial.attempt == 2
    assert [f.kind for f in trial.failures] == [FailureKind.LOST_WORKER]
    eventually(lambda: finished(store, "next"))
    assert sleeper.poll() is None  # it goes on


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_requeues_with_a_checkpoint_and_another_worker_resumes(
    store, start, tmp_path, number
):
    gate = tmp_path / "gate"
    add_study(store, "steps", [{"steps": 3, "gate": str(gate), "gate_from": 2}])
    first = start()
    eventually(lambda: reported(store, 2))
    first.send_signal(number)
    assert first.wait(timeout=promised(5)) == 0
    assert f"left after {number}" in first.log()
    trial = store.get_trial("s", 0)
    assert (trial.state, trial.retries, trial.failures) == (TrialState.WAITING, 0, ())
    assert store.list_workers() == []
    gate.touch()
    start()
    (trial,) = eventually(lambda: finished(store))
    assert trial.state is TrialState.COMPLETE
    assert trial.result["resumed_from"] == 2
    assert [r.step for r in trial.reports] == [1, 2, 3]


def test_a_second_signal_does_not_wait_for_a_trial_that_does_not_listen(store, start, tmp_path):
    add_study(store, "steps", [{"steps": 2, "gate": str(tmp_path / "gate"), "stubborn": True}])
    worker = start(grace_s=1000.0, leave_s=1000.0)
    eventually(lambda: reported(store, 1))
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(timeout=60) == 0
    assert store.get_trial("s", 0).state is TrialState.WAITING


def test_pause_and_cancel_are_obeyed_within_5_seconds_by_a_worker_as_it_comes(
    store, start, tmp_path
):
    # These trials do not listen: each is given its grace and then killed, which takes longest.
    deaf = {"steps": 2, "gate": str(tmp_path / "gate"), "stubborn": True}
    names = ("paused", "cancelled", "one")
    for name in names:
        add_study(store, "steps", [deaf], name=name)
    start(slots=["cpu"] * 3, lease_s=LEASE_SECONDS, heartbeat_s=HEARTBEAT_SECONDS)
    eventually(lambda: all(store.get_trial(name, 0).reports for name in names))
    store.set_study_state("paused", StudyState.PAUSED)
    store.set_study_state("cancelled", StudyState.CANCELLED)
    store.cancel_trial("one", 0)
    wanted = [TrialState.WAITING, TrialState.CANCELLED, TrialState.CANCELLED]
    eventually(lambda: [store.get_trial(name, 0).state for name in names] == wanted, promised(5))
    assert store.load_blob("paused", 0, CHECKPOINT)


def test_a_killed_child_is_replaced_and_its_trial_tried_on_another_worker(store, start, tmp_path):
    gate = tmp_path / "gate"
    add_study(store, "steps", [{"steps": 2, "gate": str(gate)}])
    first = start(elsewhere_s=1000)
    eventually(lambda: reported(store, 1))
    owner = store.get_trial("s", 0).worker
    (child,) = children(first.pid)
    os.kill(child, signal.SIGKILL)
    eventually(lambda: store.get_trial("s", 0).failures)
    start()
    gate.touch()
    (trial,) = eventually(lambda: finished(store))
    assert (trial.state, trial.attempt, trial.retries) == (TrialState.COMPLETE, 2, 1)
    assert trial.worker != owner
    assert [(f.kind, f.worker) for f in trial.failures] == [(FailureKind.CRASH, owner)]
    assert "SIGKILL" in trial.failures[0].message
    eventually(lambda: len(children(first.pid)) == 1)
    assert children(first.pid) != [child]


def test_a_worker_on_which_everything_fails_rests_and_others_do_its_trials(store, start):
    add_study(store, "needs_health", [{}] * 3)
    start(variables={SICK: "1"}, elsewhere_s=1000)
    trials = eventually(lambda: all_failed_once(store.list_trials("s")))
    (sick,) = {trial.failures[0].worker for trial in trials}
    healthy = start()
    eventually(lambda: finished(store))
    healthy.terminate()
    healthy.wait()
    # Its next failure follows three of other trials, all of which have gone well elsewhere.
    store.add_trials("s", None, 3, [NewTrial({}, seed=i) for i in range(3)])
    (told,) = eventually(lambda: [w for w in store.list_workers() if w.message])
    assert (told.name, told.slots[0]["state"]) == (sick, "quarantined")
    assert "failed here in a row while others did better elsewhere" in told.message
    start()
    trials = eventually(lambda: finished(store))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert [trial.number for trial in trials if trial.failures] == [0, 1, 2, 3]


def all_failed_once(trials):
    return trials if all(len(trial.failures) == 1 for trial in trials) else None


def test_no_gap_between_trials(store, start):
    for _ in range(2):
        start(lease_s=30.0, heartbeat_s=3.0)
    eventually(lambda: len(store.list_workers()) == 2)
    add_study(store, "sleepy", [{"seconds": 0.1}] * 30)
    trials = eventually(lambda: finished(store))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    # 2 ms on a quiet machine (docs/performance.md); who looks only now and then waits a second.
    assert statistics.median(gaps(trials)) < 0.4
    # The sleeping alone takes 1.5 s; Hyperopt's own worker took 25 to 40.
    first, last = min(t.started_at for t in trials), max(t.finished_at for t in trials)
    assert (last - first).total_seconds() < promised(3)


def gaps(trials):
    """Seconds between a trial's end and the start of the same worker's next."""
    for worker in {trial.worker for trial in trials}:
        own = sorted((t for t in trials if t.worker == worker), key=lambda t: t.started_at)
        for before, after in itertools.pairwise(own):
            yield (after.started_at - before.finished_at).total_seconds()
