"""Studies side by side: what each reached, and how sure that is at equal budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config import TrialConfig
from search.ending import loss_of
from search.launch import DEFAULT_OBJECTIVE
from search.results import core_hours, shared_settings
from search.source import StudyData
from trials.trial import BUDGET_STATES, TrialState

Interval = tuple[float, float]
CONDITIONS = ("objective", "data", "data_fingerprint", "time_stride", "epochs", "keep")
Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def compare(studies: Sequence[StudyData]) -> list[dict[str, Any]]:
    """One row of plain JSON values a study, in the order given.

    ``budget`` is the number of finished trials of the smallest study that has some, so that nobody
    wins by having tried more. ``loss_in_budget`` is the best loss of so many trials, the first that
    ended. ``expected_loss`` is the least loss to expect of so many, with the interval that holds it
    in 95 of 100 searches (draws of ``budget`` losses with replacement, in closed form: Dodge et al.
    2019, "Show Your Work", section 3.1). That is of trials that do not learn from each other, as
    of random search: of TPE, whose later trials are better, it flatters the longer search.
    Trials without a result (pruned, failed) count as worse than every other; an end of the interval
    is None where it is one of them, and the mean is of the searches that have a result.

    ``conditions`` are what losses of different studies need in common to be compared (`unlike`).

    ``test_accuracy`` is the logged look at the test people, with a 95 % Wilson interval over its
    sequences; sequences of one person resemble each other, so the truth is wider.
    """
    budget = min((data.finished for data in studies if data.finished), default=0)
    return [_row(data, budget) for data in studies]


def _row(data: StudyData, budget: int) -> dict[str, Any]:
    first = data.ranked[0] if data.ranked else None
    best = data.best
    look = _test_look(data)
    return {
        "study": data.study.name,
        "cell": data.cell,
        "data": shared_settings(data.study).get("data"),
        "finished": data.finished,
        "complete": sum(trial.state is TrialState.COMPLETE for trial in data.trials),
        "core_hours": core_hours(data.study, data.trials),
        "best_number": best.number if best else None,
        "best_loss": first.loss if first else None,
        "validation_accuracy": first.validation_accuracy if first else None,
        "parameters": best.result.get("num_parameters") if best else None,
        "conditions": _conditions(data),
        "budget": budget,
        "loss_in_budget": _loss_in_budget(data, budget),
        **dict(zip(("expected_loss", "expected_interval"), _expected(data, budget), strict=True)),
        "test_accuracy": look.get("test_accuracy"),
        "test_interval": _test_interval(look),
    }


def unlike(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The conditions in which rows of `compare` differ, each with its values in the rows' order."""
    told = {name: [row["conditions"].get(name) for row in rows] for name in CONDITIONS}
    return {name: values for name, values in told.items() if any(v != values[0] for v in values)}


def _conditions(data: StudyData) -> dict[str, Any]:
    """What a loss means: objective, data, how much was trained; None of what was searched."""
    spec = data.study.spec
    shared = {"objective": spec.objective, **shared_settings(data.study)}
    shared["data_fingerprint"] = spec.requirements.get("data_fingerprint")
    if spec.objective == DEFAULT_OBJECTIVE:
        searched = {row["name"] for row in spec.space.get("rows", ())}
        defaults = TrialConfig().to_params()
        shared = {k: v for k, v in defaults.items() if k not in searched} | shared
    return {name: shared.get(name) for name in CONDITIONS}


def _loss_in_budget(data: StudyData, budget: int) -> float | None:
    ended = [t for t in data.trials if t.state in BUDGET_STATES and t.finished_at is not None]
    ended.sort(key=lambda trial: (trial.finished_at, trial.number))
    least = min(map(loss_of, ended[:budget]), default=math.inf)
    return least if math.isfinite(least) else None


def _expected(
    data: StudyData, budget: int
) -> tuple[float | None, tuple[float | None, float | None] | None]:
    """Mean and 95 % interval of the least of ``budget`` losses drawn from the study's."""
    losses = np.sort([loss for loss in map(loss_of, data.trials) if np.isfinite(loss)])
    if not len(losses) or not budget:
        return None, None
    # P(least of the draws > losses[i]) = (1 - (i + 1) / n) ** budget
    left: NDArray[np.float64] = (1 - np.arange(1, len(losses) + 1) / data.finished) ** budget
    share = -np.diff(np.append(1.0, left))
    reached = 1 - left
    low, high = (
        float(losses[place]) if (place := int(np.searchsorted(reached, q))) < len(losses) else None
        for q in (0.025, 0.975)
    )
    return float(losses @ share / share.sum()), (low, high)


def _test_look(data: StudyData) -> Mapping[str, Any]:
    """The look at the test people for the best trial; empty where there was none."""
    best = data.best
    return (data.study.look_at(best.number) if best else None) or {}


def _test_interval(look: Mapping[str, Any]) -> Interval | None:
    share, count = look.get("test_accuracy"), look.get("test_sequences")
    return None if share is None or not count else wilson(share, count)


def wilson(share: float, count: int) -> Interval:
    """95 % interval of a share of ``count`` sequences (Wilson 1927)."""
    middle = share + Z95**2 / (2 * count)
    reach = Z95 * float(np.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2)))
    return (middle - reach) / (1 + Z95**2 / count), (middle + reach) / (1 + Z95**2 / count)
