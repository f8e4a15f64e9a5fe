"""What every store promises (`trials/store.py`), run over each of them."""

import contextlib
import dataclasses
import itertools
import math
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trials.errors import (
    IllegalTransitionError,
    InvalidValueError,
    LeaseLostError,
    StudyChangedError,
    StudyMismatchError,
    StudyNotFoundError,
    TrialNotFoundError,
)
from trials.memory_store import MemoryStore
from trials.mongo_store import MongoStore
from trials.rules import LOST, LOST_AGAIN, MOST_LOSSES
from trials.store import (
    CHECKPOINT,
    ELSEWHERE_SECONDS,
    WEIGHTS,
    NewTrial,
    TrialStore,
    WorkerInfo,
)
from trials.study import LEGAL_STUDY_TRANSITIONS, StudySpec, StudyState
from trials.trial import Claim, Failure, FailureKind, Outcome, Report, Trial, TrialState

SPEC = StudySpec("s", "search.objective:train", space={"name": "card", "rows": []}, max_trials=3)
TOKENS = itertools.count()
GONE = 0.0
"""A lease that has run out as soon as it is granted."""


def add(store: TrialStore, *params: dict[str, Any], study: str = "s") -> list[Trial]:
    first = sum(store.counts(study).values())
    return store.add_trials(study, None, first, [NewTrial(p, seed=7) for p in params])


def take(store: TrialStore, claim: str = "t", host: str = "h", lease_s: float = 1000) -> Trial:
    trial = store.reserve("s", f"worker@{host}", host, claim, lease_s)
    assert trial is not None
    return trial


def failed(worker: str = "w") -> Failure:
    return Failure(FailureKind.CRASH, "broke", worker, "h", 1, "Traceback ...")


def complete(loss: float, **result: Any) -> Outcome:
    return Outcome(TrialState.COMPLETE, loss, result)


@pytest.fixture
def queue(store: TrialStore) -> TrialStore:
    """A study with three WAITING trials."""
    store.create_study(SPEC)
    add(store, {"x": 0}, {"x": 1}, {"x": 2})
    return store


# -- studies -------------------------------------------------------------------------------------


def test_a_study_comes_back_as_it_was_written(store: TrialStore) -> None:
    spec = dataclasses.replace(SPEC, fixed={"lr": 0.1, "deep": {"a": [1, 2.0, None]}}, timeout_s=9)
    made = store.create_study(spec)
    assert made.spec == spec == store.get_study("s").spec
    assert made.state is StudyState.ACTIVE
    assert abs(made.created_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert [study.name for study in store.list_studies()] == ["s"]


def test_the_stores_clock_is_told(store: TrialStore) -> None:
    before = store.now()
    study = store.create_study(SPEC)
    assert before <= study.created_at <= store.now()


def test_an_unknown_study_names_the_closest(store: TrialStore) -> None:
    store.create_study(dataclasses.replace(SPEC, name="quick"))
    with pytest.raises(StudyNotFoundError, match=r"'quik'.*quick"):
        store.get_study("quik")
    for read in (store.counts, store.list_trials, store.best_trial, store.delete_study):
        with pytest.raises(StudyNotFoundError):
            read("quik")
    for write in (store.acquire_feeder, store.release_feeder):
        with pytest.raises(StudyNotFoundError):
            write("quik", "f")
    for of_trial in (store.get_trial, store.cancel_trial, store.retry_trial):
        with pytest.raises(StudyNotFoundError):
            of_trial("quik", 0)
    with pytest.raises(StudyNotFoundError):
        store.reserve("quik", "w", "h", "t")
    with pytest.raises(StudyNotFoundError):
        store.add_trials("quik", None, 0, [NewTrial({}, 0)])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("results/my s.jsonl", "of the queue: `larnn-search import 'results/my s.jsonl'` brings"),
        ("results/har", "neither '/' nor '.', and files of `larnn-search export` end in .jsonl"),
        ("s.json", "neither '/' nor '.'"),
    ],
)
def test_a_file_that_is_no_study_is_told_what_to_do(
    store: TrialStore, name: str, hint: str
) -> None:
    store.create_study(SPEC)
    with pytest.raises(StudyNotFoundError, match=re.escape(hint)):
        store.get_study(name)


def test_a_study_is_resumed_with_a_larger_budget(queue: TrialStore) -> None:
    for loss in (1.0, 2.0, 3.0):
        queue.finish(take(queue).claim, complete(loss))
    queue.set_study_state("s", StudyState.COMPLETE, "done")
    assert queue.create_study(SPEC).state is StudyState.COMPLETE
    again = queue.create_study(dataclasses.replace(SPEC, max_trials=4, priority=5))
    assert (again.state, again.spec.max_trials, again.spec.priority) == (StudyState.ACTIVE, 4, 5)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, StudyState.STOPPING),
        ({"max_trials": 2}, StudyState.STOPPING),
        ({"priority": 7}, StudyState.STOPPING),
        ({"max_trials": 4}, StudyState.ACTIVE),
        ({"max_trials": None}, StudyState.ACTIVE),
        ({"timeout_s": 99.0}, StudyState.ACTIVE),
        ({"timeout_s": 5.0}, StudyState.STOPPING),
    ],
)
def test_a_study_that_stops_goes_on_only_with_more_to_do(
    store: TrialStore, change: dict[str, Any], state: StudyState
) -> None:
    spec = dataclasses.replace(SPEC, timeout_s=9)
    store.create_study(spec)
    store.set_study_state("s", StudyState.STOPPING, "by hand")
    again = store.create_study(dataclasses.replace(spec, **change))
    assert again.state is state
    assert again.message == ("by hand" if state is StudyState.STOPPING else "")


