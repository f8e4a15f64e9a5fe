"""Backup and restore by the very commands of docs/operations.md."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.documents import ROOT, blocks
from tests.acceptance.servers import Mongod
from tests.acceptance.worker_process import started_worker
from tests.trials_tests.conftest import server_folder
from tests.trials_tests.working import add_study, eventually, finished
from trials import embedded
from trials.connect import connect
from trials.mongo_store import MongoStore
from trials.store import CHECKPOINT
from trials.trial import Outcome, Report, TrialState

BLOCKS = blocks(ROOT / "docs" / "operations.md")
EXPORT_AND_IMPORT = next(text for language, text in BLOCKS if language == "sh")
BACKUP, RESTORE = (text for language, text in BLOCKS if language == "bash")
(COPY,) = (text for language, text in BLOCKS if language == "python")


@pytest.fixture
def shell(state_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("LARNN_STATE_DIR", str(state_dir))
    monkeypatch.delenv("LARNN_MONGO_URI", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def run(script):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.mongo
def test_a_restored_database_is_as_it_was_and_the_search_goes_on(shell):
    with connect() as store:
        add_study(store, "square", [{"x": 1}, {"x": 2}, {"x": 3}])
        done, running = (store.reserve("s", "w", "h", token, 0.0) for token in "ab")
        store.report(running.claim, [Report(1, 0.5)])
        store.save_blob(running.claim, CHECKPOINT, b"half way")
        store.finish(done.claim, Outcome(TrialState.COMPLETE, 1.0))
        before = store.list_trials("s")
    assert shell(BACKUP) == "stopped\n"
    with connect() as store:
        store.delete_study("s")
    assert "s" in shell(RESTORE).split()
    with connect() as store:
        assert store.list_trials("s") == before
        (back,) = store.release_expired()
        again = store.reserve("s", "w2", "h2", "c")
        assert (back.number, again.number, again.attempt) == (1, 1, 2)
        assert store.load_blob("s", 1, CHECKPOINT) == b"half way"
    assert embedded.status().pid is None


@pytest.mark.mongo
def test_an_exported_study_comes_back(shell):
    with connect() as store:
        add_study(store, "square", [{"x": 1}, {"x": 2}], name="first")
        trial = store.reserve("first", "w", "h", "t")
        store.report(trial.claim, [Report(1, 0.5)])
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, 1.0))
        before = store.list_trials("first")
    shell(EXPORT_AND_IMPORT)
    with connect() as store:
        after = store.list_trials("first-restored")
    assert after == [replace(trial, study="first-restored") for trial in before]


@pytest.mark.mongo
def test_a_shared_server_is_copied_while_workers_train(tmp_path):
    gate = tmp_path / "gate"
    with server_folder() as folder, Mongod(folder / "db") as mongod:
        with MongoStore(mongod.uri(), retry_for_s=10) as store:
            add_study(store, "steps", [{"steps": 3, "gate": str(gate)}])
            with started_worker(mongod.uri(), "larnn_search", tmp_path, lease_s=30.0):
                eventually(lambda: store.load_blob("s", 0, CHECKPOINT))
                places = {"LARNN_MONGO_URI": mongod.uri(), "MONGO_DATA": str(mongod.folder)}
                subprocess.run(
                    [sys.executable, "-c", COPY],
                    cwd=tmp_path, env={**os.environ, **places}, check=True,
                )  # fmt: skip
                gate.touch()
                (trial,) = eventually(lambda: finished(store))
        assert (trial.state, trial.attempt) == (TrialState.COMPLETE, 1)
    with (
        Mongod(tmp_path / "larnn-mongo") as mongod,
        MongoStore(mongod.uri(), retry_for_s=10) as store,
    ):
        ran = store.get_trial("s", 0)
        assert ran.state is TrialState.RUNNING
        store.beat(ran.claim, 0.0)  # time passes; its worker knows another server
        assert [back.number for back in store.release_expired()] == [0]
        assert store.reserve("s", "w", "h", "t").attempt == 2
        assert store.load_blob("s", 0, CHECKPOINT) == b'{"done": 1}'
