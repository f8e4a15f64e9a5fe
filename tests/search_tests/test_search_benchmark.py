"""The benchmark of the search measures what it says."""

import dataclasses
import itertools
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from benchmarks.search import problems, record
from benchmarks.search.contenders import CONTENDERS, Simulation
from benchmarks.search.tables import best_after
from trials.trial import Failure, FailureKind, Report, Trial, TrialState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HARTMANN_MINIMUM = (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)


def test_functions_have_their_known_minima():
    assert problems.branin({"x": np.pi, "y": 2.275}) == pytest.approx(0.397887, abs=1e-5)
    best = {f"x{i}": value for i, value in enumerate(HARTMANN_MINIMUM)}
    assert problems.hartmann6(best) == pytest.approx(-3.32237, abs=1e-4)
    assert problems.tree({"x1": 0, "x2": 0, "x4": 0.0, "r8": 0.0}) == pytest.approx(0.1)
    assert problems.tree({"x1": 1, "x3": 1, "x7": 0.5, "r9": 0.1}) == pytest.approx(0.75)


@pytest.mark.parametrize("contender", ["random", "fmin", "optuna", "ours-1", "ours-8"])
def test_each_contender_spends_its_budget_and_never_gets_worse(contender):
    course = CONTENDERS[contender](problems.load("tree"), 1, 24)
    assert [point.trials for point in course] == list(range(1, 25))
    assert [point.epochs for point in course] == list(range(1, 25))
    assert all(after.best <= before.best for before, after in itertools.pairwise(course))


def test_all_start_with_the_same_random_draws():
    for name in ("fmin", "ours-1"):
        course = CONTENDERS[name](problems.load("branin"), 5, 18)
        assert course == CONTENDERS["random"](problems.load("branin"), 5, 18)


def test_a_pruned_search_counts_every_epoch_and_tries_more_trials():
    falling = dataclasses.replace(
        problems.load("branin"),
        curve=lambda params: [problems.branin(params) + 9 - epoch for epoch in range(9)],
        epochs=9,
    )
    course = Simulation(falling, 0, 20, workers=8, pruner="asha").run()
    assert 150 < course[-1].epochs < 200  # others still ran when the budget was used up
    assert course[-1].trials > 20  # as many as could have been trained to their ends
    assert course[-1].best < 20


def test_surrogates_foretell_trainings_that_they_were_not_fitted_to():
    data = "uea:JapaneseVowels"
    made = problems.Surrogate(data)
    trees = made.regressor().fit(made.features[::2], made.targets[::2])
    losses = slice(0, record.EPOCHS)
    foretold = trees.predict(made.features[1::2])[:, losses].min(axis=1)
    recorded = made.targets[1::2, losses].min(axis=1)
    assert np.corrcoef(foretold, recorded)[0, 1] > 0.85
    problem = problems.load(data)
    assert len(problem.curve(problem.space.example())) == record.EPOCHS
    assert problem.seconds(problem.space.example()) > 0


def test_a_diverged_training_is_recorded_up_to_its_end():
    params = dict.fromkeys(record.SETTINGS, 0.5)
    reports = tuple(Report(step, 1.0 / step, seconds=2.0 * step) for step in (1, 2))
    failures = (Failure(FailureKind.NAN_LOSS, "m", "w", "h", 1),)
    trial = Trial("s", 3, TrialState.FAILED, params, 0, NOW, reports=reports, failures=failures)
    ((data, number, seconds, *values),) = record.rows("har", [trial])
    assert (data, number, seconds) == ("har", 3, "4.000")
    assert values[len(params) :] == ["1", "0.5", *[""] * (record.EPOCHS - 2)]


def test_budgets_are_read_off_the_courses():
    rows = [("p", "c", 0, 3, 3, 9.0), ("p", "c", 0, 7, 5, 2.0), ("p", "c", 1, 1, 1, 4.0)]
    frame = pd.DataFrame(rows, columns=["problem", "contender", "seed", "trials", "epochs", "best"])
    assert best_after(frame, 5)["p"]["c"].tolist() == [9.0, 4.0]
    assert best_after(frame, 5, by="epochs")["p"]["c"].tolist() == [2.0, 4.0]
