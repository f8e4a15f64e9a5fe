"""Backup and restore of the private server, by the commands of docs/operations.md."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.documents import ROOT, blocks
from tests.trials_tests.working import add_study
from trials import embedded
from trials.connect import connect
from trials.store import CHECKPOINT
from trials.trial import Outcome, Report, TrialState

BACKUP, RESTORE = (
    text for language, text in blocks(ROOT / "docs" / "operations.md") if language == "bash"
)


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
