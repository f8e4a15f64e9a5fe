"""A search's winner trained again and judged on people it never used."""

import dataclasses
import json

import numpy as np
import pytest

from model.data import DataError
from search import objective
from search.final import FOLD, PAST_RANKINGS, check_finished, final_spec, winner
from search.judging import split_for, train_and_judge
from search.launch import JUDGING_OBJECTIVE, OWN_OBJECTIVES
from search.source import StudyData
from search.space import Space
from search.suggest import Suggester
from search.summary import summary
from tests.model_tests.tiny_data import tiny
from tests.search_tests.sample_study import sample_study, sample_trials
from tests.search_tests.test_objective import Context
from trials.child import load_objective
from trials.study import StudyState
from trials.trial import Failure, FailureKind, TrialState

DATA = tiny()
NAMELESS = dataclasses.replace(DATA, person=None)
PARAMS = {"cell": "lstm", "hidden_size": 4, "epochs": 2, "batch_size": 8}
STUDY = sample_study()
SEARCH = StudyData(STUDY, tuple(sample_trials()))
BEST = next(trial for trial in sample_trials() if trial.state is TrialState.COMPLETE)


@pytest.fixture
def _tiny_data(monkeypatch):
    monkeypatch.setattr(objective, "_load", lambda name, time_stride: DATA.every(time_stride))


def test_the_test_people_are_judged_by_all_that_the_others_teach():
    split = split_for(DATA, "test")
    assert split == {"train": (1, 2, 3, 4), "validation": (), "test": (5,)}


@pytest.mark.parametrize("data", [DATA, NAMELESS])
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
    assert result["validation_people"] == ["4"]
    assert "validation_accuracy" not in result
    for _, loss, metrics in context.reports:  # on the way nobody is looked at
        assert loss == metrics["train_loss"]
        assert set(metrics) == {"train_loss", "train_accuracy", "learning_rate"}
    assert context.weights
    json.dumps(result)
    params = {**PARAMS, "judged": "fold 2 of 5", "seed": 3, "settings_of": "quick 4"}
    assert train_and_judge(params)["loss"] == result["loss"]


@pytest.mark.usefixtures("_tiny_data")
def test_a_final_that_diverges_has_no_loss():
    result = train_and_judge({**PARAMS, "learning_rate": 1e30, "gradient_clip": 0})
    assert np.isnan(result["loss"])


def test_a_final_is_a_grid_over_seeds_and_folds():
    spec = final_spec(SEARCH, BEST, seeds=2, folds=3)
    assert (spec.name, spec.max_trials, spec.algorithm) == ("quick-folds", 6, "grid")
    assert spec.objective == JUDGING_OBJECTIVE
    assert load_objective(JUDGING_OBJECTIVE) is train_and_judge
    assert JUDGING_OBJECTIVE in OWN_OBJECTIVES
    space = Space.from_dict(spec.space)
    proposed = Suggester(space, "grid", fixed=spec.fixed).suggest([], spec.max_trials)
    assert {(p.params["judged"], p.params["seed"]) for p in proposed} == {
        (f"fold {fold} of 3", seed)
        for fold in (1, 2, 3)
        for seed in (PAST_RANKINGS, PAST_RANKINGS + 1)
    }
    for proposal in proposed:
        assert {**BEST.params, "patience": 0, "keep": "last"}.items() <= proposal.params.items()
        assert proposal.params["settings_of"] == f"quick {BEST.number}"
    assert final_spec(SEARCH, BEST, seeds=5, folds=None).fixed["judged"] == "test"
    assert final_spec(SEARCH, BEST, seeds=1, folds=3).fixed["seed"] == PAST_RANKINGS


def test_one_training_or_a_foreign_objective_is_no_final():
    with pytest.raises(ValueError, match="at least 2 trainings"):
        final_spec(SEARCH, BEST, seeds=1, folds=None)
    foreign = dataclasses.replace(STUDY, spec=dataclasses.replace(STUDY.spec, objective="mine:own"))
    with pytest.raises(ValueError, match="study quick minimises mine:own"):
        final_spec(StudyData(foreign, ()), BEST, seeds=5, folds=None)


@pytest.mark.parametrize(
    ("state", "runs", "words"),
    [
        (StudyState.ACTIVE, False, "study quick is ACTIVE: carry it on, or end it with"),
        (StudyState.PAUSED, False, "study quick is PAUSED"),
        (StudyState.STOPPING, True, "some of its trials still run: wait"),
        (StudyState.STOPPING, False, None),
        (StudyState.COMPLETE, False, None),
        (StudyState.CANCELLED, False, None),
    ],
)
def test_only_a_finished_search_is_judged(state, runs, words):
    trials = tuple(sample_trials(8, running=int(runs)))
    data = StudyData(dataclasses.replace(STUDY, state=state), trials)
    if words is None:
        check_finished(data)
    else:
        with pytest.raises(ValueError, match=words):
            check_finished(data)


