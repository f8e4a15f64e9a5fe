import dataclasses

import numpy as np
import pytest

from search.compare import compare, unlike
from search.launch import DEFAULT_OBJECTIVE
from search.screens import print_comparison
from search.source import StudyData, from_file
from search.summary import summary
from tests.search_tests.sample_study import START, sample_study, sample_trials
from trials.errors import InvalidValueError
from trials.transfer import dump
from trials.trial import TrialState


def data(count=60, *, seed=7, looks=()):
    study = dataclasses.replace(sample_study(), test_looks=looks)
    return StudyData(study, tuple(sample_trials(count, seed=seed)))


def test_budgets_are_those_of_the_smallest_study():
    rows = compare([data(60), data(20)])
    assert {row["budget"] for row in rows} == {rows[1]["finished"]}
    assert rows[1]["finished"] == 20


def test_a_study_without_finished_trials_sets_no_budget():
    rows = compare([data(60), StudyData(sample_study(), ()), data(20)])
    assert {row["budget"] for row in rows} == {20}
    assert [row["expected_loss"] is None for row in rows] == [False, True, False]


def test_expected_loss_is_that_of_drawn_searches():
    large = data(60)
    (row, _) = compare([large, data(20)])
    finished = [t.loss if t.state == "COMPLETE" else np.inf for t in large.trials]
    draws = np.random.default_rng(0).choice(finished, size=(20_000, 20)).min(axis=1)
    assert row["expected_loss"] == pytest.approx(draws.mean(), rel=0.01)
    np.testing.assert_allclose(row["expected_interval"], np.quantile(draws, [0.025, 0.975]), 0.05)


def test_searches_that_may_end_without_a_result_have_no_upper_end(capsys):
    trials = sample_trials(12)
    ended = [
        dataclasses.replace(trial, state=TrialState.COMPLETE, loss=loss)
        for trial, loss in zip(trials, (0.2, 0.5), strict=False)
    ]
    given_up = [
        dataclasses.replace(trial, state=TrialState.PRUNED, loss=0.1) for trial in trials[2:]
    ]
    rows = compare([StudyData(sample_study(), (*ended, *given_up))])
    # 11 % of searches of 12 such trials end with none complete: (10 / 12) ** 12
    assert rows[0]["expected_interval"] == (0.2, None)
    print_comparison(rows)
    assert "none]" in capsys.readouterr().out


def test_the_best_of_the_first_trials_is_of_those_that_ended_first():
    small, large = data(20), data(60)
    (_, row) = compare([small, large])
    ended = sorted(large.trials, key=lambda trial: trial.finished_at)[:20]
    assert row["loss_in_budget"] == min(t.loss for t in ended if t.state == "COMPLETE")


def test_studies_whose_losses_mean_something_else_are_named(capsys):
    other = sample_study()
    spec = dataclasses.replace(other.spec, fixed={**other.spec.fixed, "epochs": 20, "keep": "last"})
    other = StudyData(dataclasses.replace(other, spec=spec), tuple(sample_trials()))
    rows = compare([data(), other])
    assert unlike(rows) == {
        "epochs": [rows[0]["conditions"]["epochs"], 20],
        "keep": ["best", "last"],
    }
    print_comparison(rows)
    assert "Losses do not compare, the studies differ: epochs" in capsys.readouterr().out
    assert unlike(compare([data(), data(20)])) == {}


def test_more_trials_alone_do_not_make_a_study_better():
    small, large = compare([data(20), data(200)])
    assert large["best_loss"] < small["best_loss"]
    low, high = large["expected_interval"]
    assert low <= small["best_loss"] <= high


def test_the_chosen_trials_look_at_the_test_people_comes_with_its_interval():
    plain = data()
    look = {"number": plain.best.number, "test_accuracy": 0.9, "test_sequences": 1000, "at": START}
    other = {**look, "number": plain.best.number + 1, "test_accuracy": 0.1}
    (row,) = compare([data(looks=(look, other))])
    assert row["test_accuracy"] == 0.9
    # by hand, Wilson (1927): centre 0.89847, half width 0.01861
    np.testing.assert_allclose(row["test_interval"], (0.87984, 0.91711), atol=2e-4)


def test_a_study_without_results_has_a_row_without_numbers():
    (row,) = compare([StudyData(sample_study(), ())])
    assert row["expected_loss"] is row["best_loss"] is row["test_interval"] is None


@pytest.mark.parametrize(
    ("objective", "fixed", "count", "cell"),
    [
        (DEFAULT_OBJECTIVE, {}, 20, "larnn"),  # as a `ModelConfig` has it
        (DEFAULT_OBJECTIVE, {"cell": "lstm"}, 20, "lstm"),
        (DEFAULT_OBJECTIVE, {"cell": "lstm"}, 0, "lstm"),
        (DEFAULT_OBJECTIVE, {}, 0, None),
        ("mine:own", {}, 20, None),
        ("mine:own", {"cell": "gru"}, 20, "gru"),
    ],
)
def test_a_cell_is_told_where_there_is_one(objective, fixed, count, cell):
    study = sample_study()
    spec = dataclasses.replace(study.spec, objective=objective, fixed=fixed)
    given = StudyData(dataclasses.replace(study, spec=spec), tuple(sample_trials(count)))
    assert compare([given])[0]["cell"] == cell
    assert summary([given])["studies"]["quick"]["cell"] == cell


def test_an_exported_file_is_the_study(tmp_path):
    study, trials = sample_study(), sample_trials(12)
    (tmp_path / "quick.jsonl").write_text("".join(dump(study, trials)))
    found = from_file(tmp_path / "quick.jsonl")
    assert found.study.spec == study.spec
    assert [trial.loss for trial in found.trials] == [trial.loss for trial in trials]


@pytest.mark.parametrize(("text", "words"), [(None, "No such file"), ("{}\n", "line 1")])
def test_a_file_that_is_no_study_is_refused_by_name(tmp_path, text, words):
    path = tmp_path / "gone.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidValueError, match=rf"gone\.jsonl is no exported study: .*{words}"):
        from_file(path)