@pytest.mark.parametrize("new", StudyState)
@pytest.mark.parametrize("old", StudyState)
def test_a_study_changes_its_state_by_the_table_alone(
    store: TrialStore, old: StudyState, new: StudyState
) -> None:
    store.create_study(SPEC)
    if old is not StudyState.ACTIVE:
        store.set_study_state("s", old, "before")
    if new is old or new in LEGAL_STUDY_TRANSITIONS[old]:
        assert store.set_study_state("s", new, "now").state is new
        assert store.get_study("s").message == "now"
    else:
        with pytest.raises(IllegalTransitionError, match=f"is {old} and cannot become {new}"):
            store.set_study_state("s", new, "now")
        assert (store.get_study("s").state, store.get_study("s").message) == (old, "before")


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.set_study_state("s", StudyState.PAUSED),
        lambda store: store.set_study_state("s", StudyState.CANCELLED),
        lambda store: store.create_study(dataclasses.replace(SPEC, max_trials=9)),
        lambda store: store.create_study(dataclasses.replace(SPEC, patience=2)),
    ],
)
def test_a_program_does_not_overrule_what_somebody_did_meanwhile(
    store: TrialStore, change: Any
) -> None:
    was = store.create_study(SPEC)
    store.set_study_state("s", StudyState.STOPPING, "by hand")
    now = store.set_study_state("s", StudyState.ACTIVE, "", was=store.get_study("s"))
    assert now == was
    change(store)
    changed = store.get_study("s")
    for state in (StudyState.STOPPING, StudyState.COMPLETE):
        with pytest.raises(StudyChangedError, match="changed meanwhile"):
            store.set_study_state("s", state, "by a program", was=was)
    assert store.get_study("s") == changed


def test_another_study_of_the_same_name_is_refused(store: TrialStore) -> None:
    store.create_study(SPEC)
    with pytest.raises(StudyMismatchError, match=r"seed is 0, asked for 1.*larnn-search delete s"):
        store.create_study(dataclasses.replace(SPEC, seed=1))
    assert store.get_study("s").spec.seed == 0


def test_two_spaces_are_told_apart_by_what_differs(store: TrialStore) -> None:
    store.create_study(SPEC)
    with pytest.raises(StudyMismatchError, match=r'space.name is "card", asked for "x"'):
        store.create_study(dataclasses.replace(SPEC, space={"name": "x", "rows": []}))


def test_cancelling_a_study_cancels_what_waits_and_tells_what_runs(queue: TrialStore) -> None:
    running = take(queue)
    queue.set_study_state("s", StudyState.CANCELLED, "by hand")
    control = queue.beat(running.claim)
    assert (control.study_state, control.cancel) == (StudyState.CANCELLED, True)
    counts = queue.counts("s")
    assert (counts[TrialState.CANCELLED], counts[TrialState.RUNNING]) == (2, 1)
    queue.finish(running.claim, Outcome(TrialState.WAITING))
    assert queue.counts("s")[TrialState.CANCELLED] == 3
    assert queue.get_study("s").message == "by hand"


def test_a_deleted_study_leaves_nothing(queue: TrialStore) -> None:
    running = take(queue)
    queue.save_blob(running.claim, WEIGHTS, b"w")
    queue.delete_study("s")
    assert queue.list_studies() == []
    with pytest.raises(LeaseLostError, match="deleted"):
        queue.beat(running.claim)
    queue.create_study(SPEC)
    assert sum(queue.counts("s").values()) == 0
    assert queue.load_blob("s", 0, WEIGHTS) is None


def test_looks_at_the_test_people_are_logged(store: TrialStore) -> None:
    store.create_study(SPEC)
    for number, accuracy in ((3, 0.9), (4, 0.8), (3, 0.7)):  # the last one by a second launcher
        study = store.record_test_look("s", {"number": number, "test_accuracy": accuracy})
    looks = [(look["number"], look["test_accuracy"]) for look in study.test_looks]
    assert looks == [(3, 0.9), (4, 0.8)]
    assert {type(look["at"]) for look in store.get_study("s").test_looks} == {datetime}


# -- feeding -------------------------------------------------------------------------------------


def test_a_study_has_one_feeder(store: TrialStore) -> None:
    store.create_study(SPEC)
    assert store.acquire_feeder("s", "a", 1000)
    assert store.acquire_feeder("s", "a", 1000)
    assert not store.acquire_feeder("s", "b", 1000)
    store.release_feeder("s", "b")
    assert not store.acquire_feeder("s", "b", 1000)
    store.release_feeder("s", "a")
    assert store.acquire_feeder("s", "b", GONE)
    assert store.acquire_feeder("s", "a", 1000)


def test_studies_that_nobody_feeds_are_named(store: TrialStore) -> None:
    for name in ("never", "fed", "gone", "paused"):
        store.create_study(dataclasses.replace(SPEC, name=name))
    store.set_study_state("paused", StudyState.PAUSED)
    store.acquire_feeder("fed", "a", 1000)
    store.acquire_feeder("gone", "a", GONE)
    assert store.unfed_studies() == ["gone", "never"]


