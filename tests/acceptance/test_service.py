"""What a worker must not stumble over: odd documents, huge results, several GPUs and studies."""

from collections import Counter
from datetime import UTC, datetime

import bson
import pytest

from tests.acceptance.worker_process import started_worker
from tests.trials_tests.test_documents import HOSTILE
from tests.trials_tests.working import add_study, eventually, finished
from trials.devices import detect_slots
from trials.documents import encode_trial
from trials.store import NewTrial
from trials.trial import FailureKind, TrialState

pytestmark = pytest.mark.mongo
GOOD = encode_trial("s", 0, NewTrial({"x": 1}, seed=1), datetime.now(UTC))
HUGE = {"params": {"x": ["a" * 1000] * 14_000}}  # 14 MB


def worker(mongo_uri, store, folder, **settings):
    return started_worker(mongo_uri, store.database.name, folder, **settings)


def test_hostile_documents_are_refused_one_by_one_and_stop_no_worker(mongo_uri, store, tmp_path):
    trap = tmp_path / "executed"
    pickle = b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR."
    hostile = [*HOSTILE.values(), HUGE, {"params": {"x": pickle}}, {"result": bson.Code("1")}]
    add_study(store, "square", [{"x": 3}] * (len(hostile) + 1))
    for number, change in enumerate(hostile, 1):  # after one that is good
        document = {**GOOD, "_id": f"s/{number}", "number": number, **change}
        store.database["trials"].replace_one({"_id": f"s/{number}"}, document)
    add_study(store, "os:system", [{"x": f"touch {trap}"}], name="foreign")
    store.database["studies"].insert_one({"_id": "odd", "state": "ACTIVE", "spec": {"$where": "1"}})
    with worker(mongo_uri, store, tmp_path) as process:
        trials = eventually(lambda: finished(store))
        assert process.poll() is None
        message = eventually(lambda: [w.message for w in store.list_workers() if w.message])[0]
    (good,) = (trial for trial in trials if trial.state is TrialState.COMPLETE)
    refused = [trial for trial in trials if trial is not good]
    assert (good.number, good.loss) == (0, 9)
    assert {trial.state for trial in refused} == {TrialState.FAILED}
    assert all("refused: trial s/" in trial.failures[0].message for trial in refused)
    assert "leaves study 'foreign' alone: its objective 'os:system' is not on" in message
    assert not trap.exists()


def test_a_result_over_16_mb_fails_its_trial_with_what_to_do(mongo_uri, store, tmp_path):
    add_study(store, "misbehave", [{"how": "huge"}, {"how": "chatter"}])
    with worker(mongo_uri, store, tmp_path):
        huge, next_one = eventually(lambda: finished(store))
    assert huge.state is TrialState.FAILED
    assert huge.failures[0].kind is FailureKind.EXCEPTION
    assert "may hold 4 MiB, got 20.0 MiB: keep arrays with save_weights" in huge.failures[0].message
    assert next_one.state is TrialState.COMPLETE


def test_each_gpu_runs_trials_of_its_own_and_the_trial_says_which(mongo_uri, store, tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    add_study(store, "meets", [{"folder": str(meeting), "gpus": 3}] * 12)
    slots = detect_slots("auto", gpus=["0", "1", "GPU-7f"])
    with worker(mongo_uri, store, tmp_path, slots=slots):
        trials = eventually(lambda: finished(store))
    seen = {(trial.result["device"], trial.result["seen"]) for trial in trials}
    assert seen == {("cuda:0", "0"), ("cuda:1", "1"), ("cuda:GPU-7f", "GPU-7f")}


def test_studies_share_a_worker_by_priority_and_none_starves(mongo_uri, store, tmp_path):
    for name, priority in {"low": 1, "high": 4}.items():
        add_study(store, "square", [{"x": 1}] * 150, name=name, priority=priority)
    with worker(mongo_uri, store, tmp_path):
        eventually(lambda: store.counts("high")[TrialState.WAITING] == 0)
    ended = [
        (trial.finished_at, name)
        for name in ("low", "high")
        for trial in store.list_trials(name)
        if trial.finished_at is not None
    ]
    shares = Counter(name for _, name in sorted(ended)[:100])
    assert 8 <= shares["low"] <= 35  # 20 expected, with a standard deviation of 4
