"""After a search: its winner trained again, judged on people it never used, and summed up.

A final is a study of its own, a grid over seeds or folds with all else fixed, so that the queue
carries it out like any other: on all workers, resumed after a stop, exported with its trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.launch import DEFAULT_OBJECTIVE, JUDGING_OBJECTIVE
from search.parameter import Parameter
from search.results import best, duration_s
from search.source import StudyData
from search.space import Space
from trials.store import TrialStore
from trials.study import Study, StudySpec
from trials.trial import Trial, TrialState

TEST = "test"
FOLD = "fold {number} of {folds}"
RESAMPLES = 10_000
Interval = tuple[float, float]


def final_spec(
    study: Study, trial: Trial, *, seeds: int, folds: int | None, max_retries: int = 2
) -> StudySpec:
    """The study that judges a trial's settings.

    Args:
        study: The search.
        trial: Its winner.
        seeds: How many trainings, with seeds 0, 1, ...; with ``folds``, of each fold.
        folds: Cross-validate over all people in that many folds; None: train on training and
            validation people, judge on the test people.
        max_retries: As of `StudySpec`.

    Raises:
        ValueError: If the search had another objective, or there is only one training to do.
    """
    if study.spec.objective != DEFAULT_OBJECTIVE:
        raise ValueError(
            f"a final trains the LARNN objective, study {study.name} minimises "
            f"{study.spec.objective}"
        )
    # Nobody validates in a final: nothing could tell when to stop early.
    fixed = {name: value for name, value in trial.params.items() if name != "seed"}
    fixed |= {"patience": 0}
    rows = []
    if folds is None:
        fixed["judged"] = TEST
    else:
        names = tuple(FOLD.format(number=i + 1, folds=folds) for i in range(folds))
        rows.append(Parameter("judged", "choice", choices=names))
    if seeds > 1:
        rows.append(Parameter("seed", "choice", choices=tuple(range(seeds))))
    else:
        fixed["seed"] = 0
    if not rows:
        raise ValueError("a final needs at least 2 trainings: ask for more --seeds, or --folds")
    return StudySpec(
        name=f"{study.name}-{'test' if folds is None else 'folds'}",
        objective=JUDGING_OBJECTIVE,
        space=Space("final", tuple(rows)).to_dict(),
        fixed=fixed,
        algorithm="grid",
        max_trials=seeds * (folds or 1),
        threads=study.spec.threads,
        max_retries=max_retries,
        requirements=study.spec.requirements,
    )


def log_looks(store: TrialStore, name: str) -> None:
    """Log each COMPLETE trial of a final as a look at the test people, once."""
    logged = {look["number"] for look in store.get_study(name).test_looks}
    for trial in store.list_trials(name, with_reports=False):
        if trial.state is TrialState.COMPLETE and trial.number not in logged:
            shown = {
                "test_accuracy": trial.result["accuracy"],
                "test_sequences": trial.result["sequences"],
                "judged": trial.result["judged"],
                "seed": trial.result["seed"],
            }
            store.record_test_look(name, {"number": trial.number, **shown})


def looks(studies: Sequence[StudyData]) -> list[dict[str, Any]]:
    """Every logged look at test people, the earliest first."""
    rows = [
        {
            "at": look.get("at"),
            "study": data.study.name,
            "number": look["number"],
            "judged": look.get("judged", TEST),
            "seed": look.get("seed"),
            "sequences": look.get("test_sequences"),
            "accuracy": look.get("test_accuracy"),
        }
        for data in studies
        for look in data.study.test_looks
    ]
    return sorted(rows, key=lambda row: str(row["at"]))


def summary(studies: Sequence[StudyData]) -> dict[str, Any]:
    """What searches and finals say of each cell, and paired differences between cells.

    Returns:
        ``{"cells": {cell: {...}}, "differences": [...]}``. Of a search ``trials``, ``hours``,
        ``validation_accuracy``; of a final ``parameters``, ``epochs``, ``settings``, and with the
        prefix ``test_`` or ``folds_``: ``accuracy_mean``, ``accuracies`` (of each training),
        ``interval`` (95 %, bootstrap over people), ``people``, ``hours``. A difference is of the
        first cell's accuracy over the second's, on the same people, with the same kind of interval.
    """
    cells: dict[str, dict[str, Any]] = {}
    counts: dict[str, dict[str, Mapping[str, NDArray[np.int64]]]] = {}
    for data in studies:
        winner = data.best
        if winner is None:
            continue
        cell = str(winner.params.get("cell", "larnn"))
        row = cells.setdefault(cell, {})
        if data.study.spec.objective != JUDGING_OBJECTIVE:
            row |= {
                "search": data.study.name,
                "trials": len(data.trials),
                "search_hours": _hours(data),
                "validation_accuracy": winner.result.get("validation_accuracy"),
            }
            continue
        kind = "test" if data.study.spec.fixed.get("judged") == TEST else "folds"
        counts.setdefault(kind, {})[cell] = people = _by_person(data.trials)
        row |= {
            "parameters": winner.result["num_parameters"],
            "epochs": winner.result["epochs_run"],
            "settings": dict(data.study.spec.fixed),
        }
        row |= {f"{kind}_{name}": value for name, value in _judged(data, people).items()}
    differences = [
        {"judged": kind, **_difference(*pair, by_cell[pair[0]], by_cell[pair[1]])}
        for kind, by_cell in counts.items()
        for pair in combinations(by_cell, 2)
    ]
    return {"cells": cells, "differences": differences}


def _hours(data: StudyData) -> float:
    return sum(duration_s(trial) or 0.0 for trial in data.trials) / 3600


def _by_person(trials: Sequence[Trial]) -> dict[str, NDArray[np.int64]]:
    """Correct and all sequences of each judged person, all trainings together."""
    people: dict[str, NDArray[np.int64]] = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE:
            for person, counted in trial.result.get("people", {}).items():
                people[person] = people.get(person, np.zeros(2, np.int64)) + np.array(counted)
    return people


def _judged(data: StudyData, people: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    complete = [trial for trial in data.trials if trial.state is TrialState.COMPLETE]
    accuracies = [trial.result["accuracy"] for trial in complete]
    sequences = [trial.result["sequences"] for trial in complete]
    return {
        "study": data.study.name,
        "accuracy_mean": float(np.average(accuracies, weights=sequences)),
        "accuracies": accuracies,
        "interval": _interval(_shares(np.array(list(people.values())))) if people else None,
        "people": len(people),
        "hours": _hours(data),
    }


def _difference(
    first: str,
    second: str,
    a: Mapping[str, NDArray[np.int64]],
    b: Mapping[str, NDArray[np.int64]],
) -> dict[str, Any]:
    """How much more often the first is right, people drawn together for both."""
    shared = sorted(set(a) & set(b))
    told: dict[str, Any] = {"cells": [first, second], "people": len(shared)}
    if not shared:
        return {**told, "mean": None, "interval": None}
    ours, theirs = (np.array([side[person] for person in shared]) for side in (a, b))
    mean = _share(ours) - _share(theirs)
    return {**told, "mean": mean, "interval": _interval(_shares(ours) - _shares(theirs))}


def _share(counts: NDArray[np.int64]) -> float:
    correct, sequences = counts.sum(axis=0)
    return float(correct / sequences)


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Accuracies of `RESAMPLES` draws of people, with replacement; the same draws at every call."""
    drawn = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    correct, sequences = np.moveaxis(counts[drawn].sum(axis=1), 1, 0)
    shares: NDArray[np.float64] = correct / sequences
    return shares


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def winner(store: TrialStore, study: str, number: int | None) -> Trial:
    """The trial that a final is about: the given one, or the best.

    Raises:
        ValueError: If no trial is complete.
    """
    if number is not None:
        return store.get_trial(study, number)
    ranked = best(store.list_trials(study, with_reports=False), 1)
    if not ranked:
        raise ValueError(f"study {study} has no complete trial yet: nothing to train again")
    return ranked[0]