def test_a_feeder_that_was_replaced_is_refused(store: TrialStore) -> None:
    store.create_study(SPEC)
    replaced, holder = "a", "b"
    store.acquire_feeder("s", replaced, GONE)
    store.acquire_feeder("s", holder, 1000)
    store.set_cutoffs("s", "b", {1: 0.5, 2: math.inf})
    with pytest.raises(LeaseLostError):
        store.set_cutoffs("s", "a", {})
    with pytest.raises(LeaseLostError):
        store.add_trials("s", "a", 0, [NewTrial({}, 0)])
    with pytest.raises(LeaseLostError):
        store.set_study_state("s", StudyState.COMPLETE, token=replaced)
    stopping = store.set_study_state("s", StudyState.STOPPING, token=holder)
    assert stopping.state is StudyState.STOPPING
    assert store.get_study("s").cutoffs == {1: 0.5, 2: math.inf}
    assert sum(store.counts("s").values()) == 0


def test_the_same_trials_told_twice_are_added_once(store: TrialStore) -> None:
    store.create_study(SPEC)
    trials = [NewTrial({"x": math.nan}, 1, {"origin": "tpe"}), NewTrial({"x": 1}, 2)]
    first = store.add_trials("s", None, 0, trials[:1])
    both = store.add_trials("s", None, 0, trials)
    again = store.add_trials("s", None, 0, trials)
    assert [t.number for t in both] == [t.number for t in again] == [0, 1]
    assert first[0].suggestion == again[0].suggestion == {"origin": "tpe"}
    assert store.counts("s")[TrialState.WAITING] == 2


@pytest.mark.parametrize("first", [0, 2, 4])
def test_numbers_of_others_and_gaps_are_refused(queue: TrialStore, first: int) -> None:
    with pytest.raises(LeaseLostError):
        queue.add_trials("s", None, first, [NewTrial({"x": "other"}, 0), NewTrial({}, 0)])
    assert sum(queue.counts("s").values()) == 3


def test_two_feeders_at_once_leave_no_gap_and_no_double(store: TrialStore) -> None:
    store.create_study(SPEC)

    def feed(name: int) -> None:
        added = 0
        while added < 10:
            first = sum(store.counts("s").values())
            try:
                store.add_trials("s", None, first, [NewTrial({"by": name, "n": added}, 0)])
                added += 1
            except LeaseLostError:
                continue

    run_together(feed, 3)
    trials = store.list_trials("s")
    assert [trial.number for trial in trials] == list(range(30))
    assert len({(t.params["by"], t.params["n"]) for t in trials}) == 30


# -- values --------------------------------------------------------------------------------------

VALUES: list[Any] = [
    *(0, 1, -1, 2**63 - 1, -(2**63), 1.0, -0.0, 1e-320, 1.7e308, math.inf, -math.inf),
    *(True, False, None, "", "ünï\U0001f600", "$where", "a.b", "nul\0"),
    *([], [1, [2.0, {"k": None}]], {}, {"a": {"b": [True]}}),
]


def test_params_come_back_as_they_went_in(store: TrialStore) -> None:
    store.create_study(SPEC)
    params = {f"p{i}": value for i, value in enumerate(VALUES)}
    add(store, params)
    back = take(store).params
    assert repr(back) == repr(params)  # tells 1, 1.0 and True apart, and -0.0 from 0.0
    assert [type(back[name]) for name in back] == [type(params[name]) for name in params]


def test_nan_stays_nan(store: TrialStore) -> None:
    store.create_study(SPEC)
    add(store, {"x": math.nan})
    done = store.finish(take(store).claim, complete(math.nan, y=math.nan))
    assert math.isnan(done.params["x"])
    assert done.loss is not None
    assert math.isnan(done.loss)
    assert math.isnan(done.result["y"])
    assert store.best_trial("s") is None


class Scalar(float):
    """As NumPy's float64, which is a float too; and as its int64, which is no int."""


class Wrapped:
    shape = ()

    def item(self) -> int:
        return 5


def test_scalars_of_other_libraries_become_plain(store: TrialStore) -> None:
    store.create_study(SPEC)
    (trial,) = add(store, {"a": Scalar(1.5), "b": Wrapped(), "c": (1, 2)})
    assert repr(trial.params) == "{'a': 1.5, 'b': 5, 'c': [1, 2]}"


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"$where": 1}, "leading '\\$', got '\\$where': rename it"),
        ({"a.b": 1}, "'a.b'"),
        ({"a\0": 1}, "NUL"),
        ({"": 1}, "a name is text"),
        ({1: 1}, "a name is text"),
        ({"a": {"$gt": 1}}, "'\\$gt'"),
        ({"a": 2**63}, "64 bits"),
        ({"a": b"bytes"}, "got bytes"),
        ({"a": object()}, "got object"),
        ({"a": datetime.now(UTC)}, "got datetime"),
        ({"a": "\ud800"}, "valid Unicode"),
        ({"a": nested(60)}, "50 levels"),
        ({"a": "x" * 5_000_000}, "may hold 4 MiB, got 4.8 MiB"),
    ],
)
def test_values_no_store_can_keep_are_refused(
    store: TrialStore, params: dict[str, Any], message: str
) -> None:
    store.create_study(SPEC)
    with pytest.raises(InvalidValueError, match=f"params of trial 0 of study 's'.*{message}"):
        add(store, params)
    assert sum(store.counts("s").values()) == 0


