"""The database goes away while workers train: nothing is lost, and everything goes on."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.acceptance.servers import Mongod, Proxy
from tests.acceptance.worker_process import ROOT, own_objective, search_process, started_worker
from tests.trials_tests.conftest import fill, server_folder
from tests.trials_tests.objectives import HERE
from tests.trials_tests.working import (
    add_study,
    children,
    eventually,
    finished,
    is_alive,
    promised,
)
from trials.mongo_store import MongoStore
from trials.store import LEASE_SECONDS, WEIGHTS
from trials.trial import TrialState

pytestmark = pytest.mark.mongo
IMPATIENT = "socketTimeoutMS=500&connectTimeoutMS=500&serverSelectionTimeoutMS=500"
LONG_LEASE = {"lease_s": 30.0, "heartbeat_s": 0.3, "retry_for_s": 0.5}


@pytest.fixture
def folder():
    with server_folder() as folder:
        yield folder


@pytest.fixture
def mongod(folder):
    with Mongod(folder / "db") as mongod:
        yield mongod


@pytest.fixture
def store(mongod):
    with MongoStore(mongod.uri(), retry_for_s=10) as store:
        yield store


@pytest.fixture
def proxy(mongod):
    with Proxy(mongod.port) as proxy:
        yield proxy


def attempt_undisturbed(store):
    """The study's two trials, each run once, with every report."""
    trials = eventually(lambda: finished(store))
    for trial in trials:
        assert (trial.state, trial.attempt, trial.failures) == (TrialState.COMPLETE, 1, ())
        assert [report.step for report in trial.reports] == [1, 2, 3]


def test_mongod_is_killed_and_started_again(mongod, store, tmp_path):
    gate = tmp_path / "gate"
    add_study(store, "steps", [{"steps": 3, "gate": str(gate)}] * 2)
    with started_worker(mongod.uri(IMPATIENT), "larnn_search", tmp_path, **LONG_LEASE) as worker:
        eventually(lambda: store.get_trial("s", 0).reports)
        mongod.kill()
        gate.touch()  # trial 0 ends while there is no database
        eventually(lambda: "cannot reach MongoDB" in worker.log())
        mongod.start()
        attempt_undisturbed(store)


@pytest.mark.parametrize("how", ["cut", "silence"])
def test_nothing_is_lost_though_all_are_cut_off_for_longer_than_their_leases(
    store, proxy, tmp_path, how
):
    gate, done = tmp_path / "gate", [tmp_path / f"done-{i}" for i in range(2)]
    params = [{"steps": 3, "gate": str(gate), "done": str(path)} for path in done]
    add_study(store, "steps", params)
    settings = {"lease_s": 5.0, "heartbeat_s": 0.3, "retry_for_s": 5}
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            worker = started_worker(proxy.uri(IMPATIENT), "larnn_search", tmp_path, **settings)
            stack.enter_context(worker)
        eventually(lambda: all(trial.reports for trial in store.list_trials("s")))
        getattr(proxy, how)()
        gate.touch()
        eventually(lambda: all(path.exists() for path in done))  # they trained on
        eventually(lambda: has_expired(store, 0) and has_expired(store, 1))
        proxy.mend()
        attempt_undisturbed(store)  # whoever came back first has not taken the other's trial


