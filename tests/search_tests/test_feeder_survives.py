"""Odd documents, lost ones, bugs: one study's trouble is told, and ends nobody else's feeding."""

import dataclasses
import threading
from datetime import UTC, datetime, timedelta

import pytest

from search.feeder import Feeder
from search.feeding import TROUBLED_PAUSE, feed_all
from search.following import _feeding, _follow
from search.parameter import Parameter
from search.space import Space
from tests.trials_tests.test_documents import GOOD, HOSTILE
from trials.memory_store import MemoryStore
from trials.store import NewTrial
from trials.study import StudySpec, StudyState
from trials.trial import Outcome, TrialState

SPACE = Space("line", (Parameter("x", "uniform", -5.0, 5.0),))
SPEC = StudySpec("s", "module:function", SPACE.to_dict(), max_trials=4)
ODD = {
    **HOSTILE,
    "far": {"_id": "s/1000000000", "number": 10**9},
    "far and done": {
        "_id": "s/1000000000", "number": 10**9, "state": "COMPLETE", "loss": 0.5, "attempt": 1,
    },
    "negative": {"_id": "s/-1", "number": -1},
    "draws are text": {"suggestion": {"raw": "many"}},
    "draws of another space": {"suggestion": {"raw": {"y": 1.0}}},
    "draws out of range": {"suggestion": {"raw": {"x": 1e300}}},
    "a param is text": {"params": {"x": "one"}},
    "no params": {"params": {}},
}  # fmt: skip


def work_to_the_end(store, feeder):
    """Be the only worker; how many rounds the feeder needed."""
    for turn in range(100):
        if not feeder.step():
            return turn
        trial = store.reserve("s", "w", "h", f"t{turn}")
        if trial is not None:
            store.finish(trial.claim, Outcome(TrialState.COMPLETE, float(turn)))
    raise AssertionError("the study does not end")


@pytest.mark.mongo
@pytest.mark.parametrize("change", ODD.values(), ids=ODD.keys())
def test_a_study_with_an_odd_trial_is_fed_to_its_end(database, change):
    database.create_study(SPEC)
    database.add_trials("s", None, 0, [NewTrial({"x": 0.5}, 1)])
    if change.get("_id", "s/0") == "s/0":
        database.database["trials"].delete_one({"_id": "s/0"})
    database.database["trials"].insert_one({**GOOD, "params": {"x": 1.0}, **change})
    work_to_the_end(database, Feeder(database, "s", ahead=0))
    assert database.get_study("s").message == "all 4 trials have finished"


@pytest.mark.mongo
def test_a_broken_trial_that_waits_keeps_no_study_from_its_end(database):
    database.create_study(dataclasses.replace(SPEC, max_trials=1))
    feeder = Feeder(database, "s", ahead=0)
    feeder.step()
    trial = database.reserve("s", "w", "h", "t")
    database.database["trials"].insert_one({**GOOD, "_id": "s/1", "number": 1, "params": None})
    database.finish(trial.claim, Outcome(TrialState.COMPLETE, 0.5))
    assert not feeder.step()
    assert database.get_study("s").state is StudyState.COMPLETE


@pytest.mark.mongo
@pytest.mark.parametrize("state", [TrialState.WAITING, TrialState.COMPLETE])
def test_a_trial_that_is_gone_is_replaced(database, state):
    database.create_study(SPEC)
    clock = [0.0]
    feeder = Feeder(database, "s", ahead=0, clock=lambda: clock[0])
    feeder.step()
    if state is TrialState.COMPLETE:
        trial = database.reserve("s", "w", "h", "t")
        database.finish(trial.claim, Outcome(TrialState.COMPLETE, 0.5))
    feeder.step()
    database.database["trials"].delete_one({"_id": "s/0"})
    clock[0] += 11  # finished trials are counted every ten seconds
    work_to_the_end(database, feeder)
    assert database.counts("s")[TrialState.COMPLETE] == 4


class Broken(MemoryStore):
    """Has a bug that shows with one study."""

    def list_trials(self, study, states=None, with_reports=True):
        if study == "bad":
            raise TypeError("a bug")
        return super().list_trials(study, states, with_reports)


def test_what_goes_wrong_with_one_study_is_told_and_the_others_are_fed(caplog):
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    store, stop = Broken(lambda: now[0]), threading.Event()
    for name in ("bad", "s"):
        store.create_study(dataclasses.replace(SPEC, name=name))

    def wait(event, seconds):
        now[0] += timedelta(seconds=seconds)
        trial = store.reserve("s", "w", "h", now[0].isoformat())
        if trial is not None:
            store.finish(trial.claim, Outcome(TrialState.COMPLETE, 1.0))
        if now[0] > datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=1.5 * TROUBLED_PAUSE):
            stop.set()

    feed_all(store, stop, clock=lambda: now[0].timestamp(), wait=wait)
    assert store.get_study("s").state is StudyState.COMPLETE
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 2  # and once more after the pause
    assert told[0].getMessage() == "study bad is not fed, tried again in 60 s: a bug"
    assert told[0].exc_info


def test_a_launcher_does_not_wait_for_a_feeder_that_has_died():
    store = Broken()
    store.create_study(dataclasses.replace(SPEC, name="bad"))
    with pytest.raises(TypeError, match="a bug"), _feeding(store, "bad", None) as feeding:
        _follow(store, "bad", feeding.check)