def test_a_huge_result_is_refused_and_the_trial_can_still_be_ended(queue: TrialStore) -> None:
    claim = take(queue).claim
    with pytest.raises(InvalidValueError, match="save_weights"):
        queue.finish(claim, complete(1.0, predictions="x" * 17_000_000))
    long = Failure(FailureKind.EXCEPTION, "m" * 10**6, "w", "h", 1, "\udcff" + "t" * 10**6 + "end")
    trial = queue.finish(claim, Outcome(TrialState.FAILED, failure=long))
    assert trial.failures[0].traceback.endswith("ttend")
    assert len(trial.failures[0].message) < 10**5


# -- reserving -----------------------------------------------------------------------------------


def test_trials_are_reserved_in_order(queue: TrialStore) -> None:
    trials = [take(queue, token) for token in "abc"]
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert queue.reserve("s", "w", "h", "d") is None
    first = trials[0]
    assert (first.state, first.attempt, first.worker, first.host) == (
        TrialState.RUNNING,
        1,
        "worker@h",
        "h",
    )
    assert first.lease_expires_at is not None
    assert first.started_at is not None
    assert first.lease_expires_at - first.started_at == timedelta(seconds=1000)


def test_reserving_again_under_a_token_finds_the_same_trial(queue: TrialStore) -> None:
    assert take(queue, "a") == take(queue, "a")
    take(queue, "b"), take(queue, "c")
    assert take(queue, "a").number == 0
    assert queue.counts("s")[TrialState.RUNNING] == 3


@pytest.mark.parametrize("state", [s for s in StudyState if s is not StudyState.ACTIVE])
def test_only_active_studies_start_trials(queue: TrialStore, state: StudyState) -> None:
    queue.set_study_state("s", state)
    assert queue.reserve("s", "w", "h", "t") is None
    assert queue.offers() == []


def retry_on(queue: TrialStore, worker: str, token: str, elsewhere_s: float = 1000) -> Trial:
    """One worker takes a trial, which crashes there and is to be tried again."""
    trial = queue.reserve("s", worker, "h", token, 1000, elsewhere_s)
    assert trial is not None
    again = Outcome(TrialState.WAITING, failure=failed(worker=worker), counts_as_retry=True)
    return queue.finish(trial.claim, again)


def numbers(queue: TrialStore, worker: str, elsewhere_s: float = 1000) -> list[int]:
    """The numbers of all trials that a worker gets."""
    tokens = (f"{worker} {i} {elsewhere_s}" for i in itertools.count())
    taken = iter(lambda: queue.reserve("s", worker, "h", next(tokens), 1000, elsewhere_s), None)
    return [trial.number for trial in taken if trial is not None]


def test_a_trial_that_crashed_here_is_tried_on_another_worker_first(queue: TrialStore) -> None:
    assert retry_on(queue, "bad", "a").retries == 1
    assert numbers(queue, "bad") == [1, 2]  # not 0, though nothing else waits
    assert numbers(queue, "good") == [0]  # on the same host


def test_a_lone_worker_gets_its_own_trial_again_once_it_has_waited(queue: TrialStore) -> None:
    retry_on(queue, "lone", "a")
    assert numbers(queue, "lone", elsewhere_s=0) == [0, 1, 2]  # first, in its old order


def test_it_has_waited_long_enough_by_the_stores_clock() -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    queue = MemoryStore(clock=lambda: now[0])
    queue.create_study(SPEC)
    add(queue, {"x": 0})
    retry_on(queue, "lone", "a")
    now[0] += timedelta(seconds=ELSEWHERE_SECONDS - 0.1)
    assert queue.reserve("s", "lone", "h", "b") is None
    now[0] += timedelta(seconds=0.1)
    again = queue.reserve("s", "lone", "h", "c")
    assert again is not None
    assert (again.number, again.attempt) == (0, 2)


@pytest.mark.mongo
def test_it_has_waited_long_enough_by_the_databases_clock(mongo_store: MongoStore) -> None:
    mongo_store.create_study(SPEC)
    add(mongo_store, {"x": 0})
    retry_on(mongo_store, "lone", "a")
    for passed_s, is_open in ((ELSEWHERE_SECONDS / 2, False), (ELSEWHERE_SECONDS, True)):
        earlier = {"$subtract": ["$$NOW", round(passed_s * 1000)]}
        change = [{"$set": {"ended.requeued_at": earlier}}]
        mongo_store.database["trials"].update_one({"_id": "s/0"}, change)
        assert (mongo_store.reserve("s", "lone", "h", "b") is not None) is is_open


def test_a_trial_is_kept_from_every_worker_on_which_it_crashed(queue: TrialStore) -> None:
    for worker, token in (("a", "1"), ("b", "2")):
        assert retry_on(queue, worker, token).number == 0
    assert numbers(queue, "a") == [1, 2]
    assert numbers(queue, "b") == []
    assert numbers(queue, "c") == [0]


@pytest.mark.parametrize("why", ["stopped", "lost", "asked for"])
def test_what_used_up_no_retry_may_go_on_where_it_was(queue: TrialStore, why: str) -> None:
    trial = queue.reserve("s", "w", "h", "t", GONE, 1000)
    assert trial is not None
    if why == "stopped":
        queue.finish(trial.claim, Outcome(TrialState.WAITING))
    elif why == "lost":
        queue.release_expired()
    else:
        queue.finish(trial.claim, Outcome(TrialState.FAILED, failure=failed(worker="w")))
        queue.retry_trial("s", 0)
    assert numbers(queue, "w") == [0, 1, 2]


# -- the budget ----------------------------------------------------------------------------------


