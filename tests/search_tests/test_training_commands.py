"""train, predict and best --save: one configuration, without and after a search."""

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from model.evaluation import load_classifier
from search.cli import run_command
from search.objective import train_larnn
from search.repeat import repeat_command
from tests.search_tests.test_objective import Context
from trials.store import WEIGHTS, NewTrial
from trials.study import StudySpec
from trials.trial import Outcome, TrialState

SETTINGS = ["cell=lstm", "hidden_size=4", "num_layers=1", "epochs=2", "batch_size=8"]
FIX = [word for setting in SETTINGS for word in ("--fix", setting)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a small data set, ``mine.npz``; one thread."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LARNN_STATE_DIR", str(tmp_path / "state"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = draw.standard_normal((60, 10, 2)) + y[:, None, None]
    np.savez("mine.npz", x=x, y=np.array(["a", "b", "c"])[y], person=np.arange(60) // 6)
    yield tmp_path
    torch.set_num_threads(before)


def test_a_model_is_trained_saved_and_used(larnn, folder):
    said = larnn("train", "--data", "npz:mine.npz", *FIX, "--threads", 1, "-o", "model")
    assert "on validation people (epoch " in said
    assert "larnn-search predict model FILE.npz" in said
    assert sorted(path.name for path in (folder / "model").iterdir()) == [
        "config.json",
        "data.json",
        "metrics.json",
        "model.safetensors",
    ]
    told = {p.stem: json.loads(p.read_text()) for p in (folder / "model").glob("*.json")}
    assert told["config"]["hidden_size"] == 4
    assert told["data"]["sequences"] == {"train": 36, "validation": 12, "test": 12}
    assert len(told["data"]["people"]["train"]) == 6
    assert told["metrics"]["versions"]["torch"] == torch.__version__
    assert f"loss {told['metrics']['loss']:.6f}" in said
    printed = larnn("predict", "model", "mine.npz")
    assert larnn("predict", "model", "mine.npz", "-o", "out.csv") == ""
    assert (folder / "out.csv").read_text() == printed
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [int(row["sequence"]) for row in rows] == list(range(60))
    model = load_classifier((folder / "model" / "model.safetensors").read_bytes(), "cpu")
    expected = model.probabilities(np.load("mine.npz")["x"])
    found = np.array([[float(row[name]) for name in "abc"] for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [row["class"] for row in rows] == ["abc"[i] for i in expected.argmax(1)]


def test_a_model_sees_every_nth_step_as_in_training(larnn, folder):
    larnn("train", "--data", "npz:mine.npz", *FIX, "--fix", "time_stride=2", "-o", "model")
    held = dict(np.load("mine.npz"))
    whole = larnn("predict", "model", "mine.npz")
    held["x"][:, 1::2] = 77
    np.savez("other.npz", **held)
    assert larnn("predict", "model", "other.npz") == whole


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["train", "--fix", "window_size=0"], 2, "window_size must be at least 1"),
        (["train", "--fix", "windowsize=4"], 2, "unknown parameter 'windowsize'"),
        (["train", "--fix", "data=3"], 2, "data must be the name of a data set, got 3"),
        (["train", "--fix", "data=null"], 2, "data must be the name of a data set, got None"),
        (["train", "--seed", str(2**63)], 2, "seed must be below 9.22337e+18, got 9223372036854"),
        (["train", "--data", "npz:none.npz"], 2, "cannot read the data file none.npz"),
        (["train", "--data", "npz:mine.npz", "-o", "mine.npz"], 2, "is a file"),
        (["train", "--data", "npz:mine.npz", "-o", "mine.npz/x"], 2, "cannot write to mine.npz/x"),
        (["train", *FIX, "--data", "npz:mine.npz", "--fix", "precision=mixed"], 2, "needs CUDA"),
        (["train", *FIX, "--data", "npz:mine.npz", "--fix", "learning_rate=1e30",
          "--fix", "gradient_clip=0", "--fix", "schedule=constant"], 1, "loss became"),
        (["predict", "nowhere", "mine.npz"], 2, "a model is a folder with a model.safetensors"),
        (["predict", "damaged", "mine.npz"], 2, "damaged/model.safetensors: expected a checkpoint"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_in_one_line(arguments, status, words, larnn, folder):
    (folder / "damaged").mkdir()
    (folder / "damaged" / "model.safetensors").write_bytes(b"nothing of the kind")
    if "--device" not in arguments:
        arguments = [*arguments, "--device", "cpu"]
    last = larnn(*arguments, status=status).splitlines()[-1]
    assert last.startswith("larnn-search: ")
    assert words in last


def test_what_does_not_fit_the_model_is_named(larnn, folder):
    larnn("train", "--data", "npz:mine.npz", *FIX, "-o", "model")
    np.savez("wide.npz", x=np.zeros((2, 10, 3)))
    assert "must have the model's 2 channels" in larnn("predict", "model", "wide.npz", status=2)
    np.savez("turned.npz", x=np.zeros((2, 10, 2)), channel_names=["channel 1", "channel 0"])
    told = larnn("predict", "model", "turned.npz", status=2)
    assert "in their order: channel 0, channel 1; turned.npz has channel 1, channel 0" in told
    np.savez("nan.npz", x=np.full((2, 10, 2), np.nan))
    assert "x must be finite" in larnn("predict", "model", "nan.npz", status=2)
    again = larnn("train", "--data", "npz:mine.npz", *FIX, "-o", "model", status=2)
    assert "holds a model already" in again


# Interrupts itself at a batch of the second epoch, as Ctrl-C would.
INTERRUPTED = """
import os, signal, sys
import model.training as training
fit = training.fit
def interrupted(*args, stop_reason, **options):
    asked = []
    def ask():
        asked.append(1)
        if len(asked) == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGINT)
        return stop_reason()
    return fit(*args, stop_reason=ask, **options)
training.fit = interrupted
from search.cli import run_command
sys.exit(run_command(sys.argv[2:]))
"""


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_goes_on(larnn, folder):
    command = ["train", "--data", "npz:mine.npz", *FIX, "--threads", "1", "--device", "cpu"]
    larnn(*command, "-o", "whole")
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "7", *command, "-o", "cut"],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert ended.returncode == 130, ended.stderr
    assert "stopped; the same command goes on from cut" in ended.stderr
    assert [path.name for path in (folder / "cut").iterdir()] == ["checkpoint.safetensors"]
    other = larnn(*command, "--seed", "9", "-o", "cut", status=2)
    assert "must come from the same settings" in other
    larnn(*command, "-o", "cut")
    losses = [
        json.loads((folder / n / "metrics.json").read_text())["loss"] for n in ("whole", "cut")
    ]
    assert losses[0] == losses[1]
    assert not (folder / "cut" / "checkpoint.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def searched(database):
    """A study of one finished trial with its weights, and one without."""

    from search.named_spaces import NAMED_SPACES

    space, context = NAMED_SPACES["lstm"], Context(seed=11)
    context.requirements = {}
    params = {"cell": "lstm", "hidden_size": 4, "num_layers": 1, "epochs": 2, "batch_size": 8,
              "data": "npz:mine.npz"}  # fmt: skip
    database.create_study(StudySpec("s", "search.objective:train_larnn", space.to_dict()))
    database.create_study(StudySpec("empty", "search.objective:train_larnn", space.to_dict()))
    database.add_trials("s", None, 0, [NewTrial(params, 11), NewTrial(params, 12)])
    for loss_added in (0.0, 1.0):
        claim = database.reserve("s", "w", "h", f"t{loss_added}").claim
        result = train_larnn(params, context)
        if not loss_added:
            database.save_blob(claim, WEIGHTS, context.weights)
        outcome = Outcome(TrialState.COMPLETE, result["loss"] + loss_added, result)
        database.finish(claim, outcome)
    database.record_test_look("s", {"number": 0, "test_accuracy": 0.5})
    return database


@pytest.mark.mongo
def test_the_best_model_of_a_study_is_saved(searched, larnn, folder):
    larnn("best", "s", "--save", "model")
    metrics = json.loads((folder / "model" / "metrics.json").read_text())
    assert (metrics["study"], metrics["trial"]) == ("s", 0)
    assert metrics["loss"] == searched.get_trial("s", 0).loss
    assert metrics["test"]["test_accuracy"] == 0.5
    assert json.loads((folder / "model" / "config.json").read_text())["seed"] == 11
    assert larnn("predict", "model", "mine.npz").startswith("sequence,class,a,b,c\n0,")
    assert "holds a model already" in larnn("best", "s", "--save", "model", status=2)
    assert "every training is COMPLETE" in larnn("best", "empty", "--save", "none", status=1)
    assert "every training is COMPLETE" in larnn(
        "best", "empty", "--save", "none", "--json", status=1
    )
    searched.drop_blobs("s", WEIGHTS, keep=())
    assert "train --from s 0 -o other" in larnn("best", "s", "--save", "other", status=1)


@pytest.mark.mongo
def test_a_trial_trained_again_has_the_same_loss_to_the_bit(searched, larnn):
    trial = searched.get_trial("s", 0)
    again = json.loads(larnn("train", "--from", "s", 0, "--device", "cpu", "--json"))
    assert again["loss"] == trial.loss
    command = repeat_command(searched.get_study("s"), trial)
    assert command.startswith("larnn-search train ")
    assert f"loss {trial.loss:.6f}" in larnn(*shlex.split(command)[1:])
    other = json.loads(larnn("train", "--from", "s", 0, "--seed", 5, "--json"))
    assert other["loss"] != trial.loss


@pytest.mark.mongo
def test_what_stands_elsewhere_does_not_change_a_trial_trained_again(
    searched, larnn, folder, monkeypatch
):
    (folder / "larnn-search.toml").write_text('seed = 77\nfix = ["dropout=0.5"]\n')
    monkeypatch.setenv("LARNN_DATA", "har")
    again = json.loads(larnn("train", "--from", "s", 0, "--json"))
    assert again["loss"] == searched.get_trial("s", 0).loss


@pytest.mark.mongo
def test_an_exported_study_is_looked_at_as_one_of_the_database(searched, larnn):
    larnn("export", "s", "-o", "s.jsonl")
    for line in (["trials"], ["trials", "--state", "WAITING"], ["best", "-n", 1], ["show", 1]):
        for form in ([], ["--json"]):
            command, *rest = [*line, *form]
            assert larnn(command, "s.jsonl", *rest) == larnn(command, "s", *rest)
    assert "has no trial 7" in larnn("show", "s.jsonl", 7, status=2)
    assert "train --from s.jsonl 0 -o other" in larnn(
        "best", "s.jsonl", "--save", "other", status=1
    )
    again = json.loads(larnn("train", "--from", "s.jsonl", 0, "--device", "cpu", "--json"))
    assert again["loss"] == searched.get_trial("s", 0).loss


@pytest.mark.mongo
def test_a_trial_trained_again_runs_on_its_backend(searched, larnn):
    params = {"data": "npz:mine.npz", "epochs": 1, "num_heads": 2, "head_size": 2, "num_layers": 1}
    searched.add_trials("s", None, 2, [NewTrial(params, 0)])
    claim = searched.reserve("s", "w", "h", "t").claim
    searched.finish(claim, Outcome(TrialState.COMPLETE, 1.0, {"backend": "torch"}))
    options = ["--from", "s", 2, "--device", "cpu", "--json"]
    assert json.loads(larnn("train", *options))["backend"] == "torch"


@pytest.mark.mongo
def test_a_trial_of_another_objective_or_other_data_is_not_trained(searched, larnn, folder):
    spec = StudySpec("own", "mine:objective", {"name": "own", "rows": [], "fixed": {}})
    searched.create_study(spec)
    searched.add_trials("own", None, 0, [NewTrial({"x": 1}, 0)])
    assert "study own minimises mine:objective" in larnn("train", "--from", "own", 0, status=2)
    needs = {"data_fingerprint": "0" * 64}
    searched.create_study(
        StudySpec("elsewhere", "search.objective:train_larnn", {}, requirements=needs)
    )
    searched.add_trials("elsewhere", None, 0, [NewTrial({"data": "npz:mine.npz"}, 0)])
    assert run_command(["train", "--from", "elsewhere", "0"]) == 1
    for other in (["--data", "npz:mine.npz"], ["--fix", "data=npz:mine.npz"]):
        larnn("train", "--from", "elsewhere", 0, *other, *FIX, "--device", "cpu")
