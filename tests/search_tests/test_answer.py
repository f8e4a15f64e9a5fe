"""What a search says at its end, and whom it looks at for that."""

import pytest

from search import answer as module
from search.answer import answer
from search.launch import DEFAULT_OBJECTIVE
from search.results import judged, trials_frame
from search.screens import print_answer
from trials.memory_store import MemoryStore
from trials.store import NewTrial
from trials.study import StudySpec, StudyState
from trials.trial import Outcome, Report, TrialState


@pytest.mark.parametrize("state", [StudyState.CANCELLED, StudyState.COMPLETE])
def test_the_test_people_of_a_complete_study_alone_are_looked_at(state, tmp_path, monkeypatch):
    store, looks = MemoryStore(), []
    store.create_study(StudySpec("s", DEFAULT_OBJECTIVE, {}))
    store.add_trials("s", None, 0, [NewTrial({}, 0)])
    store.finish(store.reserve("s", "w", "h", "t").claim, Outcome(TrialState.COMPLETE, 1.0))
    if state is StudyState.COMPLETE:
        store.set_study_state("s", StudyState.STOPPING)
    store.set_study_state("s", state)
    monkeypatch.setattr(module, "draw_figures", lambda *_: ())
    monkeypatch.setattr(module, "test_look", lambda *_: looks.append(state))
    told = answer(store, "s", tmp_path, look_at_test=True)
    assert told.best.number == 0
    assert looks == ([state] if state is StudyState.COMPLETE else [])


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
    store.create_study(StudySpec("s", "m:f", {"name": "mine", "rows": []}))
    store.add_trials("s", None, 0, [NewTrial({"x": 1}, 0)])
    store.finish(store.reserve("s", "w", "h", "t").claim, Outcome(TrialState.COMPLETE, 1.0))
    told = answer(store, "s", full, look_at_test=False)
    assert told.undrawn == f"no figures, {full} cannot be written: Not a directory"
    print_answer(told)
    said = capsys.readouterr().out
    assert "larnn-search show s 0" in said
    assert "Figures" not in said
    assert told.to_json()["best"]["number"] == 0
    assert told.to_json()["figures"] == []
