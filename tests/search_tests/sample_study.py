"""A study as a real search leaves it, made in memory: four slots on two hosts, some bad luck."""

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from trials.study import Study, StudySpec, StudyState
from trials.trial import Failure, FailureKind, Report, Trial, TrialState

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
WORKERS = ("ares-4711-k3", "ares-4711-k3", "boreas-902-x7", "boreas-902-x7")
EPOCHS = 12
ROWS: list[dict[str, Any]] = [
    {"name": "window_size", "kind": "logint", "low": 4, "high": 64},
    {"name": "num_heads", "kind": "choice", "choices": [1, 2, 4, 8]},
    {"name": "head_size", "kind": "choice", "choices": [4, 8, 12, 16]},
    {"name": "num_layers", "kind": "int", "low": 1, "high": 3},
    {
        "name": "attention_activation",
        "kind": "choice",
        "choices": ["none", "elu", "relu", "gelu", "tanh"],
    },
    {"name": "mode", "kind": "choice", "choices": ["residual", "layer"]},
    {"name": "norm", "kind": "choice", "choices": ["layer", "batch", "none"]},
    {"name": "learning_rate", "kind": "loguniform", "low": 3e-4, "high": 3e-2},
    {"name": "dropout", "kind": "uniform", "low": 0.0, "high": 0.5},
    {"name": "weight_decay", "kind": "loguniform", "low": 1e-5, "high": 1e-1},
    {"name": "schedule", "kind": "choice", "choices": ["step", "one_cycle"]},
    {
        "name": "decay_factor",
        "kind": "uniform",
        "low": 0.5,
        "high": 0.95,
        "when": {"schedule": "step"},
    },
]


def sample_study(max_trials: int | None = 60) -> Study:
    """The study whose trials `sample_trials` makes."""
    spec = StudySpec(
        name="quick",
        objective="search.objective:train_larnn",
        space={"name": "card", "rows": ROWS},
        fixed={"data": "har", "epochs": EPOCHS},
        max_trials=max_trials,
    )
    return Study(spec, StudyState.ACTIVE, START)


def sample_trials(count: int = 60, *, running: int = 0, seed: int = 7) -> list[Trial]:
    """``count`` trials, the last ``running`` of them under way; the same for the same arguments."""
    draw = random.Random(seed)
    free_at = [0.0] * len(WORKERS)
    trials = []
    for number in range(count):
        slot = min(range(len(WORKERS)), key=free_at.__getitem__)
        trial = _trial(draw, number, slot, free_at[slot], running=number >= count - running)
        finished = trial.finished_at
        gap = draw.uniform(0.2, 1.5)
        free_at[slot] = (finished - START).total_seconds() + gap if finished else math.inf
        trials.append(trial)
    return trials


def _params(draw: random.Random) -> dict[str, Any]:
    params: dict[str, Any] = {"data": "har", "epochs": EPOCHS}
    for row in ROWS:
        when = row.get("when", {})
        if any(params[name] != value for name, value in when.items()):
            continue
        if row["kind"] == "choice":
            params[row["name"]] = draw.choice(row["choices"])
        elif row["kind"] == "int":
            params[row["name"]] = draw.randint(row["low"], row["high"])
        elif row["kind"] == "uniform":
            params[row["name"]] = draw.uniform(row["low"], row["high"])
        else:
            value = math.exp(draw.uniform(math.log(row["low"]), math.log(row["high"])))
            params[row["name"]] = round(value) if row["kind"] == "logint" else value
    return params


def _final_loss(draw: random.Random, params: dict[str, Any]) -> float:
    off = math.log10(params["learning_rate"] / 4e-3)
    loss = 0.24 + 0.35 * off**2 + 0.12 * abs(math.log2(params["window_size"] / 20)) / 2
    loss += {"layer": 0.0, "batch": 0.08, "none": 0.2}[params["norm"]]
    loss += {"elu": 0.0, "gelu": 0.02, "tanh": 0.05, "relu": 0.06, "none": 0.1}[
        params["attention_activation"]
    ]
    loss += 0.04 * (3 - math.log2(params["num_heads"])) / 3 + 0.3 * params["dropout"] ** 2
    return loss * math.exp(draw.gauss(0, 0.12))


def _trial(draw: random.Random, number: int, slot: int, begin: float, *, running: bool) -> Trial:
    params = _params(draw)
    final = _final_loss(draw, params)
    epoch_s = (0.6 + params["num_layers"] * params["window_size"] / 40) * draw.uniform(0.9, 1.1)
    luck = draw.random()
    steps = EPOCHS
    state = TrialState.COMPLETE
    if running:
        state, steps = TrialState.RUNNING, draw.randint(2, EPOCHS - 1)
    elif final > 0.7 and number > 3:
        state, steps = TrialState.PRUNED, draw.choice([3, 3, 6])
    elif luck < 0.05:
        state, steps = TrialState.FAILED, draw.randint(0, 4)
    reports = tuple(
        Report(
            step,
            loss := final
            + 1.5 * math.exp(-step / 2.2) * draw.uniform(0.8, 1.2)
            - 1.5 * math.exp(-EPOCHS / 2.2),
            {"validation_accuracy": max(0.2, 1 - loss / 2.2)},
            step * epoch_s,
        )
        for step in range(1, steps + 1)
    )
    failed = state is TrialState.FAILED
    lost = 0.9 < luck < 0.95
    worker, host = WORKERS[slot], WORKERS[slot].split("-")[0]
    started = START + timedelta(seconds=begin)
    result: dict[str, Any] = {}
    if state in (TrialState.COMPLETE, TrialState.PRUNED):
        result = {**reports[-1].metrics, "confusion": [[1]]}
    loss = None
    if state is TrialState.COMPLETE:
        loss = min(report.loss for report in reports)
    elif state is TrialState.PRUNED:
        loss = reports[-1].loss  # its latest, as a worker tells it
    return Trial(
        study="quick",
        number=number,
        state=state,
        params=params,
        seed=1_000_000 + number,
        created_at=started - timedelta(seconds=2),
        attempt=2 if lost else 1,
        retries=1 if failed else 0,
        token="t" if running else None,
        worker=worker,
        host=host,
        started_at=started,
        finished_at=None if running else started + timedelta(seconds=steps * epoch_s + 0.5),
        loss=loss,
        result=result,
        reports=reports,
        failures=(Failure(FailureKind.OUT_OF_MEMORY, "used 3.1 GB of 3 GB", worker, host, 1),)
        if failed
        else (Failure(FailureKind.LOST_WORKER, "not heard of for 30 s", worker, host, 1),)
        if lost
        else (),
        suggestion={"origin": "tpe", "draw": number},
    )