def test_no_trial_is_given_out_beyond_the_budget(queue: TrialStore) -> None:
    add(queue, {"x": 3}, {"x": 4})  # enqueued while the whole budget waits, runs or has finished
    first, second, third = (take(queue, token) for token in "abc")
    assert queue.reserve("s", "w", "h", "d") is None
    back = queue.get_trial("s", 3)
    assert (back.state, back.attempt, back.started_at, back.worker) == (
        TrialState.WAITING,
        0,
        None,
        None,
    )
    queue.finish(first.claim, complete(1.0))
    queue.finish(second.claim, Outcome(TrialState.FAILED, failure=failed()))
    assert queue.reserve("s", "w", "h", "d") is None
    queue.finish(third.claim, Outcome(TrialState.CANCELLED))  # this one is replaced
    assert take(queue, "d").number == 3
    assert queue.reserve("s", "w", "h", "e") is None
    queue.retry_trial("s", 1)  # it has not finished any more
    assert take(queue, "e").number == 1


def test_a_replaced_trial_that_is_tried_again_does_not_overshoot(queue: TrialStore) -> None:
    queue.cancel_trial("s", 0)
    add(queue, {"x": 3})
    queue.retry_trial("s", 0)
    for token in "abc":
        queue.finish(take(queue, token).claim, complete(1.0))
    assert queue.reserve("s", "w", "h", "d") is None
    assert queue.create_study(dataclasses.replace(SPEC, max_trials=4)).state is StudyState.ACTIVE
    assert take(queue, "d").number == 3


def test_as_many_finish_as_the_budget_says_however_many_workers_want_more(
    store: TrialStore,
) -> None:
    store.create_study(dataclasses.replace(SPEC, max_trials=7))
    add(store, *({"x": i} for i in range(12)))
    most: list[int] = []

    def work(worker: int) -> None:
        for turn in range(500):
            trial = store.reserve("s", "w", "h", f"{worker}-{turn}", 1000)
            if trial is not None:
                # Lost: given back when it was asked for again, as its answer had been lost.
                with contextlib.suppress(LeaseLostError):
                    store.finish(trial.claim, complete(1.0))
            done = store.counts("s")[TrialState.COMPLETE]
            most.append(done)
            if done >= 7 and trial is None:
                return

    run_together(work, 4)
    assert max(most) == store.counts("s")[TrialState.COMPLETE] == 7
    assert store.counts("s")[TrialState.WAITING] == 5


def test_offers_name_what_can_start(queue: TrialStore) -> None:
    other = dataclasses.replace(SPEC, name="a", priority=4)
    queue.create_study(other)
    take(queue)
    (offer,) = queue.offers()
    assert (offer.study, offer.objective, offer.priority, offer.running) == (
        "s",
        SPEC.objective,
        1,
        1,
    )
    add(queue, {"x": 0}, study="a")
    assert [offer.study for offer in queue.offers()] == ["a", "s"]


def run_together(work: Any, count: int) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_each_trial_has_one_owner_however_many_want_it(store: TrialStore) -> None:
    store.create_study(dataclasses.replace(SPEC, max_trials=None))
    add(store, *({"x": i} for i in range(30)))
    taken: list[int] = []

    def work(worker: int) -> None:
        turn = 0
        while trial := store.reserve("s", "w", "h", f"{worker}-{turn}", 1000):
            taken.append(trial.number)
            turn += 1

    run_together(work, 4)
    assert sorted(taken) == list(range(30))


def test_no_listing_misses_a_trial_that_changes_its_state_meanwhile(store: TrialStore) -> None:
    store.create_study(dataclasses.replace(SPEC, max_trials=None))
    add(store, *({"x": i} for i in range(300)))
    listings: list[list[int]] = []
    turns, over = itertools.count(), threading.Event()

    def work(worker: int) -> None:
        if worker == 0:
            while not over.is_set():
                listings.append([trial.number for trial in store.list_trials("s")])
            return
        try:
            while trial := store.reserve("s", "w", "h", f"turn {next(turns)}", 1000):
                store.finish(trial.claim, complete(0.0))
        finally:
            over.set()

    run_together(work, 3)
    assert listings
    assert all(numbers == list(range(300)) for numbers in listings)


# -- claims --------------------------------------------------------------------------------------


def writes(claim: Claim) -> list[Any]:
    return [
        lambda store: store.beat(claim),
        lambda store: store.report(claim, [Report(1, 0.5)]),
        lambda store: store.finish(claim, complete(0.0)),
        lambda store: store.save_blob(claim, CHECKPOINT, b"stale"),
    ]


@pytest.mark.parametrize("change", ["token", "attempt", "number", "study"])
def test_a_stale_claim_changes_nothing(queue: TrialStore, change: str) -> None:
    trial = take(queue)
    other = {"token": "x", "attempt": 9, "number": 2, "study": "t"}[change]
    stale = dataclasses.replace(trial.claim, **{change: other})
    for write in writes(stale):
        with pytest.raises(LeaseLostError, match="no longer attempt"):
            write(queue)
    assert queue.get_trial("s", 0) == trial
    assert queue.load_blob("s", 0, CHECKPOINT) is None


def test_a_worker_that_lost_its_lease_is_refused(queue: TrialStore) -> None:
    lost = take(queue, "a", lease_s=GONE)
    (released,) = queue.release_expired()
    assert (released.number, released.state, released.retries) == (0, TrialState.WAITING, 0)
    (failure,) = released.failures
    assert (failure.kind, failure.worker, failure.host, failure.attempt) == (
        FailureKind.LOST_WORKER,
        "worker@h",
        "h",
        1,
    )
    again = take(queue, "b", host="h2")
    assert (again.number, again.attempt) == (0, 2)
    for write in writes(lost.claim):
        with pytest.raises(LeaseLostError):
            write(queue)
    assert queue.finish(again.claim, complete(0.25)).loss == 0.25


