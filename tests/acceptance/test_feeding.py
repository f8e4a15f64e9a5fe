"""A search goes on when its launcher dies; launched again, it tells its answer."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

from tests.acceptance.documents import ROOT
from tests.trials_tests.working import eventually
from trials.errors import StudyNotFoundError
from trials.study import StudyState
from trials.trial import TrialState

pytestmark = pytest.mark.mongo
OBJECTIVE = "tests.trials_tests.objectives:steps"
LEASE = ["--lease", "2"]
TRIALS = 30


@pytest.fixture
def start(mongo_uri, store, tmp_path):
    """Starts `larnn-search ...` in a folder of its own."""
    uri = mongo_uri.replace("larnn_search", store.database.name)
    environment = os.environ | {"LARNN_MONGO_URI": uri, "PYTHONPATH": str(ROOT)}
    (tmp_path / "line.toml").write_text('[x]\ntype = "uniform"\nlow = 0.0\nhigh = 1.0\n')
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            process = subprocess.Popen(
                [sys.executable, "-m", "search", *arguments],
                cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True,
            )  # fmt: skip
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


def test_a_launcher_is_killed_and_a_feeder_that_stands_by_takes_over(store, start, tmp_path):
    gate = tmp_path / "gate"
    launch = ["launch", "--study", "s", "--space", "line.toml", "--objective", OBJECTIVE]
    launch += ["--algorithm", "random", "--max-trials", str(TRIALS), "--ahead", "1", "--json"]
    launch += ["--fix", "steps=1", "--fix", "gate_from=0", "--fix", f"gate={gate}", *LEASE]
    first = start(*launch)
    start("worker", "--slots", "1", "--device", "cpu", "--allow-objective", OBJECTIVE)
    eventually(lambda: runs(store))
    first.kill()
    first.wait()
    assert len(store.list_trials("s")) < TRIALS
    start("feed", *LEASE)
    gate.touch()
    eventually(lambda: store.get_study("s").state is StudyState.COMPLETE)
    said, _ = start(*launch).communicate(timeout=240)
    trials = store.list_trials("s")
    assert len(trials) == TRIALS
    assert {str(trial.state) for trial in trials} == {"COMPLETE"}
    # One after the other, each once: the draws are those of a single feeder.
    assert len({trial.params["x"] for trial in trials}) == TRIALS
    assert json.loads(said.splitlines()[-1])["counts"]["COMPLETE"] == TRIALS


def runs(store):
    with contextlib.suppress(StudyNotFoundError):  # not launched yet
        return store.counts("s")[TrialState.RUNNING]
    return 0
