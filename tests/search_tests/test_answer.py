"""What a search says at its end, and whom it looks at for that."""

import json
import math

import pytest

from search import answer as module
from search.answer import answer
from search.launch import DEFAULT_OBJECTIVE
from search.results import judged, trials_frame
from search.screens import print_answer
from search.source import from_file
from tests.search_tests.test_ranking import RANKING
from trials.memory_store import MemoryStore
from trials.store import WEIGHTS, NewTrial
from trials.study import StudySpec, StudyState
from trials.trial import Outcome, Report, TrialState


def searched(store, end=StudyState.COMPLETE, objective=DEFAULT_OBJECTIVE, **result):
    """A study "s" of one complete trial that kept its weights, and its end."""
    store.create_study(StudySpec("s", objective, {"name": "mine", "rows": []}))
    store.add_trials("s", None, 0, [NewTrial({"data": "npz:/nowhere/x.npz"}, 0)])
    claim = store.reserve("s", "w", "h", "t").claim
    store.save_blob(claim, WEIGHTS, b"weights")
    store.finish(claim, Outcome(TrialState.COMPLETE, 1.0, result))
    if end is StudyState.COMPLETE:
        store.set_study_state("s", StudyState.STOPPING)
    store.set_study_state("s", end)


@pytest.mark.parametrize(
    ("end", "may_look", "why"),
    [
        (StudyState.COMPLETE, True, ""),
        (StudyState.CANCELLED, True, "the study is CANCELLED"),
        (StudyState.COMPLETE, False, "--no-test"),
    ],
)
def test_the_test_people_of_a_complete_study_alone_are_looked_at(
    end, may_look, why, tmp_path, monkeypatch
):
    store = MemoryStore()
    searched(store, end)
    monkeypatch.setattr(module, "draw_figures", lambda *_: ())
    monkeypatch.setattr("search.objective.test_metrics", lambda *_: {"test_accuracy": 0.9})
    told = answer(store, "s", tmp_path, look_at_test=may_look)
    assert told.best.number == 0
    assert told.untested == why
    assert len(store.get_study("s").test_looks) == (not why)


def test_a_winner_is_told_where_its_data_are_gone(tmp_path, capsys):
    store = MemoryStore()
    searched(store, validation_accuracy=0.9)
    told = answer(store, "s", tmp_path, look_at_test=True)
    assert "/nowhere/x.npz" in told.untested
    print_answer(told)
    assert "not looked at: " in capsys.readouterr().out
    assert store.get_study("s").test_looks == ()


def test_what_trains_chosen_settings_again_is_summed_up_and_not_tested(tmp_path, capsys):
    store, ranking = MemoryStore(), from_file(RANKING)
    store.restore_study(ranking.study, ranking.trials)
    told = answer(store, ranking.study.name, tmp_path, look_at_test=True)
    assert told.best is not None
    assert (told.test, told.figures) == (None, ())
    print_answer(told)
    assert f"larnn-search summary {ranking.study.name}" in capsys.readouterr().out


def test_json_of_an_answer_is_strict(tmp_path):
    store = MemoryStore()
    searched(store, objective="m:f", validation_accuracy=math.nan)
    row = answer(store, "s", tmp_path, look_at_test=True).to_json()
    assert json.loads(json.dumps(row, allow_nan=False))["best"]["validation_accuracy"] is None


def test_the_figures_are_drawn_of_pruned_trials_too(tmp_path, monkeypatch):
    store, drawn = MemoryStore(), []
    store.create_study(StudySpec("s", DEFAULT_OBJECTIVE, {}))
    store.add_trials("s", None, 0, [NewTrial({}, 0), NewTrial({}, 1)])
    for state in (TrialState.COMPLETE, TrialState.PRUNED):
        claim = store.reserve("s", "w", "h", "t").claim
        store.report(claim, [Report(1, 0.4), Report(2, 0.6)])
        store.finish(claim, Outcome(state, 0.6))
    monkeypatch.setattr(module, "draw_figures", lambda study, trials, folder: drawn.append(trials))
    answer(store, "s", tmp_path, look_at_test=False)
    frame = judged(trials_frame(*drawn, store.get_study("s")))
    assert list(frame["loss"]) == [0.6, 0.4]


def test_a_winner_is_told_where_no_figure_can_be_written(tmp_path, capsys):
    store, full = MemoryStore(), tmp_path / "file" / "s"
    full.parent.touch()
    searched(store, objective="m:f")
    told = answer(store, "s", full, look_at_test=False)
    assert told.undrawn == f"no figures, {full} cannot be written: Not a directory"
    print_answer(told)
    said = capsys.readouterr().out
    assert "larnn-search show s 0" in said
    assert "Figures" not in said
    assert told.to_json()["best"]["number"] == 0
    assert told.to_json()["figures"] == []
