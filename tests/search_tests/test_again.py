"""Settings trained again: the ranking of a search's best, ablations of its winner."""

import dataclasses
import re
from contextlib import nullcontext

import numpy as np
import pytest

from model.config import TrialConfig
from search.again import ablation_spec, changed, comparison, ranking_spec
from search.commands import finals
from search.compare import compare
from search.derivation import DERIVATIONS, TOGETHER
from search.final import PAST_RANKINGS, final_spec, winner
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
        if np.isnan(loss):
            store.finish(trial.claim, Outcome(TrialState.FAILED, failure=DIVERGED))
        else:
            store.finish(trial.claim, Outcome(TrialState.COMPLETE, loss, result))
    return from_store(store, spec.name)


DIVERGED = Failure(FailureKind.NAN_LOSS, "the loss is nan", "worker", "host", 1)


FIRST = PAST_RANKINGS


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


def test_nothing_is_trained_with_seeds_that_a_choice_before_it_was_made_by():
    def seeds(spec):
        (row,) = (row for row in spec.space["rows"] if row["name"] == "seed")
        return set(row["choices"])

    def ablation(data):
        return ablation_spec(data, base(LARNN), ["norm=layer"], seeds=2, say=print)

    ranking = ranking_spec(SEARCH, count=2, seeds=3)
    ranked = carried_out(ranking, lambda params: params["dropout"])
    after = [seeds(ablation(ranked)), seeds(final_spec(ranked, ranked.best, seeds=5, folds=None))]
    assert not any(seeds(ranking) & one for one in after)
    ablated = carried_out(ablation(ranked), lambda params: 0.1)
    last = seeds(final_spec(ablated, ablated.best, seeds=2, folds=3))
    assert not last & (seeds(ranking) | seeds(ablation(ranked)))
    # what follows the search itself takes none of a ranking's, made before or after
    straight = [
        seeds(ablation(SEARCH)),
        seeds(final_spec(SEARCH, SEARCH.best, seeds=5, folds=None)),
    ]
    assert not any(seeds(ranking) & one for one in straight)


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
    found = carried_out(
        spec, lambda params: 0.5 + (params["seed"] - FIRST) / 10 - params["dropout"]
    )
    trained = [{**trial.params} for trial in found.trials if trial.params["seed"] == FIRST]
    plain = {"dropout": 0.1, "hidden_size": 16, "seed": FIRST}
    assert trained == [
        {**LARNN, "seed": FIRST},
        {**LARNN, "window_size": 1, "seed": FIRST},
        {**plain, "cell": "lstm"},
        {**plain, "cell": "bn-lstm"},
        {**LARNN, "augmentation": "jitter", "seed": FIRST},
    ]
    for params in trained:
        TrialConfig.from_params(params)
        folded = DERIVATIONS[TOGETHER].backward(dict(params), found.space)
        assert DERIVATIONS[TOGETHER].forward(folded) == {**params}


def test_a_comparison_is_right_about_numbers_that_are_known():
    spec = ablation_spec(SEARCH, base(LARNN), ["norm=layer"], seeds=3, say=print)
    worse = {"none": (0.1, 0.2, 0.3), "layer": (0.2, 0.4, 0.2)}
    found = carried_out(spec, lambda params: worse[params["norm"]][params["seed"] - FIRST])
    first, second = comparison(found)
    assert (first["settings"], second["settings"]) == ("as chosen", "norm=layer")
    assert (first["loss_mean"], second["loss_mean"]) == pytest.approx((0.2, 0.26667), rel=1e-3)
    # In the logarithm: standard deviations 0.5555 and 0.4002, together 0.4841; Student's t with 4
    # degrees of freedom: 2.7764; means log 0.1817 and log 0.2520.
    reach = np.exp(2.7764 * 0.4841 / np.sqrt(3))
    assert first["loss_interval"] == pytest.approx((0.1817 / reach, 0.1817 * reach), rel=1e-3)
    assert second["loss_interval"] == pytest.approx((0.2520 / reach, 0.2520 * reach), rel=1e-3)
    assert (first["ratio_mean"], first["ratio_interval"]) == (None, None)
    assert second["ratio_mean"] == pytest.approx(0.2520 / 0.1817, rel=1e-3)
    # of one comparison Dunnett's interval is Student's
    reach = np.exp(2.7764 * 0.4841 * np.sqrt(2 / 3))
    assert second["ratio_interval"] == pytest.approx(
        (0.2520 / 0.1817 / reach, 0.2520 / 0.1817 * reach), rel=0.01
    )
    # standard deviations 0.1 and 0.1155, together 0.1080
    assert second["accuracy_interval"] == pytest.approx((0.5602, 0.9065), abs=1e-4)