def lose(store: TrialStore, how: str = "") -> Trial:
    """Lose a worker on trial 0, after a report if ``how`` says so."""
    trial = take(store, f"lost-{next(TOKENS)}", lease_s=1000)
    if how == "reports":
        store.report(trial.claim, [Report(1, 0.5)])
    store.save_blob(trial.claim, CHECKPOINT, b"c")
    store.beat(trial.claim, GONE)
    if how == "cancelled":
        store.cancel_trial("s", 0)
    store.release_expired()
    return store.get_trial("s", 0)


def test_a_trial_that_takes_its_workers_down_ends(queue: TrialStore) -> None:
    for _ in range(MOST_LOSSES - 1):
        assert lose(queue).state is TrialState.WAITING
    trial = lose(queue)
    assert (trial.state, trial.attempt, trial.retries) == (TrialState.FAILED, MOST_LOSSES, 0)
    assert trial.finished_at is not None
    assert {failure.kind for failure in trial.failures} == {FailureKind.LOST_WORKER}
    assert [failure.message for failure in trial.failures] == [LOST] * 4 + [LOST_AGAIN]
    assert queue.load_blob("s", 0, CHECKPOINT) is None
    queue.retry_trial("s", 0)
    assert lose(queue).state is TrialState.WAITING


def test_a_trial_that_gets_on_may_lose_any_number_of_workers(queue: TrialStore) -> None:
    for _ in range(MOST_LOSSES):
        for _ in range(MOST_LOSSES - 2):
            lose(queue)
        assert lose(queue, "reports").state is TrialState.WAITING
    for i in range(MOST_LOSSES):
        lose(queue)
        queue.finish(take(queue, f"saved-{i}").claim, Outcome(TrialState.WAITING))
    assert queue.get_trial("s", 0).state is TrialState.WAITING


def test_a_cancelled_trial_that_took_its_workers_down_is_cancelled(queue: TrialStore) -> None:
    for _ in range(MOST_LOSSES - 1):
        lose(queue)
    assert lose(queue, "cancelled").state is TrialState.CANCELLED


def test_a_beat_renews_the_lease(queue: TrialStore) -> None:
    trial = take(queue, lease_s=GONE)
    queue.beat(trial.claim, 1000)
    assert queue.release_expired() == []
    queue.beat(trial.claim, GONE)
    assert len(queue.release_expired()) == 1
    assert queue.release_expired() == []


def test_a_beat_brings_what_people_decided(queue: TrialStore) -> None:
    claim = take(queue).claim
    assert not queue.beat(claim).cancel
    queue.acquire_feeder("s", "f")
    queue.set_cutoffs("s", "f", {3: 0.25})
    queue.set_study_state("s", StudyState.PAUSED)
    queue.cancel_trial("s", 0)
    control = queue.beat(claim)
    assert (control.study_state, control.cutoffs, control.cancel) == (
        StudyState.PAUSED,
        {3: 0.25},
        True,
    )


# -- reports -------------------------------------------------------------------------------------


def test_reports_are_kept_by_step(queue: TrialStore) -> None:
    claim = take(queue).claim
    queue.report(claim, [Report(2, 0.2, {"acc": 0.5}, 2.5), Report(1, math.nan)])
    queue.report(claim, [])
    queue.report(claim, [Report(10, 0.1)])
    reports = queue.get_trial("s", 0).reports
    assert [report.step for report in reports] == [1, 2, 10]
    assert reports[1] == Report(2, 0.2, {"acc": 0.5}, 2.5)
    assert math.isnan(reports[0].loss)


def test_a_step_told_twice_counts_once_and_a_new_attempt_replaces_it(queue: TrialStore) -> None:
    first = take(queue, "a")
    queue.report(first.claim, [Report(1, 1.0), Report(2, 2.0)])
    queue.report(first.claim, [Report(2, 99.0), Report(3, 3.0)])
    assert [r.loss for r in queue.get_trial("s", 0).reports] == [1.0, 2.0, 3.0]
    queue.finish(first.claim, Outcome(TrialState.WAITING))
    second = take(queue, "b")
    assert second.number == 0
    queue.report(second.claim, [Report(2, 2.5)])
    assert [r.loss for r in queue.get_trial("s", 0).reports] == [1.0, 2.5, 3.0]


def test_what_an_outage_held_up_is_told_at_once(queue: TrialStore) -> None:
    trial = take(queue)
    reports = [Report(step % 1400, step / 2) for step in range(1500)]
    queue.report(trial.claim, reports)
    assert queue.get_trial("s", 0).reports == tuple(reports[:1400])


def test_text_that_looks_like_an_expression_stays_text(queue: TrialStore) -> None:
    trial = queue.reserve("s", "$token", "$$NOW", "$params", 1000)
    assert trial is not None
    assert (trial.worker, trial.host, trial.token) == ("$token", "$$NOW", "$params")
    failure = Failure(FailureKind.EXCEPTION, "$state", "$worker", "$host", 1, "$$ROOT")
    done = queue.finish(trial.claim, Outcome(TrialState.FAILED, None, {"a": "$seed"}, failure))
    assert (done.failures, done.result) == ((failure,), {"a": "$seed"})
    queue.set_study_state("s", StudyState.PAUSED, "$name")
    assert queue.get_study("s").message == "$name"
    assert queue.record_test_look("s", {"number": 0, "a": "$spec"}).test_looks[0]["a"] == "$spec"
    queue.beat_worker(WorkerInfo("w", "$host", 1, ({"a": "$pid"},), message="$$NOW"))
    assert queue.list_workers()[0].slots == ({"a": "$pid"},)