@pytest.mark.mongo
@pytest.mark.parametrize(("data", "owners"), [(DATA, "people (5)"), (NAMELESS, "sequences (60)")])
def test_more_folds_than_people_are_refused(data, owners, database, larnn, monkeypatch):
    monkeypatch.setattr(objective, "_load", lambda name, time_stride: data)
    database.restore_study(
        dataclasses.replace(STUDY, state=StudyState.COMPLETE),
        [dataclasses.replace(sample_trials(1)[0], params=PARAMS)],
    )
    complaint = larnn("final", "quick", "--folds", 61, status=2)
    assert f"--folds is at most the number of {owners}, got 61" in complaint
    assert [study.name for study in database.list_studies()] == ["quick"]


def trained(number, seed, loss, state=TrialState.COMPLETE, **params):
    return dataclasses.replace(
        BEST, number=number, state=state, params={**params, "seed": seed}, loss=loss
    )


def test_settings_that_were_trained_again_count_by_their_mean():
    lucky = [trained(i, i, loss, dropout=0.1) for i, loss in enumerate((0.1, 0.5, 0.6))]
    steady = [trained(3 + i, i, 0.3, dropout=0.2) for i in range(3)]
    failing = [
        trained(6, 0, 0.05, dropout=0.3),
        trained(7, 1, None, TrialState.FAILED, dropout=0.3),
    ]
    diverging = [trained(8, 0, 0.05, dropout=0.4), trained(9, 1, float("nan"), dropout=0.4)]
    data = StudyData(STUDY, (*lucky, *steady, *failing, *diverging))
    assert winner(data).number == 3
    assert [(one.trial.number, one.seeds) for one in data.ranked] == [(3, 3), (0, 3)]
    assert winner(data, 1).number == 1
    with pytest.raises(ValueError, match="study quick has no trial 77"):
        winner(data, 77)


def test_the_winner_of_a_search_is_its_best_trial():
    assert (
        winner(SEARCH)
        == SEARCH.best
        == min(
            (trial for trial in SEARCH.trials if trial.state is TrialState.COMPLETE),
            key=lambda trial: trial.loss,
        )
    )


def test_a_search_without_a_result_has_no_winner():
    with pytest.raises(ValueError, match="study quick has no complete trial yet"):
        winner(StudyData(STUDY, ()))


# -- the summary -----------------------------------------------------------------------------------


def judged(name, people, *, models=((0.0,), (0.0,)), choosers=(), kind="folds"):
    """A finished final of search ``name``.

    Args:
        name: The search.
        people: Correct windows out of a hundred, by person; the folds get them in turns.
        models: By fold, how many windows the model of each seed adds; None: it diverged.
        choosers: Validation people of the search.
        kind: Folds or test.
    """
    count = len(models)
    search = dataclasses.replace(STUDY, spec=dataclasses.replace(STUDY.spec, name=name))
    folds = count if kind == "folds" else None
    spec = final_spec(StudyData(search, ()), BEST, seeds=max(2, len(models[0])), folds=folds)
    trials = []
    for fold, seeds in enumerate(models):
        for seed, extra in enumerate(seeds):
            part = f"fold {fold + 1} of {count}" if folds else "test"
            own = {who: n for place, (who, n) in enumerate(people.items()) if place % count == fold}
            result = {"judged": part, "seed": seed, "validation_people": list(choosers)}
            if extra is not None:
                result |= {
                    "accuracy": sum(n + extra for n in own.values()) / (100 * len(own)),
                    "sequences": 100 * len(own),
                    "people": {who: [int(n + extra), 100] for who, n in own.items()},
                    "num_parameters": 99,
                    "epochs_run": 4,
                }
            end = {"loss": 0.1} if extra is not None else {
                "loss": None, "state": TrialState.FAILED, "failures": (DIVERGED,)
            }  # fmt: skip
            params = {**spec.fixed, "seed": seed, "judged": part}
            trials.append(dataclasses.replace(
                BEST, number=len(trials), params=params, result=result, reports=(), **end
            ))  # fmt: skip
    spec = dataclasses.replace(spec, max_trials=len(trials))
    return StudyData(dataclasses.replace(STUDY, spec=spec), tuple(trials))


DIVERGED = Failure(FailureKind.NAN_LOSS, "the loss is nan", "worker", "host", 1)
PEOPLE = {str(person): 90 - 10 * (person % 3) for person in range(12)}