def test_settings_that_diverged_with_some_seed_have_no_mean_of_the_others():
    spec = ablation_spec(SEARCH, base(LARNN), ["norm=layer", "norm=batch"], seeds=2, say=print)
    losses = {"none": (0.1, 0.2), "layer": (0.1, float("nan")), "batch": (0.3, 0.4)}
    found = carried_out(spec, lambda params: losses[params["norm"]][params["seed"] - FIRST])
    rows = comparison(found)
    assert [row["diverged"] for row in rows] == [0, 1, 0]
    assert rows[1]["losses"] == [0.1]
    assert rows[1]["loss_mean"] is rows[1]["ratio_interval"] is None
    assert rows[2]["ratio_interval"][0] < 1 < rows[2]["ratio_mean"]


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
    monkeypatch.chdir(tmp_path)
    search = tmp_path / "quick.jsonl"
    over = dataclasses.replace(SEARCH.study, state=StudyState.COMPLETE)
    search.write_text("".join(dump(over, SEARCH.trials)))
    monkeypatch.setattr(finals, "opened", lambda mongo: nullcontext(MemoryStore()))
    monkeypatch.setattr(finals, "_check_data", lambda *_: None)

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
    assert f"study {made} has no COMPLETE trial, " in told
    assert told.endswith(
        f" of them with out of memory: used 3.1 GB of 3 GB; see `larnn-search show {made} 0`\n"
    )


def test_a_final_with_one_failure_has_a_result(ended):
    ended(["final"], lambda number: number > 0, status=0)


def test_where_no_log_can_be_written_nothing_gets_into_the_queue(larnn, tmp_path, monkeypatch):
    store, search = MemoryStore(), tmp_path / "quick.jsonl"
    over = dataclasses.replace(SEARCH.study, state=StudyState.COMPLETE)
    search.write_text("".join(dump(over, SEARCH.trials)))
    monkeypatch.setattr(finals, "opened", lambda mongo: nullcontext(store))
    monkeypatch.setattr(finals, "_check_data", lambda *_: None)
    told = larnn("final", search, "--output", search / "x", status=2)
    assert str(search / "x") in told
    assert store.list_studies() == []


def test_data_that_are_not_the_studys_are_told_before_anything_is_in_the_queue(
    larnn, tmp_path, monkeypatch
):
    store, search = MemoryStore(), tmp_path / "quick.jsonl"
    spec = dataclasses.replace(SEARCH.study.spec, requirements={"data_fingerprint": "another"})
    other = dataclasses.replace(SEARCH.study, state=StudyState.COMPLETE, spec=spec)
    search.write_text("".join(dump(other, SEARCH.trials)))
    monkeypatch.setattr(finals, "opened", lambda mongo: nullcontext(store))
    for command in (["final"], ["rank"], ["ablate", "--change", "norm=none"]):
        assert "have fingerprint another" in larnn(*command, search, status=1)
    assert store.list_studies() == []


def test_a_rankings_name_says_so(larnn):
    assert "ends in -rank" in larnn("rank", "quick", "--name", "best5", status=2)


def test_what_is_trained_again_is_not_compared_as_a_search():
    ranking = carried_out(ranking_spec(SEARCH, count=2, seeds=2), lambda params: 0.1)
    final = final_spec(SEARCH, SEARCH.best, seeds=2, folds=None)
    judged = StudyData(dataclasses.replace(SEARCH.study, spec=final), ())
    assert [data.purpose for data in (SEARCH, ranking, judged)] == ["search", "again", "test"]
    assert compare([SEARCH])[0]["core_hours"] > 0
