"""`larnn-search` as a user runs it: real server, real workers, real data, real signals."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.acceptance.documents import ROOT
from tests.acceptance.worker_process import own_objective, search_process
from tests.trials_tests.working import children, eventually, is_alive, promised
from trials.mongo_store import MongoStore
from trials.trial import TrialState

pytestmark = pytest.mark.mongo
SMALL = [
    "--fix", "epochs=1", "--fix", "num_heads=2", "--fix", "head_size=4", "--fix", "num_layers=1",
    "--fix", "time_stride=8", "--fix", "batch_size=512",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("LARNN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("LARNN_MONGO_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def command(*arguments):
    return [sys.executable, "-m", "search", *arguments]


def larnn_search(*arguments, status=0):
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240)
    assert done.returncode == status, done.stderr
    return done


def read(*arguments):
    return json.loads(larnn_search(*arguments, "--json").stdout)


@pytest.fixture
def server():
    """The private server, kept up between commands; its address."""
    yield larnn_search("mongo", "start").stdout.strip()
    larnn_search("mongo", "stop")


def test_a_search_from_start_to_answer_and_its_answer_again(tmp_path):
    arguments = ["run", "--preset", "quick", "--study", "first", "--max-trials", "4", *SMALL]
    done = larnn_search(*arguments, "--json")
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["counts"]["COMPLETE"] == 4
    assert said["best"]["validation_accuracy"] > 1 / 6
    assert 0 < said["best"]["test_accuracy"] <= 1
    assert [os.path.getsize(path) > 10_000 for path in said["figures"]] == [True, True]

    trials = read("trials", "first")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4
    assert min(trial["loss"] for trial in trials) == said["best"]["loss"]

    again = larnn_search(*arguments, "--json")
    assert json.loads(again.stdout.splitlines()[-1])["best"] == said["best"]
    assert read("trials", "first") == trials


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("server")
def test_a_search_without_a_look_then_its_ranking_ablation_and_final(tmp_path):
    arguments = ["run", "--preset", "quick", "--study", "first", "--max-trials", "3", *SMALL]
    said = larnn_search(*arguments, "--pruner", "none", "--no-test", "--json")
    assert json.loads(said.stdout.splitlines()[-1])["best"]["test_accuracy"] is None
    assert larnn_search("looks", "first").stdout.count("\n") == 1

    ranking = larnn_search("rank", "first", "--best", "2", "--seeds", "2", "--json")
    rows = json.loads(ranking.stdout.splitlines()[-1])["again"]["first-rank"]
    assert [len(row["losses"]) for row in rows] == [2, 2]
    assert "first-rank: 4 trainings, about 0.0 core hours" in ranking.stderr
    ablation = larnn_search("ablate", "first-rank", "--change", "cell=lstm", "--seeds", "2")
    assert "cell=lstm" in ablation.stdout

    final = larnn_search("final", "first-rank", "--folds", "2", "--seeds", "1", "--json")
    assert "chose by each trial's best epoch, a final judges the last" in final.stderr
    cell = json.loads(final.stdout.splitlines()[-1])["studies"]["first"]
    assert (cell["folds_people"], cell["others_people"]) == (30, 25)
    assert cell["folds_interval"][0] < cell["folds_accuracy_mean"] < cell["folds_interval"][1]
    names = ("first", "first-rank", "first-ablation", "first-folds")
    told = read("summary", *names)
    assert cell.items() <= told["studies"]["first"].items()
    assert set(told["again"]) == {"first-rank", "first-ablation"}
    looks = larnn_search("looks", *names).stdout.splitlines()
    assert [line.split(",")[1] for line in looks[1:]] == ["first-folds", "first-folds"]
    table = larnn_search("summary", *names).stdout
    assert "the people who chose nothing" in table

    larnn_search("export", "first-rank", "-o", "first-rank.jsonl")
    repeat = read("show", "first-folds", "0")["repeat"]
    assert re.fullmatch(
        r"larnn-search final first-rank --trial \d+ --seeds 1 --folds 2 --device cpu --backend \w+",
        repeat,
    )
    words = repeat.replace("first-rank", "first-rank.jsonl").split()[1:]
    again = larnn_search(*words, "--json")  # the same final: it is there already
    assert json.loads(again.stdout.splitlines()[-1])["studies"]["first"] == cell
    compared = larnn_search("compare", *names, "--json")
    assert [row["study"] for row in json.loads(compared.stdout)] == ["first"]
    assert "Left out, for they search nothing: first-rank, first-ablation" in compared.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_resumes(number, status, server):
    arguments = ["run", "--preset", "quick", "--study", "cut", "--max-trials", "24", *SMALL]
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        stack.callback(process.kill)
        # Quicker to ask than the command line is.
        store = stack.enter_context(MongoStore(server, "larnn_search"))
        eventually(store.list_studies)
        eventually(lambda: store.counts("cut")[TrialState.COMPLETE])
        told = time.monotonic()
        os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=60)
        assert time.monotonic() - told < promised(5)
    assert process.returncode == status
    assert said.endswith(b"larnn-search: stopped; the same command goes on where it left off\n")
    after = read("trials", "cut")
    assert not [trial for trial in after if trial["state"] == "RUNNING"]
    finished = [trial for trial in after if trial["state"] == "COMPLETE"]
    assert 0 < len(finished) < 24

    larnn_search(*arguments)
    trials = read("trials", "cut")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 24
    for before in finished:
        assert trials[before["number"]] == before


def test_launch_in_one_shell_and_workers_in_another(monkeypatch, server):
    monkeypatch.setenv("LARNN_MONGO_URI", server)
    with subprocess.Popen(
        command("launch", "--preset", "quick", "--study", "spread", "--max-trials", "3", *SMALL),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as launcher:  # fmt: skip
        worker = subprocess.Popen(command("worker", "--slots", "1"), stderr=subprocess.DEVNULL)
        try:
            said, _ = launcher.communicate(timeout=240)
        finally:
            worker.terminate()
            assert worker.wait(timeout=30) == 0
    assert launcher.returncode == 0, said
    assert read("status", "spread")["counts"]["COMPLETE"] == 3


def test_workers_of_a_killed_search_end_with_all_that_they_started(tmp_path, server):
    gate = ["--fix", "steps=2", "--fix", f"gate={tmp_path / 'gate'}"]
    arguments = ["--study", "s", "--workers", "2", "--max-trials", "2"]
    arguments += [*own_objective("steps", tmp_path), *gate]
    with (
        MongoStore(server, "larnn_search") as store,
        search_process(server, tmp_path, "run", *arguments) as process,
    ):
        eventually(store.list_studies)
        eventually(lambda: sum(bool(trial.reports) for trial in store.list_trials("s")) == 2)
        workers = children(process.pid)
        started = [pid for worker in workers for pid in children(worker)]
        assert len(started) >= len(workers) > 0
        process.kill()
        eventually(lambda: not any(is_alive(pid) for pid in (*workers, *started)))
        assert store.counts("s")[TrialState.WAITING] == 2


def test_workers_of_a_search_share_the_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-7f")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    own = own_objective("meets", tmp_path)
    fixed = ["--fix", f"folder={meeting}", "--fix", "gpus=2"]
    larnn_search("run", "--study", "s", "--max-trials", "4", "--pruner", "none", *own, *fixed)
    assert sorted(path.name for path in meeting.iterdir()) == ["0", "GPU-7f"]