def test_a_summary_is_right_about_numbers_that_are_known():
    fewer = {person: correct - 20 for person, correct in PEOPLE.items()}
    steady = ((0, 0), (0, 0))
    told = summary([judged("larnn", PEOPLE, models=steady), judged("lstm", fewer, models=steady)])
    larnn = told["studies"]["larnn"]
    assert larnn["folds_accuracy_mean"] == pytest.approx(0.8)
    assert (larnn["folds_people"], larnn["parameters"], larnn["epochs"]) == (12, 99, 4)
    assert (larnn["folds_study"], larnn["folds_diverged"], larnn["folds_failed"]) == (
        "larnn-folds", 0, 0,
    )  # fmt: skip
    low, high = larnn["folds_interval"]
    # standard error of 12 people with accuracies 0.9, 0.8, 0.7 in equal shares: 0.0236
    assert (low, high) == pytest.approx((0.8 - 1.96 * 0.0236, 0.8 + 1.96 * 0.0236), abs=0.01)
    (difference,) = told["differences"]
    assert difference["studies"] == ["larnn", "lstm"]
    assert difference["mean"] == pytest.approx(0.2)
    # each person is 0.2 better: drawing people in pairs leaves no doubt about it
    np.testing.assert_allclose(difference["interval"], (0.2, 0.2), atol=1e-12)


def test_an_interval_holds_the_luck_of_models_too():
    alike = dict.fromkeys(PEOPLE, 80)  # people leave no doubt, models do
    lucky = judged("larnn", alike, models=((-9, 0, 9), (-9, 0, 9)))
    row = summary([lucky])["studies"]["larnn"]
    assert row["folds_accuracy_mean"] == pytest.approx(0.8)
    assert row["folds_accuracies"] == pytest.approx([0.71, 0.8, 0.89])
    # seeds of standard deviation 0.09 in a fold, a mean of 3, of two folds:
    error = 0.09 / np.sqrt(3 * 2)
    assert np.diff(row["folds_interval"]).item() == pytest.approx(2 * 1.96 * error, rel=0.15)
    other = judged("lstm", alike, models=((-9, 0, 9), (-9, 0, 9)))
    (difference,) = summary([lucky, other])["differences"]
    assert difference["mean"] == pytest.approx(0)
    # models of two cells are drawn apart from each other
    width = np.diff(difference["interval"]).item()
    assert width == pytest.approx(2 * 1.96 * error * np.sqrt(2), rel=0.15)


def test_one_seed_a_fold_leaves_the_luck_of_models_to_the_folds():
    alike = dict.fromkeys(PEOPLE, 80)
    lucky = judged("larnn", alike, models=((-9,), (0,), (9,), (9,), (-9,), (0,)))
    row = summary([lucky])["studies"]["larnn"]
    # folds of standard deviation 0.0805, six of them; two people share each of the models
    error = 0.0805 / np.sqrt(6)
    assert np.diff(row["folds_interval"]).item() == pytest.approx(2 * 1.96 * error, rel=0.15)
    (difference,) = summary([lucky, judged("lstm", alike, models=((0, 0),) * 6)])["differences"]
    assert np.diff(difference["interval"]).item() == pytest.approx(2 * 1.96 * error, rel=0.15)
    # one training alone: nothing tells how much was luck
    row = summary([judged("larnn", alike, models=((0,),), kind="test")])["studies"]["larnn"]
    assert (row["test_accuracy_mean"], row["test_interval"]) == (pytest.approx(0.8), None)


@pytest.mark.parametrize(
    ("kind", "people", "groups", "seeds", "of_people", "of_models"),
    [("folds", 12, 4, 2, 0, 3), ("folds", 16, 8, 1, 3, 3), ("test", 9, 1, 5, 4, 1)],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    monkeypatch, kind, people, groups, seeds, of_people, of_models
):
    monkeypatch.setattr("search.summary.RESAMPLES", 1000)
    draw, held = np.random.default_rng(0), 0
    for _ in range(200):
        first = draw.normal(80, 6, people)
        second = first + draw.normal(0, of_people, people)  # cells suit people differently
        models = draw.normal(0, of_models, (2, groups, seeds))
        finals = [
            judged(name, dict(zip(map(str, range(people)), correct, strict=True)),
                   models=own, kind=kind)
            for name, correct, own in zip("ab", (first, second), models, strict=True)
        ]  # fmt: skip
        low, high = summary(finals)["differences"][0]["interval"]
        held += low <= 0 <= high
    assert 0.92 < held / 200 < 0.99