# -- finishing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [
        complete(0.5, accuracy=0.75, nested={"a": [1]}),
        Outcome(TrialState.PRUNED, 0.75),
        Outcome(TrialState.FAILED, failure=failed()),
        Outcome(TrialState.CANCELLED),
        Outcome(TrialState.WAITING),
        Outcome(TrialState.WAITING, failure=failed(), counts_as_retry=True),
    ],
)
def test_an_attempt_ends_once_however_often_it_is_told(queue: TrialStore, outcome: Outcome) -> None:
    claim = take(queue).claim
    queue.report(claim, [Report(1, 0.5)])
    done = queue.finish(claim, outcome)
    assert done == queue.finish(claim, outcome) == queue.get_trial("s", 0)
    assert (done.state, done.loss, done.result) == (outcome.state, outcome.loss, outcome.result)
    assert (done.token, done.lease_expires_at, len(done.reports)) == (None, None, 1)
    assert done.failures == ((outcome.failure,) if outcome.failure else ())
    assert done.retries == outcome.counts_as_retry
    assert (done.finished_at is not None) == (done.worker is not None) == done.state.is_finished
    other = Outcome(TrialState.PRUNED, 123.0)
    with pytest.raises(LeaseLostError):
        queue.finish(claim, other)


def test_another_outcome_under_the_same_claim_is_refused(queue: TrialStore) -> None:
    claim = take(queue).claim
    queue.finish(claim, complete(0.5))
    with pytest.raises(LeaseLostError):
        queue.finish(claim, complete(0.25))
    assert queue.get_trial("s", 0).loss == 0.5


def test_an_answer_lost_is_recognised_after_another_worker_took_the_trial(
    queue: TrialStore,
) -> None:
    claim = take(queue, "a").claim
    queue.finish(claim, Outcome(TrialState.WAITING))
    second = take(queue, "b")
    assert queue.finish(claim, Outcome(TrialState.WAITING)) == second
    assert queue.beat(second.claim)


def test_a_cancelled_trial_does_not_return_to_the_queue(queue: TrialStore) -> None:
    for token, number in (("a", 0), ("b", 1)):
        trial = take(queue, token, lease_s=GONE)
        queue.save_blob(trial.claim, CHECKPOINT, b"c")
        assert queue.cancel_trial("s", number).state is TrialState.RUNNING
    queue.release_expired()
    trials = queue.list_trials("s")
    assert [t.state for t in trials[:2]] == [TrialState.CANCELLED] * 2
    assert queue.load_blob("s", 0, CHECKPOINT) is None


def test_a_cancelled_study_keeps_no_checkpoint(queue: TrialStore) -> None:
    waiting, running = take(queue, "a"), take(queue, "b")
    for trial in (waiting, running):
        queue.save_blob(trial.claim, CHECKPOINT, b"c")
    queue.finish(waiting.claim, Outcome(TrialState.WAITING))
    queue.set_study_state("s", StudyState.CANCELLED)
    queue.finish(running.claim, Outcome(TrialState.CANCELLED))
    assert queue.load_blob("s", waiting.number, CHECKPOINT) is None
    assert queue.load_blob("s", running.number, CHECKPOINT) is None


def test_the_best_trial_is_the_first_of_least_loss(queue: TrialStore) -> None:
    assert queue.best_trial("s") is None
    queue.create_study(dataclasses.replace(SPEC, max_trials=None))
    add(queue, {"x": 3}, {"x": 4}, {"x": 5})
    for loss in (math.inf, 0.5):
        queue.finish(take(queue).claim, complete(loss))
    best = queue.best_trial("s")
    assert best is not None
    assert best.number == 1
    queue.finish(take(queue).claim, Outcome(TrialState.PRUNED, -1.0))
    queue.finish(take(queue).claim, complete(math.nan))
    queue.finish(take(queue).claim, complete(0.5))
    assert queue.best_trial("s") == best
    queue.finish(take(queue).claim, complete(-math.inf))
    best = queue.best_trial("s")
    assert best is not None
    assert best.number == 5


# -- people --------------------------------------------------------------------------------------


def test_cancel_and_retry(queue: TrialStore) -> None:
    assert queue.cancel_trial("s", 1).state is TrialState.CANCELLED
    assert queue.cancel_trial("s", 1).finished_at is not None
    back = queue.retry_trial("s", 1)
    assert (back.state, back.finished_at) == (TrialState.WAITING, None)
    assert queue.retry_trial("s", 1) == back
    trial = take(queue)
    queue.report(trial.claim, [Report(1, 0.5)])
    queue.finish(trial.claim, Outcome(TrialState.FAILED, failure=failed()))
    again = queue.retry_trial("s", 0)
    assert (again.state, again.retries, again.reports) == (TrialState.WAITING, 0, ())
    assert len(again.failures) == 1
    assert take(queue, host="h2").attempt == 2


def test_a_trial_that_is_retried_continues_a_complete_study(queue: TrialStore) -> None:
    done = take(queue)
    queue.finish(done.claim, Outcome(TrialState.FAILED, failure=failed()))
    queue.set_study_state("s", StudyState.COMPLETE, "done")
    queue.retry_trial("s", 0)
    assert queue.get_study("s").state is StudyState.ACTIVE
    assert take(queue, "again").attempt == 2


