import dataclasses
import functools
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import hyperopt
import numpy as np
import pytest

from model.data import DataError, load
from search import objective
from search.objective import test_metrics as look_at_test  # its own name would be collected
from search.objective import train_larnn
from tests.model_tests.test_user_data import arrays
from tests.model_tests.tiny_data import tiny
from trials.child import ending
from trials.errors import TrialRefusedError
from trials.objective import StopReason

DATA = tiny()
PARAMS = {"cell": "lstm", "hidden_size": 4, "epochs": 3, "batch_size": 8}


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch):
    load = functools.cache(lambda name, time_stride: DATA.every(time_stride))
    monkeypatch.setattr(objective, "_load", load)


class Context:
    """What the service gives to a trial, written down instead of sent."""

    number, attempt, threads, device = 0, 1, 1, "cpu"

    def __init__(self, *, seed=7, stop_at=0, reason=StopReason.INTERRUPT, checkpoint=None):
        self.seed = seed
        self.requirements = {"data_fingerprint": DATA.fingerprint}
        self.reports, self.checkpoints, self.weights = [], [], None
        self._asked, self._stop_at, self._reason = 0, stop_at, reason
        self._checkpoint = checkpoint

    def report(self, step, loss, **metrics):
        self.reports.append((step, loss, metrics))

    def stop_reason(self):
        self._asked += 1
        return self._reason if self._asked == self._stop_at else None

    def save_checkpoint(self, data):
        self.checkpoints.append(data)

    def load_checkpoint(self):
        return self._checkpoint

    def save_weights(self, data):
        self.weights = data


def test_params_alone_are_enough():
    result = train_larnn(PARAMS)
    assert result["status"] == "ok"
    assert 0 < result["loss"] < 2
    assert 0 <= result["validation_accuracy"] <= 1
    assert result["seed"] == 0
    json.dumps(result)  # plain values only


def test_plain_hyperopt_can_minimise_it():
    rate = hyperopt.hp.loguniform("learning_rate", -6, -3)
    best = hyperopt.fmin(
        train_larnn,
        {**PARAMS, "epochs": 1, "learning_rate": rate},
        algo=hyperopt.tpe.suggest,
        max_evals=2,
        rstate=np.random.default_rng(0),
        show_progressbar=False,
    )
    assert math.exp(-6) <= best["learning_rate"] <= math.exp(-3)


def test_it_reports_every_epoch_and_keeps_the_best_weights():
    context = Context()
    result = train_larnn(PARAMS, context)
    assert [step for step, _, _ in context.reports] == [1, 2, 3]
    step, loss, metrics = min(context.reports, key=lambda report: report[1])
    assert (result["best_epoch"], result["loss"]) == (step, loss)
    assert result["validation_accuracy"] == metrics["validation_accuracy"]
    assert {"train_loss", "train_accuracy", "learning_rate"} < metrics.keys()
    assert result["epochs_run"] == 3
    measured = look_at_test({**PARAMS, "seed": 7}, context.weights)
    assert measured["test_sequences"] == len(DATA.indices("test"))
    assert 0 <= measured["test_accuracy"] <= 1


def test_it_records_how_it_ran():
    result = train_larnn(PARAMS, Context())
    assert (result["seed"], result["device"], result["threads"]) == (7, "cpu", 1)
    assert result["backend"] == "torch"
    assert result["seconds"] > 0
    assert result["num_parameters"] > 100
    assert result["data_fingerprint"] == DATA.fingerprint
    assert {"larnn-search", "torch", "numpy", "python", "cpu"} <= result["versions"].keys()


def test_the_seed_is_the_trials_unless_params_have_one():
    losses = [
        train_larnn(params, Context(seed=seed))["loss"]
        for params, seed in ((PARAMS, 1), (PARAMS, 1), (PARAMS, 2), ({**PARAMS, "seed": 1}, 2))
    ]
    assert losses[0] == losses[1] == losses[3] != losses[2]


def test_an_interrupted_trial_goes_on_where_it_was():
    expected = train_larnn(PARAMS, Context())
    stopped = Context(stop_at=8)
    assert train_larnn(PARAMS, stopped)["status"] == "stopped"
    assert stopped.weights is None
    resumed = train_larnn(PARAMS, Context(checkpoint=stopped.checkpoints[-1]))
    for result in (expected, resumed):
        result.pop("seconds")
    assert resumed == expected


def test_a_checkpoint_that_fits_no_more_costs_time_and_nothing_else():
    expected = train_larnn(PARAMS, Context())
    found = train_larnn(PARAMS, Context(checkpoint=b"of another version"))
    assert found | {"seconds": 0} == expected | {"seconds": 0}


