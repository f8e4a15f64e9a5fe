"""Settings trained again with other seeds and compared on validation people.

A search's best trial is partly the luckiest one: `ranking_spec` trains the best few again, and
`search.ranking` takes the best mean. `ablation_spec` trains a winner with one thing changed at
a time. Both are studies of the search's own objective, a grid over settings and seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from model.config import LARNN_ONLY, TrialConfig
from search.derivation import SETTINGS, TOGETHER, named_settings, read_settings
from search.ending import loss_of
from search.final import RANK, search_name, seeds_after
from search.launch import DEFAULT_OBJECTIVE
from search.parameter import Parameter
from search.ranking import fresh_seeds, settings_of
from search.source import StudyData
from search.space import Space, parse_assignment
from trials.study import StudySpec
from trials.trial import FailureKind, Trial, TrialState

BASE = "as chosen"
MEANS = ("loss", "accuracy", "ratio")
"""What `comparison` tells of each of the settings, with intervals."""


def ranking_spec(data: StudyData, *, count: int, seeds: int) -> StudySpec:
    """The study that trains a search's best settings again.

    Args:
        data: The search.
        count: How many settings, those of the least losses.
        seeds: Trainings of each, with seeds that the search did not choose by.

    Raises:
        ValueError: If the search had another objective, or fewer than two settings were complete.
    """
    candidates: dict[str, dict[str, Any]] = {}
    for one in data.ranked:
        if len(candidates) < count and settings_of(one.trial) not in candidates.values():
            candidates[f"trial {one.trial.number}"] = settings_of(one.trial)
    if len(candidates) < 2:
        raise ValueError(
            f"study {data.study.name} has {len(candidates)} complete trials of different settings: "
            "at least 2 are needed to choose among"
        )
    name = f"{search_name(data.study.name)}{RANK}"
    return _spec(data, name, candidates, fresh_seeds(data.trials, seeds))


def ablation_spec(
    data: StudyData, trial: Trial, changes: Sequence[str], *, seeds: int, say: Callable[[str], None]
) -> StudySpec:
    """The study that trains a trial's settings as they are, and with each change alone.

    Args:
        data: The search.
        trial: Whose settings are changed.
        changes: ``name=value`` each.
        seeds: Trainings of each, with seeds that the search did not choose by.
        say: Takes lines for the user about changes that change nothing.

    Raises:
        ValueError: If the search had another objective, a change breaks a rule, or none is left.
    """
    candidates = {BASE: settings_of(trial)}
    for change in changes:
        settings = changed(candidates[BASE], change)
        if TrialConfig.from_params(settings) in map(TrialConfig.from_params, candidates.values()):
            say(f"{change} is left out: these settings are trained already")
        else:
            candidates[change] = settings
    if len(candidates) < 2:
        raise ValueError("an ablation needs a --change that changes something")
    name = f"{search_name(data.study.name)}-ablation"
    return _spec(data, name, candidates, seeds_after(data, seeds))


def changed(settings: Mapping[str, Any], change: str) -> dict[str, Any]:
    """``settings`` with one changed; another cell keeps the width and drops what only a LARNN has.

    Raises:
        ValueError: If the change is not written ``name=value``, breaks a rule, or is of the data or
            the seed.
    """
    name, value = parse_assignment(change)
    if name == "data":
        raise ValueError(f"an ablation keeps the data of its search, got {change}")
    if name == "seed":
        raise ValueError(f"each change is trained with all --seeds, got --change {change}")
    made = {**settings, name: value}
    if name == "cell" and value != "larnn":
        width = TrialConfig.from_params(settings).model.units
        made = {key: kept for key, kept in made.items() if key not in LARNN_ONLY}
        made["hidden_size"] = width
    TrialConfig.from_params(made)
    return made


def _spec(
    data: StudyData,
    name: str,
    candidates: Mapping[str, Mapping[str, Any]],
    seeds: tuple[int, ...],
) -> StudySpec:
    study = data.study
    if study.spec.objective != DEFAULT_OBJECTIVE:
        raise ValueError(
            f"the LARNN objective is trained again, study {study.name} minimises "
            f"{study.spec.objective}"
        )
    all_settings = list(candidates.values())
    fixed = {
        key: value
        for key, value in all_settings[0].items()
        if all(key in settings and settings[key] == value for settings in all_settings)
    }
    choices = tuple(
        named_settings(label, {k: v for k, v in settings.items() if k not in fixed})
        for label, settings in candidates.items()
    )
    rows = (
        Parameter(SETTINGS, "choice", choices=choices),
        Parameter("seed", "choice", choices=seeds),
    )
    return StudySpec(
        name=name,
        objective=DEFAULT_OBJECTIVE,
        space=Space("again", rows, derive=TOGETHER).to_dict(),
        fixed=fixed,
        algorithm="grid",
        max_trials=len(choices) * len(seeds),
        threads=study.spec.threads,
        requirements=study.spec.requirements,
    )


def comparison(data: StudyData) -> list[dict[str, Any]]:
    """One row of plain JSON values for each of the settings, in the order in which they were given.

    ``losses`` and ``accuracies`` are of the validation people, by seed, and come with their means,
    ``ratio`` is of this row's loss to the first one's (geometric means). All have 95 % intervals
    over seeds; those of the ratios hold together (Dunnett 1955, "A multiple comparison procedure
    for comparing several treatments with a control"). Two or three seeds tell little of how much
    seeds differ, so that is estimated from all rows: of losses in the logarithm, since larger ones
    differ more. The people are the same in all: how other people would do is not in it.

    A row that ``diverged`` with some seed has no means: those that are left flatter it.
    """
    space = Space.from_dict(data.study.spec.space)
    rows = [_trained(data, space, str(choice)) for choice in space[SETTINGS].choices]
    whole = [row for row in rows if row["losses"] and not row["diverged"]]
    logs = [np.log(row["losses"]) for row in whole]
    for row, ends in zip(whole, _intervals(logs), strict=True):
        row["loss_mean"] = float(np.mean(row["losses"]))
        row["loss_interval"] = ends and tuple(float(np.exp(end)) for end in ends)
    for row, ends in zip(whole, _intervals([row["accuracies"] for row in whole]), strict=True):
        row["accuracy_mean"] = float(np.mean(row["accuracies"]))
        row["accuracy_interval"] = ends and (max(0.0, ends[0]), min(1.0, ends[1]))
    if whole and whole[0] is rows[0]:
        for row, told, ends in zip(whole[1:], logs[1:], _ratios(logs), strict=True):
            row["ratio_mean"] = float(np.exp(np.mean(told) - np.mean(logs[0])))
            row["ratio_interval"] = ends
    return rows


def _trained(data: StudyData, space: Space, choice: str) -> dict[str, Any]:
    """What was trained of one of the settings; no means yet."""
    label, settings = read_settings(choice)
    wanted = {**data.study.spec.fixed, **settings}
    trials = [trial for trial in data.trials if settings_of(trial) == wanted]
    trials.sort(key=lambda trial: int(trial.params["seed"]))
    ended = [trial for trial in trials if math.isfinite(loss_of(trial))]
    kinds = [trial.failures[-1].kind for trial in trials if trial.state is TrialState.FAILED]
    return {
        "settings": label,
        "changed": settings,
        "trainings": len(space["seed"].choices),
        "diverged": kinds.count(FailureKind.NAN_LOSS),
        "losses": [loss_of(trial) for trial in ended],
        "accuracies": [float(trial.result["validation_accuracy"]) for trial in ended],
        "parameters": ended[0].result.get("num_parameters") if ended else None,
        **{f"{name}_{what}": None for name in MEANS for what in ("mean", "interval")},
    }


def _intervals(rows: Sequence[Sequence[float]]) -> list[tuple[float, float] | None]:
    """Of each row's mean (Student's t), values of all rows varying alike; None: nothing tells."""
    free = sum(len(row) - 1 for row in rows)
    if not free:
        return [None] * len(rows)
    variance = sum(np.var(row) * len(row) for row in rows) / free
    reach = stats.t.ppf(0.975, free) * np.sqrt(variance)
    return [
        (float(np.mean(row) - reach / np.sqrt(len(row))),
         float(np.mean(row) + reach / np.sqrt(len(row))))
        for row in rows
    ]  # fmt: skip


def _ratios(logs: Sequence[NDArray[np.float64]]) -> list[tuple[float, float] | None]:
    """Of each row but the first, how much larger its losses may be than the first one's."""
    if len(logs) < 2 or all(np.ptp(row) == 0 for row in logs):
        return [None] * (len(logs) - 1)
    found = stats.dunnett(*logs[1:], control=logs[0], random_state=0).confidence_interval(0.95)
    ends = zip(np.exp(found.low), np.exp(found.high), strict=True)
    return [(float(low), float(high)) for low, high in ends]