def test_everybody_is_cut_off_with_all_settings_as_they_come(store, proxy, tmp_path):
    gate, done = tmp_path / "gate", [tmp_path / f"done-{i}" for i in range(2)]
    params = [{"steps": 3, "gate": str(gate), "done": str(path)} for path in done]
    add_study(store, "steps", params, max_trials=2)
    command = [sys.executable, "-m", "search"]
    allow = ["--allow-objective", f"{HERE}:steps", "--slots", "1", "--device", "cpu"]
    run = functools.partial(
        subprocess.Popen, cwd=ROOT, stderr=subprocess.STDOUT, env={
            **os.environ, "PYTHONPATH": str(ROOT), "LARNN_MONGO_URI": proxy.uri(),
        },
    )  # fmt: skip
    with contextlib.ExitStack() as stack:

        def start(name, *arguments):
            log = stack.enter_context((tmp_path / f"{name}.log").open("wb"))
            process = run([*command, *arguments], stdout=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        for i in range(2):
            start(f"worker-{i}", "worker", *allow)
        eventually(lambda: all(trial.reports for trial in store.list_trials("s")))
        start("feeder", "feed", "--study", "s")
        watcher = start("watcher", "status", "s", "--watch")
        said = (tmp_path / "watcher.log").read_text
        eventually(lambda: "2 running" in said())
        eventually(lambda: not store.unfed_studies())  # the feeder is there to be cut off
        proxy.cut()
        gate.touch()
        eventually(lambda: all(path.exists() for path in done))  # they trained on
        eventually(lambda: "MongoDB does not answer, trying again" in said())
        eventually(lambda: all(has_expired(store, number) for number in range(2)))
        proxy.mend()
        start("newcomer", "worker", *allow)  # which knows of no outage
        attempt_undisturbed(store)
        assert watcher.wait(90) == 0
        assert "s COMPLETE: 2/2 finished" in said()


@pytest.mark.parametrize(
    ("how", "number", "status"), [("kill", signal.SIGINT, 130), ("freeze", signal.SIGTERM, 143)]
)
def test_run_stops_soon_though_there_is_no_database(mongod, store, tmp_path, how, number, status):
    arguments = ["--study", "s", *own_objective("steps", tmp_path)]
    arguments += ["--algorithm", "random", "--max-trials", "3", "--workers", "1", "--device", "cpu"]
    arguments += ["--fix", "steps=2", "--fix", "gate_from=1", "--fix", f"gate={tmp_path / 'gate'}"]
    with search_process(mongod.uri(), tmp_path, "run", *arguments) as process:
        eventually(store.list_studies)
        eventually(lambda: any(trial.reports for trial in store.list_trials("s")))
        workers = children(process.pid)
        getattr(mongod, how)()
        eventually(lambda: "MongoDB does not answer" in (tmp_path / "said").read_text())
        told = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == status
        assert time.monotonic() - told < promised(12)
        assert workers
        assert not any(is_alive(pid) for pid in workers)


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_feed_stops_soon_though_there_is_no_database(mongod, store, tmp_path, how):
    for name in ("s", "t"):
        add_study(store, "steps", [{"steps": 1}], name=name)
    with search_process(mongod.uri(), tmp_path, "feed") as process:
        eventually(lambda: not store.unfed_studies())
        getattr(mongod, how)()
        time.sleep(
            1
        )  # it waits for the database now, of which it tells after a minute; right without
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert time.monotonic() - told < promised(5)


def has_expired(store, number):
    return store.get_trial("s", number).lease_expires_at < store._now()


def test_a_beat_does_not_wait_for_connections_that_a_firewall_forgot(store, proxy, monkeypatch):
    monkeypatch.setattr("trials.mongo_base.PROMPT_S", 0.5)
    add_study(store, "steps", [{}])
    with MongoStore(proxy.uri()) as through_proxy:
        trial = through_proxy.reserve("s", "w", "h", "t")
        proxy.forget()
        started = time.monotonic()
        through_proxy.beat(trial.claim)
        assert time.monotonic() - started < LEASE_SECONDS / 5  # the driver's monitor takes 14 s
    assert store.get_trial("s", 0).lease_expires_at > trial.lease_expires_at


def test_a_primary_steps_down(folder, tmp_path):
    with contextlib.ExitStack() as stack:
        members = [
            stack.enter_context(Mongod(folder / f"db{i}", "--replSet", "set", "--oplogSize", "16"))
            for i in range(3)
        ]
        initiate(members)
        hosts = ",".join(member.address for member in members)
        uri = f"mongodb://{hosts}/larnn_search?replicaSet=set&{IMPATIENT}"
        store = stack.enter_context(MongoStore(uri, retry_for_s=20))
        gate = tmp_path / "gate"
        add_study(store, "steps", [{"steps": 3, "gate": str(gate)}] * 2)
        stack.enter_context(started_worker(uri, "larnn_search", tmp_path, **LONG_LEASE))
        eventually(lambda: store.get_trial("s", 0).reports)
        before = store.database.client.primary
        assert before is not None
        store.database.client.admin.command("replSetStepDown", 60)
        gate.touch()
        attempt_undisturbed(store)
        assert store.database.client.primary != before


def initiate(members):
    """Make a replica set that elects a new primary within about a second."""
    config = {
        "_id": "set",
        "settings": {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 500},
        "members": [{"_id": i, "host": member.address} for i, member in enumerate(members)],
    }
    with members[0].client() as client:
        client.admin.command("replSetInitiate", config)
        eventually(lambda: client.admin.command("hello")["isWritablePrimary"])

        def all_follow():
            status = client.admin.command("replSetGetStatus")
            return all(
                member["stateStr"] in ("PRIMARY", "SECONDARY") for member in status["members"]
            )

        eventually(all_follow)


# -- what does not fit ---------------------------------------------------------------------------


def test_a_full_disk_under_mongod_is_told_and_waited_for(small_disk, tmp_path):
    gate = tmp_path / "gate"
    with Mongod(small_disk / "db") as mongod, MongoStore(mongod.uri(), retry_for_s=10) as store:
        add_study(store, "steps", [{"steps": 3, "gate": str(gate), "weights": 32 << 20}])
        with started_worker(mongod.uri(), "larnn_search", tmp_path, **LONG_LEASE) as worker:
            eventually(lambda: store.get_trial("s", 0).reports)
            filler = fill(small_disk)
            gate.touch()
            eventually(lambda: "is full: free some space" in worker.log() or mongod.has_died())
            filler.unlink()
            if mongod.has_died():  # it lets itself fall rather than lose its journal
                mongod.start()
            attempt_undisturbed(store)
        assert len(store.load_blob("s", 0, WEIGHTS)) == 32 << 20