def test_a_pruned_trial_saves_nothing_more():
    context = Context(stop_at=2, reason=StopReason.PRUNE)
    told = train_larnn(PARAMS, context)
    assert told["status"] == "stopped"
    assert "loss" not in told
    assert_it_says_how_it_ran(told)
    assert context.checkpoints == []


def assert_it_says_how_it_ran(told):
    assert (told["seed"], told["device"], told["threads"]) == (7, "cpu", 1)
    assert told["backend"] == "torch"
    assert told["data_fingerprint"] == DATA.fingerprint
    assert {"larnn-search", "torch", "numpy", "python", "cpu"} <= told["versions"].keys()
    assert told["seconds"] > 0


def test_other_data_are_refused():
    context = Context()
    context.requirements = {"data_fingerprint": "0" * 64}
    with pytest.raises(TrialRefusedError, match="have fingerprint 0000000000000000, data 'tiny' h"):
        train_larnn(PARAMS, context)
    assert context.reports == []


def test_a_machine_without_the_studys_data_leaves_it_alone(monkeypatch):
    def missing(config):
        raise DataError("cannot read the data file mine.npz: No such file or directory")

    monkeypatch.setattr(objective, "load_data", missing)
    with pytest.raises(
        TrialRefusedError, match=r"lacks the study's data: cannot read .* mine\.npz"
    ):
        train_larnn(PARAMS, Context())
    with pytest.raises(DataError):  # no study has loaded them: a mistake in the params
        train_larnn(PARAMS)


def test_a_diverging_training_has_no_loss():
    result = train_larnn({**PARAMS, "learning_rate": 1e30, "schedule": "constant"}, Context())
    assert math.isnan(result["loss"])
    assert result["status"] == "ok"
    assert "try a lower learning_rate" in result["message"]
    assert_it_says_how_it_ran(result)
    failed = ending(result)
    assert "try a lower learning_rate" in failed["message"]
    assert_it_says_how_it_ran(failed["result"])


def test_the_revision_of_a_checkout_tells_whether_its_files_differ(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def told():
        objective.versions.cache_clear()
        return objective.versions()["git"]

    monkeypatch.setattr(objective, "__file__", str(tmp_path / "search" / "objective.py"))
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    git("tag", "-a", "v1", "-m", "one")
    assert told() == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("two")
    assert told() == git("rev-parse", "HEAD") + "-dirty"
    objective.versions.cache_clear()


def test_numpys_numbers_are_taken():
    params = {
        "window_size": np.int64(5),
        "learning_rate": np.float64(0.01),
        "norm": np.str_("batch"),
    }
    config = objective.config_of(params, None)
    assert type(config.model.window_size) is int
    assert type(config.training.learning_rate) is float
    assert type(config.model.norm) is str


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"windowsize": 3}, "unknown parameter 'windowsize'; known ones: cell, "),
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"num_heads": 2.5}, "num_heads must be a whole number, got 2.5"),
    ],
)
def test_odd_params_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        train_larnn(params)


def test_data_stay_loaded_for_the_next_trial(monkeypatch):
    monkeypatch.undo()
    loads = []
    monkeypatch.setattr(
        "model.data.load", lambda name, stride: loads.append((name, stride)) or SimpleNamespace()
    )
    objective._load.cache_clear()
    config = objective.config_of({"time_stride": 2}, None)
    again = dataclasses.replace(config)
    assert objective.load_data(config) is objective.load_data(again)
    assert loads == [("har", 2)]
    objective._load.cache_clear()


def test_a_file_that_was_replaced_is_read_again_for_the_study_that_wants_it(tmp_path, monkeypatch):
    monkeypatch.undo()
    name = f"npz:{tmp_path / 'mine.npz'}"
    config = objective.config_of({"data": name}, None)
    fingerprints = []
    for shift in (0, 1):
        np.savez(tmp_path / "mine.npz", **{**arrays(), "x": arrays()["x"] + shift})
        fingerprints.append(load(name).fingerprint)
        wanted = {"data_fingerprint": fingerprints[-1]}
        assert objective.data_of_study(config, wanted).fingerprint == fingerprints[-1]
    with pytest.raises(TrialRefusedError, match="bring the same source"):
        objective.data_of_study(config, {"data_fingerprint": fingerprints[0]})
    objective._load.cache_clear()


def test_importing_it_warms_a_child_up():
    check = "import sys, search.objective; sys.exit('torch' not in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