@pytest.mark.parametrize("state", [StudyState.STOPPING, StudyState.CANCELLED])
def test_a_study_that_starts_no_trial_retries_none(queue: TrialStore, state: StudyState) -> None:
    queue.cancel_trial("s", 0)
    queue.set_study_state("s", state)
    with pytest.raises(IllegalTransitionError, match=f"is {state} and starts no more trials"):
        queue.retry_trial("s", 0)
    assert queue.get_trial("s", 0).state is TrialState.CANCELLED


def test_a_cancelled_trial_whose_place_is_taken_is_not_retried(queue: TrialStore) -> None:
    queue.cancel_trial("s", 0)
    add(queue, {"x": 3})
    for token in "abc":
        queue.finish(take(queue, token).claim, Outcome(TrialState.FAILED, failure=failed()))
    with pytest.raises(IllegalTransitionError, match="--max-trials above 3"):
        queue.retry_trial("s", 0)
    assert queue.retry_trial("s", 1).state is TrialState.WAITING  # its place is its own


def test_what_is_done_can_not_be_cancelled_or_retried(queue: TrialStore) -> None:
    running = take(queue)
    with pytest.raises(IllegalTransitionError, match="trial 0 is RUNNING"):
        queue.retry_trial("s", 0)
    assert queue.beat(running.claim)
    queue.finish(running.claim, complete(0.5))
    for change in (queue.cancel_trial, queue.retry_trial):
        with pytest.raises(IllegalTransitionError, match="trial 0 is COMPLETE"):
            change("s", 0)
        with pytest.raises(TrialNotFoundError, match="no trial 99"):
            change("s", 99)
    with pytest.raises(TrialNotFoundError):
        queue.get_trial("s", -1)


def test_reading(queue: TrialStore) -> None:
    claim = take(queue).claim
    queue.report(claim, [Report(1, 0.5)])
    queue.finish(claim, complete(0.5))
    everything = queue.list_trials("s")
    assert [trial.number for trial in everything] == [0, 1, 2]
    assert [len(trial.reports) for trial in everything] == [1, 0, 0]
    assert queue.list_trials("s", [TrialState.COMPLETE], with_reports=False)[0].reports == ()
    assert [t.number for t in queue.list_trials("s", [TrialState.WAITING])] == [1, 2]
    assert queue.list_trials("s", []) == []
    assert queue.counts("s") == {
        **dict.fromkeys(TrialState, 0),
        TrialState.COMPLETE: 1,
        TrialState.WAITING: 2,
    }


# -- blobs ---------------------------------------------------------------------------------------


def test_blobs_are_kept_by_kind_and_replaced(queue: TrialStore) -> None:
    claim = take(queue).claim
    assert queue.load_blob("s", 0, WEIGHTS) is None
    for data in (b"", b"one", bytes(600_000)):
        queue.save_blob(claim, WEIGHTS, data)
        assert queue.load_blob("s", 0, WEIGHTS) == data
    queue.save_blob(claim, CHECKPOINT, b"c")
    queue.finish(claim, Outcome(TrialState.WAITING))
    assert queue.load_blob("s", 0, CHECKPOINT) == b"c"
    queue.finish(take(queue).claim, complete(0.5))
    assert queue.load_blob("s", 0, CHECKPOINT) is None
    assert queue.load_blob("s", 0, WEIGHTS) == bytes(600_000)
    assert queue.load_blob("s", 99, WEIGHTS) is None


def test_a_kind_that_could_be_a_path_is_refused(queue: TrialStore) -> None:
    claim = take(queue).claim
    for kind in ("", "a/b", "a.b", "$set"):
        with pytest.raises(InvalidValueError, match="kind of blob"):
            queue.save_blob(claim, kind, b"")
        with pytest.raises(InvalidValueError, match="kind of blob"):
            queue.load_blob("s", 0, kind)


def test_blobs_of_all_but_a_few_finished_trials_are_dropped(queue: TrialStore) -> None:
    claims = [take(queue, token).claim for token in "abc"]
    for claim in claims:
        queue.save_blob(claim, WEIGHTS, b"w")
    for claim in claims[:2]:
        queue.finish(claim, complete(0.5))
    assert queue.drop_blobs("s", WEIGHTS, keep=[1]) == 1
    kept = [queue.load_blob("s", number, WEIGHTS) for number in range(3)]
    assert kept == [None, b"w", b"w"]
    assert queue.drop_blobs("s", WEIGHTS, keep=[1]) == 0


# -- workers -------------------------------------------------------------------------------------


def test_workers_come_and_go(store: TrialStore) -> None:
    info = WorkerInfo("b", "host", 12, ({"device": "cpu", "study": None, "number": None},), "1.0")
    store.beat_worker(info)
    store.beat_worker(dataclasses.replace(info, name="a", studies=("s", "t")))
    store.beat_worker(dataclasses.replace(info, message="quarantined"))
    a, b = store.list_workers()
    assert (a.name, b.name, b.message) == ("a", "b", "quarantined")
    assert a.slots == info.slots
    assert (a.studies, b.studies) == (("s", "t"), None)
    assert a.last_seen_at is not None
    assert store.list_workers(seen_within_s=-1) == []
    store.remove_worker("a")
    store.remove_worker("never seen")
    assert [worker.name for worker in store.list_workers()] == ["b"]