def test_people_who_chose_the_settings_are_also_left_out():
    people = {**dict.fromkeys(map(str, range(10)), 70), "10": 100, "11": 100}
    told = summary([judged("larnn", people, choosers=("10", "11")), judged("lstm", people)])
    larnn = told["studies"]["larnn"]
    assert (larnn["folds_people"], larnn["others_people"]) == (12, 10)
    assert larnn["folds_accuracy_mean"] == pytest.approx(0.75)
    assert larnn["others_accuracy_mean"] == pytest.approx(0.7)
    assert larnn["others_interval"] == pytest.approx((0.7, 0.7))
    both = [judged(name, people, choosers=("10",)) for name in ("larnn", "lstm")]
    rows = summary(both)["differences"]
    assert [(row["judged"], row["people"]) for row in rows] == [("folds", 12), ("others", 11)]


def test_trainings_without_a_result_are_counted_and_not_averaged():
    told = summary([judged("larnn", PEOPLE, models=((0, None, 0),), kind="test")])
    row = told["studies"]["larnn"]
    assert (row["test_trainings"], row["test_diverged"], row["test_failed"]) == (3, 1, 0)
    assert len(row["test_accuracies"]) == 2
    assert (row["test_ended"], row["test_interval"]) == (2, None)  # what is left flatters it
    row = summary([judged("larnn", PEOPLE, models=((None, None),), kind="test")])["studies"][
        "larnn"
    ]
    assert row["test_diverged"] == 2
    assert "test_accuracy_mean" not in row


def test_two_finals_of_one_cell_stand_side_by_side_and_one_final_twice_is_refused():
    told = summary([judged("larnn", PEOPLE), judged("larnn-no-norm", PEOPLE)])
    assert list(told["studies"]) == ["larnn", "larnn-no-norm"]
    assert told["differences"][0]["studies"] == ["larnn", "larnn-no-norm"]
    with pytest.raises(ValueError, match="one folds of each search, got larnn-folds and larnn-fol"):
        summary([judged("larnn", PEOPLE), judged("larnn", PEOPLE)])
    # of the ranking of a search is of the search
    with pytest.raises(ValueError, match="one folds of each search"):
        summary([judged("larnn", PEOPLE), judged("larnn-rank", PEOPLE)])


def test_finals_of_other_settings_are_not_one_row():
    folds, test = (
        judged("larnn", PEOPLE),
        judged("larnn-rank", PEOPLE, models=((0, 0),), kind="test"),
    )
    assert summary([folds, test])["studies"]["larnn"]["test_people"] == 12
    fixed = {**test.study.spec.fixed, "num_heads": 7, "settings_of": "larnn 12"}
    spec = dataclasses.replace(test.study.spec, fixed=fixed)
    other = StudyData(dataclasses.replace(test.study, spec=spec), test.trials)
    with pytest.raises(ValueError, match="the same settings of each search, got those of larnn "):
        summary([folds, other])


def test_people_of_other_data_are_others_whatever_their_names():
    finals = []
    for name, data in (("larnn", "of har"), ("lstm", "of har"), ("gru", "of uci-har")):
        final = judged(name, PEOPLE)
        trials = tuple(
            dataclasses.replace(trial, result={**trial.result, "data_fingerprint": data})
            for trial in final.trials
        )
        finals.append(StudyData(final.study, trials))
    differences = summary(finals)["differences"]
    assert [(row["studies"], row["people"]) for row in differences] == [
        (["larnn", "lstm"], 12),
        (["larnn", "gru"], 0),
        (["lstm", "gru"], 0),
    ]


def test_cells_that_judged_different_people_are_not_compared():
    told = summary([judged("larnn", {"1": 90, "2": 90}), judged("lstm", {"3": 30, "4": 30})])
    assert told["differences"] == [
        {"judged": "folds", "studies": ["larnn", "lstm"], "people": 0, "mean": None,
         "interval": None}
    ]  # fmt: skip


def test_a_search_adds_its_budget_to_its_row():
    search = StudyData(STUDY, tuple(sample_trials()))
    told = summary([search, judged("quick", PEOPLE)])["studies"]["quick"]
    assert (told["cell"], told["trials"]) == ("larnn", 60)
    assert told["core_hours"] > 0
    assert told["folds_study"] == "quick-folds"


def test_where_nobody_is_named_there_is_a_mean_and_no_interval():
    final = judged("larnn", {"1": 90}, models=((0, 2),), kind="test")
    for trial in final.trials:
        del trial.result["people"]
    row = summary([final])["studies"]["larnn"]
    assert row["test_accuracy_mean"] == pytest.approx(0.91)
    assert row["test_interval"] is None
