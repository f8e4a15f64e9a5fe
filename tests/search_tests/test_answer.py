"""What a search says at its end, and whom it looks at for that."""

import pytest

from search import answer as module
from search.answer import answer
from search.launch import DEFAULT_OBJECTIVE
from trials.memory_store import MemoryStore
from trials.store import NewTrial
from trials.study import StudySpec, StudyState
from trials.trial import Outcome, TrialState


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
