"""Settings trained again: the ranking of a search's best, ablations of its winner."""

import dataclasses
import re
from contextlib import nullcontext

import pytest

from model.config import TrialConfig
from search.again import ablation_spec, changed, comparison, ranking_spec
from search.commands import finals
from search.compare import compare
from search.derivation import DERIVATIONS, TOGETHER
from search.final import final_spec, winner
from search.launch import DEFAULT_OBJECTIVE
from search.source import StudyData, from_store
from search.space import Space
from search.suggest import Suggester
from search.summary import summary
from tests.search_tests.sample_study import sample_study, sample_trials
from trials.memory_store import MemoryStore
from trials.store import NewTrial
from trials.study import StudyState
from trials.transfer import dump
from trials.trial import Failure, FailureKind, Outcome, TrialState

SEARCH = StudyData(sample_study(), tuple(sample_trials()))
LARNN = {"window_size": 8, "num_heads": 2, "head_size": 8, "norm": "none", "dropout": 0.1}


def carried_out(spec, losses):
    """The study with its whole grid tried; ``losses`` by params."""
    store = MemoryStore()
    store.create_study(spec)
    space = Space.from_dict(spec.space)
    proposed = Suggester(space, "grid", fixed=spec.fixed).suggest([], spec.max_trials)
    store.add_trials(spec.name, None, 0, proposed)
    for number in range(spec.max_trials):
        trial = store.reserve(spec.name, "worker", "host", f"token {number}")
        loss = losses(trial.params)
        result = {"validation_accuracy": 1 - loss, "num_parameters": 9}
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, loss, result))
    return from_store(store, spec.name)


def base(params):
    return dataclasses.replace(SEARCH.best, params=params)


def test_the_best_settings_are_trained_again_as_they_were():
    spec = ranking_spec(SEARCH, count=3, seeds=2)
    assert (spec.name, spec.objective, spec.max_trials) == ("quick-rank", DEFAULT_OBJECTIVE, 6)
    assert spec.fixed["data"] == "har"
    found = carried_out(spec, lambda params: params["dropout"])
    wanted = [one.trial.params for one in SEARCH.ranked[:3]]
    assert [trial.params for trial in found.trials] == [
        {**params, "seed": seed} for params in wanted for seed in (0, 1)
    ]
    # the mean decides, not what the search had found
    steadiest = min(wanted, key=lambda params: params["dropout"])
    assert {**steadiest, "seed": 0} == winner(found).params
    final = final_spec(found, winner(found), seeds=5, folds=None)
    assert final.name == "quick-test"
    assert steadiest.items() <= {**final.fixed, "seed": 0}.items()
    rows = summary([SEARCH, found])["again"]["quick-rank"]
    assert [row["settings"] for row in rows] == [
        f"trial {one.trial.number}" for one in SEARCH.ranked[:3]
    ]


def test_one_result_is_no_choice():
    only = StudyData(SEARCH.study, (SEARCH.best,))
    with pytest.raises(ValueError, match="has 1 complete trials of different settings: at least 2"):
        ranking_spec(only, count=5, seeds=3)


def test_a_foreign_objective_is_not_trained_again():
    spec = dataclasses.replace(SEARCH.study.spec, objective="mine:own")
    foreign = dataclasses.replace(SEARCH, study=dataclasses.replace(SEARCH.study, spec=spec))
    with pytest.raises(ValueError, match="study quick minimises mine:own"):
        ranking_spec(foreign, count=2, seeds=2)


def test_an_ablation_changes_one_thing_at_a_time():
    said = []
    changes = ["window_size=1", "norm=none", "cell=lstm", "cell=bn-lstm", "augmentation=jitter"]
    spec = ablation_spec(SEARCH, base(LARNN), changes, seeds=2, say=said.append)
    assert said == ["norm=none is left out: these settings are trained already"]
    found = carried_out(spec, lambda params: 0.5 + params["seed"] / 10 - params["dropout"])
    trained = [{**trial.params} for trial in found.trials if trial.params["seed"] == 0]
    plain = {"dropout": 0.1, "hidden_size": 16, "seed": 0}
    assert trained == [
        {**LARNN, "seed": 0},
        {**LARNN, "window_size": 1, "seed": 0},
        {**plain, "cell": "lstm"},
        {**plain, "cell": "bn-lstm"},
        {**LARNN, "augmentation": "jitter", "seed": 0},
    ]
    for params in trained:
        TrialConfig.from_params(params)
        folded = DERIVATIONS[TOGETHER].backward(dict(params), found.space)
        assert DERIVATIONS[TOGETHER].forward(folded) == {**params}


