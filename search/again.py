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
from search.final import RANK, search_name
from search.launch import DEFAULT_OBJECTIVE
from search.parameter import Parameter
from search.ranking import fresh_seeds, settings_of
from search.source import StudyData
from search.space import Space, parse_assignment
from trials.study import StudySpec
from trials.trial import Trial

BASE = "as chosen"


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
    return _spec(data, f"{search_name(data.study.name)}{RANK}", candidates, seeds)


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
    return _spec(data, f"{search_name(data.study.name)}-ablation", candidates, seeds)


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
    data: StudyData, name: str, candidates: Mapping[str, Mapping[str, Any]], seeds: int
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
        Parameter("seed", "choice", choices=fresh_seeds(data.trials, seeds)),
    )
    return StudySpec(
        name=name,
        objective=DEFAULT_OBJECTIVE,
        space=Space("again", rows, derive=TOGETHER).to_dict(),
        fixed=fixed,
        algorithm="grid",
        max_trials=len(choices) * seeds,
        threads=study.spec.threads,
        requirements=study.spec.requirements,
    )


def comparison(data: StudyData) -> list[dict[str, Any]]:
    """One row of plain JSON values for each of the settings, in the order in which they were given.

    ``losses`` and ``accuracies`` are of the validation people, by seed; their means come with 95 %
    intervals over seeds (Student's t), ``difference`` likewise: this row's loss less the first
    one's, seed by seed. The people are the same in all: how other people would do is not in it.
    """
    space = Space.from_dict(data.study.spec.space)
    rows: list[dict[str, Any]] = []
    first: Mapping[int, float] = {}
    for choice in space[SETTINGS].choices:
        label, settings = read_settings(str(choice))
        wanted = {**data.study.spec.fixed, **settings}
        trials = [trial for trial in data.trials
                  if math.isfinite(loss_of(trial)) and settings_of(trial) == wanted]  # fmt: skip
        trials.sort(key=lambda trial: int(trial.params["seed"]))
        losses = {int(trial.params["seed"]): float(trial.loss or 0.0) for trial in trials}
        first = first if rows else losses
        paired = [loss - first[seed] for seed, loss in losses.items() if seed in first]
        accuracies = [float(trial.result["validation_accuracy"]) for trial in trials]
        rows.append(
            {
                "settings": label,
                "changed": settings,
                "trainings": len(space["seed"].choices),
                "losses": list(losses.values()),
                "accuracies": accuracies,
                **_mean("loss", list(losses.values()), low=0.0),
                **_mean("accuracy", accuracies, low=0.0, high=1.0),
                **_mean("difference", paired if rows else []),
                "parameters": trials[0].result.get("num_parameters") if trials else None,
            }
        )
    return rows


def _mean(
    name: str, values: Sequence[float], *, low: float = -math.inf, high: float = math.inf
) -> dict[str, Any]:
    """Mean and, of at least two values, its 95 % interval, cut to what is possible."""
    told: NDArray[np.float64] = np.array(values)
    if not len(told):
        return {f"{name}_mean": None, f"{name}_interval": None}
    mean, interval = float(told.mean()), None
    if len(told) > 1:
        reach = stats.t.ppf(0.975, len(told) - 1) * told.std(ddof=1) / np.sqrt(len(told))
        interval = (max(low, mean - float(reach)), min(high, mean + float(reach)))
    return {f"{name}_mean": mean, f"{name}_interval": interval}
