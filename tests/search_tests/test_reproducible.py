"""One seed, one search: the same suggestions when serial, the same loss to the bit."""

import json
import shlex
import threading
from pathlib import Path

import pytest

from search import objective
from search.feeder import Feeder
from search.launch import DEFAULT_OBJECTIVE, Request, build_spec
from search.parameter import Parameter
from search.repeat import repeat_command
from search.space import Space
from search.suggest import Suggester
from tests.model_tests.tiny_data import tiny
from tests.search_tests.test_objective import Context
from tests.trials_tests.objectives import HERE
from tests.trials_tests.working import RunningWorker, add_study, eventually, finished
from trials.memory_store import MemoryStore
from trials.study import StudySpec
from trials.trial import Outcome, TrialState

SPACE = Space("line", (Parameter("x", "uniform", -5.0, 5.0), Parameter("n", "int", 1, 9)))
TRIALS = 26
"""Beyond TPE's 20 random ones."""
SMALL = {"cell": "larnn", "num_heads": 2, "head_size": 3, "num_layers": 2, "window_size": 3}
TRAINING = {"epochs": 2, "batch_size": 8, "dropout": 0.2, "norm": "batch"}


def search_serially(store, seed):
    """As `run --workers 1 --ahead 0 --seed SEED` does, feeder and worker at once."""
    spec = StudySpec("s", f"{HERE}:square", SPACE.to_dict(), seed=seed, max_trials=TRIALS)
    store.create_study(spec)
    with RunningWorker(store, studies=["s"], exit_when_done=["s"]):
        Feeder(store, "s", ahead=0).run(threading.Event())
    return store.list_trials("s")


def suggested_one_by_one(seed):
    """What Hyperopt proposes, asked for one trial after the other."""
    store, suggester = MemoryStore(), Suggester(SPACE, "tpe", seed)
    store.create_study(StudySpec("s", "m:f", SPACE.to_dict(), seed=seed))
    for number in range(TRIALS):
        (new,) = suggester.suggest(store.list_trials("s"), 1)
        store.add_trials("s", None, number, [new])
        trial = store.reserve("s", "w", "h", f"t{number}")
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, new.params["x"] ** 2))
    return store.list_trials("s")


@pytest.mark.mongo
def test_the_seed_fixes_the_suggestions_of_a_serial_search(database):
    expected = [(trial.params, trial.seed) for trial in suggested_one_by_one(seed=3)]
    told = search_serially(MemoryStore(), seed=3)
    assert [(trial.params, trial.seed) for trial in told] == expected
    assert {trial.suggestion["origin"] for trial in told[20:]} == {"tpe"}
    told = search_serially(database, seed=3)
    assert [(trial.params, trial.seed) for trial in told] == expected


def test_the_random_start_is_the_same_however_many_work():
    proposals = [Suggester(SPACE, "tpe", seed=3).suggest([], count) for count in (1, 4, 20)]
    for few in proposals[:2]:
        assert few == proposals[2][: len(few)]
    assert Suggester(SPACE, "tpe", seed=4).suggest([], 4) != proposals[1]


@pytest.fixture
def tiny_data(monkeypatch):
    data = tiny()
    monkeypatch.setattr(objective, "_load", lambda name, time_stride: data)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("tiny_data")
def test_a_trial_run_twice_has_the_same_loss_to_the_bit(threads):
    results = []
    for seed in (5, 5, 6):
        context = Context(seed=seed)
        context.threads, context.requirements = threads, {}
        results.append(objective.train_larnn({**SMALL, **TRAINING}, context))
        results[-1]["curve"] = context.reports
    first, again, other = results
    assert first["loss"] == again["loss"] != other["loss"]
    assert first["curve"] == again["curve"]
    assert first["validation_accuracy"] == again["validation_accuracy"]


@pytest.mark.usefixtures("tiny_data")
def test_a_trial_keeps_what_is_needed_to_repeat_it():
    told = objective.train_larnn({**SMALL, **TRAINING, "seed": 5})
    assert told["seed"] == 5
    assert (told["device"], told["backend"]) in {
        (device, backend) for device in ("cpu", "cuda") for backend in ("torch", "fused")
    }
    assert told["threads"] >= 1
    assert told["seconds"] > 0
    is_checkout = (Path(objective.__file__).parents[1] / ".git").exists()
    named = {"larnn-search", "torch", "numpy", "python", "cpu"} | (
        {"git"} if is_checkout else set()
    )
    assert set(told["versions"]) == named
    assert told["data_fingerprint"]


def test_the_command_that_show_prints_repeats_the_trial(larnn):
    params = {**SMALL, **TRAINING, "epochs": 1, "time_stride": 16, "batch_size": 1024}
    store = MemoryStore()
    study = add_study(store, DEFAULT_OBJECTIVE, [params])
    with RunningWorker(store, objectives=[DEFAULT_OBJECTIVE]):
        (trial,) = eventually(lambda: finished(store), timeout_s=120)
    assert trial.state is TrialState.COMPLETE, trial.failures
    command = shlex.split(repeat_command(study, trial))
    again = json.loads(larnn(*command[1:], "--json"))
    assert again["backend"] == trial.result["backend"]
    assert again["loss"] == trial.loss


def test_every_limit_reaches_the_study(tmp_path):
    (tmp_path / "own.toml").write_text('[x]\ntype = "uniform"\nlow = 0.0\nhigh = 1.0\n')
    limits = {"max_retries": 5, "until_loss": 0.1, "patience": 7, "seed": 9, "threads": 2}
    renamed = {
        "stall_timeout": ("stall_timeout_s", 4.0),
        "trial_timeout": ("trial_timeout_s", 8.0),
        "memory_limit": ("memory_limit_bytes", 2**30),
        "timeout": ("timeout_s", 60.0),
    }
    asked = limits | {name: value for name, (_, value) in renamed.items()}
    request = Request("s", objective="m:f", space=str(tmp_path / "own.toml"), **asked)
    spec = build_spec(request, print)
    for name, value in {**limits, **dict(renamed.values())}.items():
        assert getattr(spec, name) == value
    plain = build_spec(Request("s", objective="m:f", space=str(tmp_path / "own.toml")), print)
    assert plain == StudySpec("s", "m:f", plain.space, max_trials=None, pruner={"name": "asha"})