def test_a_comparison_is_right_about_numbers_that_are_known():
    spec = ablation_spec(SEARCH, base(LARNN), ["norm=layer"], seeds=3, say=print)
    worse = {"none": (0.1, 0.2, 0.3), "layer": (0.2, 0.4, float("nan"))}
    found = carried_out(spec, lambda params: worse[params["norm"]][params["seed"]])
    first, second = comparison(found)
    assert (first["settings"], second["settings"]) == ("as chosen", "norm=layer")
    assert first["loss_mean"] == pytest.approx(0.2)
    # Student's t with 2 degrees of freedom: 4.3027 standard errors of 0.1 / sqrt(3), but no less
    # than 0
    assert first["loss_interval"] == pytest.approx((0, 0.2 + 0.2484), abs=1e-4)
    assert (first["difference_mean"], first["difference_interval"]) == (None, None)
    assert (len(second["losses"]), second["trainings"]) == (2, 3)  # one diverged
    assert second["difference_mean"] == pytest.approx(0.15)
    assert second["difference_interval"] == pytest.approx((0.15 - 0.6353, 0.15 + 0.6353), abs=1e-4)
    assert second["accuracy_mean"] == pytest.approx(0.7)
    assert second["accuracy_interval"][1] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("window_size", "name=value"),
        ("window_size=0", "window_size must be at least 1"),
        ("windowsize=1", "unknown parameter 'windowsize'"),
        ("data=uci-har", "keeps the data of its search, got data=uci-har"),
    ],
)
def test_a_change_that_breaks_a_rule_is_refused(change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        changed(LARNN, change)


def test_a_change_must_change_something():
    with pytest.raises(ValueError, match="needs a --change that changes something"):
        ablation_spec(SEARCH, base(LARNN), ["norm=none"], seeds=2, say=print)


@pytest.fixture
def ended(larnn, tmp_path, monkeypatch):
    """Runs a command on a finished search; trainings come to an end where ``good`` says so."""
    why = Failure(FailureKind.OUT_OF_MEMORY, "used 3.1 GB of 3 GB", "worker", "host", 1)
    search = tmp_path / "quick.jsonl"
    over = dataclasses.replace(SEARCH.study, state=StudyState.COMPLETE)
    search.write_text("".join(dump(over, SEARCH.trials)))
    monkeypatch.setattr(finals, "opened", lambda mongo: nullcontext(MemoryStore()))
    monkeypatch.setattr(finals, "_check_people", lambda *_: None)

    def run(command, good, status):
        def carry_out(store, study, folder, **_):
            name = study.name
            for number in range(study.spec.max_trials):
                params = {**study.spec.fixed, "seed": number}
                store.add_trials(name, None, number, [NewTrial(params, number)])
                trial = store.reserve(name, "worker", "host", f"token {number}")
                done = Outcome(TrialState.COMPLETE, 0.1, {"judged": "test", "seed": number})
                failed = Outcome(TrialState.FAILED, failure=why)
                store.finish(trial.claim, done if good(number) else failed)
            store.set_study_state(name, StudyState.COMPLETE)

        monkeypatch.setattr(finals, "carry_out", carry_out)
        return larnn(*command, search, status=status)

    return run


@pytest.mark.parametrize(
    ("command", "made"),
    [
        (["rank"], "quick-rank"),
        (["ablate", "--change", "norm=none"], "quick-ablation"),
        (["final"], "quick-test"),
    ],
)
def test_trainings_that_all_fail_are_a_failure(command, made, ended):
    told = ended(command, lambda number: False, status=1)
    assert told.endswith(f"study {made} has no COMPLETE trial; see larnn-search trials {made}\n")


def test_a_final_with_one_failure_has_a_result(ended):
    ended(["final"], lambda number: number > 0, status=0)


def test_what_is_trained_again_is_not_compared_as_a_search():
    ranking = carried_out(ranking_spec(SEARCH, count=2, seeds=2), lambda params: 0.1)
    final = final_spec(SEARCH, SEARCH.best, seeds=2, folds=None)
    judged = StudyData(dataclasses.replace(SEARCH.study, spec=final), ())
    assert [data.purpose for data in (SEARCH, ranking, judged)] == ["search", "again", "test"]
    assert compare([SEARCH])[0]["core_hours"] > 0
