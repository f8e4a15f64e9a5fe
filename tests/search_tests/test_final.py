"""A search's winner trained again and judged on people it never used."""

import dataclasses
import json

import numpy as np
import pytest

from model.data import DataError
from search import objective
from search.final import FOLD, final_spec, log_looks, looks, summary, winner
from search.judging import split_for, train_and_judge
from search.launch import JUDGING_OBJECTIVE, OWN_OBJECTIVES
from search.source import StudyData, from_store
from search.space import Space
from search.suggest import Suggester
from tests.model_tests.tiny_data import tiny
from tests.search_tests.sample_study import sample_study, sample_trials
from tests.search_tests.test_objective import Context
from trials.child import load_objective
from trials.memory_store import MemoryStore
from trials.trial import Outcome, TrialState

DATA = tiny()
PARAMS = {"cell": "lstm", "hidden_size": 4, "epochs": 2, "batch_size": 8}
STUDY = sample_study()
BEST = next(trial for trial in sample_trials() if trial.state is TrialState.COMPLETE)


@pytest.fixture
def _tiny_data(monkeypatch):
    monkeypatch.setattr(objective, "_load", lambda name, time_stride: DATA.every(time_stride))


def test_the_test_people_are_judged_by_all_that_the_others_teach():
    split = split_for(DATA, "test")
    assert split == {"train": (1, 2, 3, 4), "validation": (), "test": (5,)}


@pytest.mark.parametrize("data", [DATA, dataclasses.replace(DATA, person=None)])
def test_folds_judge_everybody_once_and_train_on_all_others(data):
    folds = [split_for(data, FOLD.format(number=i, folds=5)) for i in range(1, 6)]
    everybody = set(range(60)) if data.person is None else {1, 2, 3, 4, 5}
    assert sorted(who for fold in folds for who in fold["test"]) == sorted(everybody)
    for fold in folds:
        assert set(fold["train"]) == everybody - set(fold["test"])
        assert fold["validation"] == ()
    assert folds == [split_for(data, FOLD.format(number=i, folds=5)) for i in range(1, 6)]


@pytest.mark.parametrize("judged", ["validation", "fold 0 of 3", "fold 4 of 3", "fold 1 of 6", ""])
def test_other_people_cannot_be_judged(judged):
    with pytest.raises(DataError, match="judged is 'test', or 'fold 3 of 10' with at most as many"):
        split_for(DATA, judged)


@pytest.mark.usefixtures("_tiny_data")
def test_the_last_epoch_is_judged_once_and_person_by_person():
    context = Context()
    result = train_and_judge({**PARAMS, "judged": "fold 2 of 5", "seed": 3}, context)
    ((person, (correct, sequences)),) = result["people"].items()
    assert int(person) in split_for(DATA, "fold 2 of 5")["test"]
    assert sequences == result["sequences"] == 12
    assert correct / sequences == result["accuracy"]
    assert (result["epochs_run"], result["best_epoch"], result["seed"]) == (2, 2, 3)
    assert result["data_fingerprint"] == DATA.fingerprint  # by which workers know the data
    assert "validation_accuracy" not in result
    for _, loss, metrics in context.reports:  # on the way nobody is looked at
        assert loss == metrics["train_loss"]
        assert set(metrics) == {"train_loss", "train_accuracy", "learning_rate"}
    assert context.weights
    json.dumps(result)
    assert train_and_judge({**PARAMS, "judged": "fold 2 of 5", "seed": 3})["loss"] == result["loss"]


@pytest.mark.usefixtures("_tiny_data")
def test_a_final_that_diverges_has_no_loss():
    result = train_and_judge({**PARAMS, "learning_rate": 1e30, "gradient_clip": 0})
    assert np.isnan(result["loss"])


def test_a_final_is_a_grid_over_seeds_and_folds():
    spec = final_spec(STUDY, BEST, seeds=2, folds=3)
    assert (spec.name, spec.max_trials, spec.algorithm) == ("quick-folds", 6, "grid")
    assert spec.objective == JUDGING_OBJECTIVE
    assert load_objective(JUDGING_OBJECTIVE) is train_and_judge
    assert JUDGING_OBJECTIVE in OWN_OBJECTIVES
    space = Space.from_dict(spec.space)
    proposed = Suggester(space, "grid", fixed=spec.fixed).suggest([], spec.max_trials)
    assert {(p.params["judged"], p.params["seed"]) for p in proposed} == {
        (f"fold {fold} of 3", seed) for fold in (1, 2, 3) for seed in (0, 1)
    }
    for proposal in proposed:
        assert {**BEST.params, "patience": 0}.items() <= proposal.params.items()
    assert final_spec(STUDY, BEST, seeds=5, folds=None).fixed["judged"] == "test"
    assert final_spec(STUDY, BEST, seeds=1, folds=3).fixed["seed"] == 0


