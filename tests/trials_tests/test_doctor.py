"""Each thing that keeps a search from getting on: found, and the command named that mends it."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.trials_tests.working import add_study
from trials.doctor import Level, examine, examine_machine
from trials.errors import StoreUnavailableError
from trials.mongo_store import MongoStore
from trials.store import WorkerInfo
from trials.study import StudyState
from trials.upgrade import upgrade

pytestmark = pytest.mark.mongo


def found(store, check, study=None):
    """The first finding of a check that is not all right, else the last one."""
    findings = [f for f in examine(store, study) if f.check == check]
    return next((f for f in findings if f.level is not Level.OK), findings[-1])


def worker(message="", version="0.1.0", state="idle", studies=None):
    slot = {"device": "cpu", "study": None, "number": None, "state": state}
    return WorkerInfo("w", "h", 1, (slot,), message=message, version=version, studies=studies)


def test_an_empty_database_is_well(mongo_store):
    assert {finding.level for finding in examine(mongo_store)} == {Level.OK}


def test_a_search_that_gets_on_is_well(mongo_store):
    add_study(mongo_store, "square", [{"x": 1}])
    mongo_store.beat_worker(worker())
    mongo_store.acquire_feeder("s", "f")
    mongo_store.reserve("s", "w", "h", "t")
    assert {finding.level for finding in examine(mongo_store)} == {Level.OK}
    assert found(mongo_store, "study s").message == "1 trials run, 0 wait, 0 have finished"


def test_a_missing_index_is_named_and_upgrade_makes_it(mongo_store, mongo_uri):
    add_study(mongo_store, "square", [])
    mongo_store.database["trials"].drop_index("queue")
    finding = found(mongo_store, "indexes")
    assert finding.level is Level.PROBLEM
    assert finding.message == "missing, so that commands fail or are slow: trials.queue"
    assert finding.mend == "larnn-search upgrade"
    with pytest.raises(StoreUnavailableError, match=r"lacks an index of ours.*`larnn-search upgr"):
        mongo_store.counts("s")
    with MongoStore(mongo_uri, mongo_store.database.name, any_schema=True) as store:
        upgrade(store)
    assert mongo_store.counts("s")


@pytest.mark.parametrize(
    ("collection", "name", "keys"),
    [
        ("trials", "queue", ["study", "number", "state"]),
        ("trials", "tokens", ["token"]),  # neither unique nor of running trials alone
        ("blobs.chunks", "files_id_1_n_1", ["files_id", "n"]),
    ],
)
def test_an_index_other_than_ours_is_named_and_upgrade_mends_it(
    mongo_store, mongo_uri, collection, name, keys
):
    add_study(mongo_store, "square", [])
    mongo_store.database[collection].drop_index(name)
    mongo_store.database[collection].create_index(keys, name=name)
    finding = found(mongo_store, "indexes")
    assert finding.level is Level.PROBLEM
    assert finding.message.startswith("other than they should be")
    assert finding.message.endswith(f"{collection}.{name}")
    with (
        MongoStore(mongo_uri, mongo_store.database.name) as store,
        pytest.raises(StoreUnavailableError, match="another in its place: run `larnn-search upgr"),
    ):
        add_study(store, "square", [], name="next")
    with MongoStore(mongo_uri, mongo_store.database.name, any_schema=True) as store:
        upgrade(store)
    assert found(mongo_store, "indexes").level is Level.OK


def test_another_schema_is_told_instead_of_what_cannot_be_read(mongo_store, mongo_uri):
    add_study(mongo_store, "square", [{"x": 1}])
    mongo_store.database["meta"].update_one({"_id": "schema"}, {"$set": {"version": 0}})
    with MongoStore(mongo_uri, mongo_store.database.name, any_schema=True) as store:
        findings = list(examine(store))
    assert findings[-1].check == "schema"
    assert findings[-1].level is Level.PROBLEM
    assert findings[-1].mend == "larnn-search upgrade"


def test_a_study_that_cannot_be_read_is_named(mongo_store):
    add_study(mongo_store, "square", [])
    mongo_store.database["studies"].insert_one({"_id": "odd", "spec": {"$where": "1"}})
    finding = found(mongo_store, "schema")
    assert "study 'odd'" in finding.message
    assert "larnn-search delete odd" in finding.mend


def test_a_study_of_another_version_is_named(mongo_store):
    add_study(mongo_store, "square", [])
    mongo_store.database["studies"].update_one({"_id": "s"}, {"$set": {"schema": 99}})
    finding = found(mongo_store, "schema")
    assert "study 's' has schema version 99" in finding.message
    assert "larnn-search upgrade" in finding.mend


def test_a_lease_that_nobody_takes_back(mongo_store):
    add_study(mongo_store, "square", [{"x": 1}])
    mongo_store.reserve("s", "w", "h", "t", lease_s=-20)
    finding = found(mongo_store, "leases")
    assert finding.level is Level.PROBLEM
    assert "s/0" in finding.message
    assert "larnn-search worker" in finding.mend


def test_a_clock_that_is_off(mongo_store, monkeypatch):
    monkeypatch.setattr("trials.doctor.time.time", lambda: 0.0)
    finding = found(mongo_store, "clock")
    assert finding.level is Level.WARNING
    assert "ahead of this machine's" in finding.message


def test_what_a_worker_complains_of_is_passed_on(mongo_store):
    mongo_store.beat_worker(worker(message="cpu quarantined for 60 s", version="0.0.9"))
    complaints = [f for f in examine(mongo_store) if f.level is Level.WARNING]
    assert "quarantined" in complaints[0].message
    assert "version 0.0.9" in complaints[1].message


@pytest.mark.parametrize(
    ("params", "settle", "message", "mend"),
    [
        ([{}], lambda s: s.set_study_state("s", StudyState.PAUSED), "PAUSED", "resume s"),
        ([{}], lambda s: None, "no worker is alive", "worker --study s --allow-objective m:f"),
        (
            [{}],
            lambda s: s.beat_worker(worker(studies=("another",))),
            "1 trials wait and every worker serves other studies only",
            "worker --study s --allow-objective m:f",
        ),
        ([], lambda s: s.beat_worker(worker()), "no feeder suggests", "feed --study s"),
        ([], lambda s: s.set_study_state("s", StudyState.STOPPING), "no feeder", "feed --study s"),
        (
            [{}],
            lambda s: s.beat_worker(
                worker("leaves study 's' alone: odd; start the worker with --allow-objective m:f")
            ),
            "left alone by every worker: odd",
            "larnn-search worker --allow-objective m:f",
        ),
        (
            [{}],
            lambda s: s.beat_worker(worker(state="quarantined")),
            "every slot rests",
            "trials s --state FAILED",
        ),
    ],
)
def test_why_no_trial_is_starting(mongo_store, params, settle, message, mend):
    add_study(mongo_store, "m:f", params)
    settle(mongo_store)
    finding = found(mongo_store, "study s")
    assert finding.level is Level.PROBLEM
    assert message in finding.message
    assert mend in finding.mend


def test_slots_busy_elsewhere_are_no_problem(mongo_store):
    add_study(mongo_store, "m:f", [{}])
    mongo_store.beat_worker(worker(state="running"))
    finding = found(mongo_store, "study s")
    assert finding.level is Level.OK
    assert "every slot runs another study's" in finding.message


# -- the machine ---------------------------------------------------------------------------------


def test_a_module_of_the_same_name_elsewhere_is_named(tmp_path):
    elsewhere = SimpleNamespace(origin=str(tmp_path / "model" / "__init__.py"))
    findings = list(examine_machine(find=lambda name: elsewhere, folder=tmp_path))
    assert {finding.level for finding in findings} == {Level.PROBLEM}
    assert "`import model` finds " + str(tmp_path) in findings[0].message


def test_a_file_of_our_name_in_the_current_folder_is_named(tmp_path):
    (tmp_path / "model.py").touch()
    (finding,) = examine_machine(folder=tmp_path)
    assert finding.level is Level.WARNING
    assert str(tmp_path / "model.py") in finding.message


# -- the command ---------------------------------------------------------------------------------


def doctor(uri, *arguments):
    command = [sys.executable, "-m", "search", "doctor", *arguments]
    environment = {"LARNN_MONGO_URI": uri, "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_the_command_says_what_to_do_and_fails_when_something_is_to_be_done(mongo_store, mongo_uri):
    uri = mongo_uri.replace("larnn_search", mongo_store.database.name)
    add_study(mongo_store, "square", [])
    mongo_store.set_study_state("s", StudyState.PAUSED)
    done = doctor(uri)
    assert done.returncode == 1
    assert "mend: larnn-search resume s" in done.stdout
    rows = json.loads(doctor(uri, "s", "--json").stdout)
    assert {row["check"] for row in rows} >= {"server", "login", "clock", "indexes", "study s"}
    mongo_store.set_study_state("s", StudyState.CANCELLED)
    assert doctor(uri).returncode == 0


def test_the_command_says_why_there_is_no_connection():
    secret = "s3cr3t"  # noqa: S105  # looked for in what is printed
    done = doctor(f"mongodb://me:{secret}@127.0.0.1:9/larnn_search?serverSelectionTimeoutMS=300")
    assert done.returncode == 1
    assert "problem  connection: cannot reach MongoDB at 127.0.0.1:9" in done.stdout
    assert secret not in done.stdout + done.stderr