def test_one_training_or_a_foreign_objective_is_no_final():
    with pytest.raises(ValueError, match="at least 2 trainings"):
        final_spec(STUDY, BEST, seeds=1, folds=None)
    foreign = dataclasses.replace(STUDY, spec=dataclasses.replace(STUDY.spec, objective="mine:own"))
    with pytest.raises(ValueError, match="study quick minimises mine:own"):
        final_spec(foreign, BEST, seeds=5, folds=None)


def judged(cell, people, *, folds=3, seeds=1):
    """A finished final in which ``people`` maps each person to correct windows out of ten."""
    spec = dataclasses.replace(
        final_spec(STUDY, BEST, seeds=seeds, folds=folds), name=f"{cell}-folds"
    )
    trials = []
    for number, (person, correct) in enumerate(people.items()):
        result = {
            "accuracy": correct / 10,
            "sequences": 10,
            "people": {person: [correct, 10]},
            "num_parameters": 99,
            "epochs_run": 4,
        }
        params = {**spec.fixed, "cell": cell, "seed": 0, "judged": "fold 1 of 3"}
        trials.append(
            dataclasses.replace(
                BEST, number=number, params=params, loss=1 - correct / 10, result=result
            )
        )
    return StudyData(dataclasses.replace(STUDY, spec=spec), tuple(trials))


PEOPLE = {str(person): 9 - person % 3 for person in range(12)}


def test_a_summary_is_right_about_numbers_that_are_known():
    fewer = {person: correct - 2 for person, correct in PEOPLE.items()}
    told = summary([judged("larnn", PEOPLE), judged("lstm", fewer)])
    larnn = told["cells"]["larnn"]
    assert larnn["folds_accuracy_mean"] == pytest.approx(0.8)
    assert (larnn["folds_people"], larnn["parameters"], larnn["epochs"]) == (12, 99, 4)
    low, high = larnn["folds_interval"]
    # standard error of 12 people with accuracies 0.9, 0.8, 0.7 in equal shares: 0.0236
    assert (low, high) == pytest.approx((0.8 - 1.96 * 0.0236, 0.8 + 1.96 * 0.0236), abs=0.01)
    (difference,) = told["differences"]
    assert difference["cells"] == ["larnn", "lstm"]
    assert difference["mean"] == pytest.approx(0.2)
    # each person is 0.2 better: drawing people in pairs leaves no doubt about it
    np.testing.assert_allclose(difference["interval"], (0.2, 0.2), atol=1e-12)


def test_cells_that_judged_different_people_are_not_compared():
    told = summary([judged("larnn", {"1": 9}), judged("lstm", {"2": 3})])
    assert told["differences"] == [
        {"judged": "folds", "cells": ["larnn", "lstm"], "people": 0, "mean": None, "interval": None}
    ]


def test_a_search_adds_its_budget_to_its_cells_row():
    search = StudyData(STUDY, tuple(sample_trials()))
    told = summary([search, judged("larnn", PEOPLE)])["cells"]["larnn"]
    assert (told["search"], told["trials"]) == ("quick", 60)
    assert told["search_hours"] > 0
    assert told["folds_study"] == "larnn-folds"


def test_each_training_is_logged_as_one_look_however_often_one_asks():
    store = MemoryStore()
    spec = final_spec(STUDY, BEST, seeds=2, folds=None)
    store.create_study(spec)
    proposed = Suggester(Space.from_dict(spec.space), "grid", fixed=spec.fixed).suggest([], 2)
    store.add_trials(spec.name, None, 0, proposed)
    for accuracy in (0.9, 0.8):
        trial = store.reserve(spec.name, "worker", "host", f"token {accuracy}")
        seed = trial.params["seed"]
        result = {"accuracy": accuracy, "sequences": 7, "judged": "test", "seed": seed}
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, 0.1, result))
        log_looks(store, spec.name)
        log_looks(store, spec.name)
    rows = looks([from_store(store, spec.name)])
    assert [(row["seed"], row["accuracy"], row["sequences"]) for row in rows] == [
        (0, 0.9, 7),
        (1, 0.8, 7),
    ]


def test_a_search_without_a_result_has_no_winner():
    store = MemoryStore()
    store.create_study(STUDY.spec)
    with pytest.raises(ValueError, match="study quick has no complete trial yet"):
        winner(store, "quick", None)
