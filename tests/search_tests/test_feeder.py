"""One leased feeder: how much waits, what it costs, and how a study comes to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from search.feeder import Feeder
from search.feeding import feed_all
from search.parameter import Parameter
from search.ranking import ranked
from search.space import Space
from search.suggest import Suggester
from trials.errors import StoreUnavailableError, StudyNotFoundError
from trials.memory_store import MemoryStore
from trials.store import WEIGHTS, NewTrial, WorkerInfo
from trials.study import Study, StudySpec, StudyState
from trials.trial import BUDGET_STATES, Failure, FailureKind, Outcome, Report, Trial, TrialState

SPACE = Space("line", (Parameter("x", "uniform", -5.0, 5.0),))
WAITING, RUNNING = TrialState.WAITING, TrialState.RUNNING
COMPLETE, FAILED = TrialState.COMPLETE, TrialState.FAILED


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Bench:
    """A study in memory, its feeder, and workers that do as they are told."""

    def __init__(self, *, ahead: int | None = 0, slots: int = 0, **spec: Any) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        settings = {"max_trials": 10, "fixed": {"epochs": 2}, **spec}
        self.spec = StudySpec("s", "module:function", SPACE.to_dict(), **settings)
        self.store.create_study(self.spec)
        self.feeder = self.another(ahead)
        self.claims = 0
        if slots:
            self.workers(slots)

    def another(self, ahead: int | None = 0) -> Feeder:
        return Feeder(self.store, "s", ahead=ahead, clock=self.clock.seconds)

    def workers(
        self, slots: int, study: str | None = None, serves: tuple[str, ...] | None = None
    ) -> None:
        made = tuple({"device": "cpu", "study": study, "number": None} for _ in range(slots))
        self.store.beat_worker(WorkerInfo("w", "host", 1, made, studies=serves))
        self.clock.advance(1.5)  # feeders look at workers once a second

    def counts(self) -> dict[TrialState, int]:
        return {state: count for state, count in self.store.counts("s").items() if count}

    def step(self) -> bool:
        return self.feeder.step()

    def reserve(self, lease_s: float = 30.0, worker: str = "w") -> Trial:
        self.claims += 1
        trial = self.store.reserve("s", worker, "host", f"claim-{self.claims}", lease_s)
        assert trial is not None
        return trial

    def finish(self, trial: Trial, loss: float = 1.0, seconds: float = 10.0) -> Trial:
        self.clock.advance(seconds)
        return self.store.finish(trial.claim, Outcome(COMPLETE, loss))

    def fail(self, trial: Trial, message: str = "boom") -> Trial:
        failure = Failure(FailureKind.EXCEPTION, message, "w", "host", trial.attempt)
        return self.store.finish(trial.claim, Outcome(FAILED, failure=failure))

    def run_one(self, loss: float = 1.0, seconds: float = 10.0) -> bool:
        """One round of the feeder, then one trial to its end."""
        going_on = self.step()
        if going_on and self.store.offers():
            self.finish(self.reserve(), loss, seconds)
        return going_on


def message(bench: Bench) -> str:
    return bench.store.get_study("s").message


def state(bench: Bench) -> StudyState:
    return bench.store.get_study("s").state


# -- how many wait ---------------------------------------------------------------------------------


def test_serial_feeding_gives_the_suggestions_of_a_serial_search() -> None:
    bench = Bench(ahead=0, max_trials=25, seed=5)
    while bench.run_one(loss=float(len(bench.store.list_trials("s")) % 7)):
        assert sum(bench.counts().get(s, 0) for s in (WAITING, RUNNING)) <= 1
    trials = bench.store.list_trials("s")
    assert [t.number for t in trials] == list(range(25))
    serial = Suggester(SPACE, "tpe", 5, {"epochs": 2})
    for trial in trials:
        (expected,) = serial.suggest(trials[: trial.number], 1)
        assert (dict(trial.params), trial.seed) == (dict(expected.params), expected.seed)


def test_a_taken_over_search_goes_on_as_it_would_have() -> None:
    alone, relayed = Bench(max_trials=24), Bench(max_trials=24)
    while alone.run_one():
        pass
    while relayed.run_one():
        relayed.feeder.leave()
        relayed.feeder = relayed.another()
    params = [[dict(t.params) for t in b.store.list_trials("s")] for b in (alone, relayed)]
    assert params[0] == params[1]


@pytest.mark.parametrize(("slots", "ahead"), [(1, 0), (3, 0), (3, 2)])
def test_each_free_slot_finds_a_trial_and_no_more_wait_than_asked(slots: int, ahead: int) -> None:
    bench = Bench(slots=slots, ahead=ahead, max_trials=100)
    bench.step()
    assert bench.counts() == {WAITING: slots + ahead}
    for _ in range(slots):
        bench.reserve()
    for _ in range(3):
        bench.step()
    assert bench.store.counts("s")[WAITING] == ahead


def test_more_trials_wait_where_trials_are_short() -> None:
    long, short = (
        Bench(slots=4, ahead=None, max_trials=99),
        Bench(slots=4, ahead=None, max_trials=99),
    )
    for bench, seconds in ((long, 600.0), (short, 0.1)):
        bench.step()
        running = [bench.reserve() for _ in range(4)]
        for trial in running:
            bench.finish(trial, seconds=seconds / 4)
        bench.workers(4)
        bench.step()
        bench.step()
    assert long.store.counts("s")[WAITING] == 4 + 1
    assert short.store.counts("s")[WAITING] == 4 + 8


def test_slots_that_run_another_study_are_not_fed() -> None:
    bench = Bench(ahead=0)
    bench.workers(5, study="other")
    bench.step()
    bench.workers(5, serves=("other",))
    bench.step()
    assert bench.counts() == {WAITING: 1}
    bench.workers(5, study="s")
    bench.step()
    assert bench.counts() == {WAITING: 5}


# -- the budget ------------------------------------------------------------------------------------


def test_the_budget_is_exact_with_failures_cancellations_and_lost_workers() -> None:
    bench = Bench(slots=4, ahead=3, max_trials=12)
    cancelled = 0
    while bench.step():
        counts = bench.store.counts("s")
        assert sum(counts.values()) - counts[TrialState.CANCELLED] <= 12
        if not bench.store.offers():
            bench.clock.advance(31)  # leases run out
            continue
        trial = bench.reserve()
        if trial.number % 5 == 1:
            bench.fail(trial)
        elif trial.number % 5 == 2 and cancelled < 3:
            cancelled += 1
            bench.store.cancel_trial("s", trial.number)
            bench.store.finish(trial.claim, Outcome(TrialState.CANCELLED))
        elif trial.number % 5 != 3 or trial.attempt > 1:
            bench.finish(trial)
    counts = bench.counts()
    assert sum(counts[s] for s in counts if s in BUDGET_STATES) == 12
    assert counts[TrialState.CANCELLED] == cancelled == 3
    assert state(bench) is StudyState.COMPLETE
    assert message(bench) == "all 12 trials have finished"
    attempts = [t.attempt for t in bench.store.list_trials("s")]
    assert max(attempts) > 1  # a lost trial was run again, under its old number


def test_enqueued_trials_take_the_place_of_waiting_suggestions() -> None:
    bench = Bench(slots=4, ahead=0, max_trials=4)
    bench.step()
    mine = NewTrial({"x": 3.0, "epochs": 2}, 0, {"origin": "enqueued"})
    bench.store.add_trials("s", None, 4, [mine])
    bench.step()
    trials = bench.store.list_trials("s")
    assert [t.state for t in trials] == [WAITING] * 3 + [TrialState.CANCELLED, WAITING]
    while bench.run_one():
        pass
    assert bench.counts() == {COMPLETE: 4, TrialState.CANCELLED: 1}


def test_what_is_enqueued_while_the_whole_budget_runs_does_not_overshoot() -> None:
    bench = Bench(slots=3, ahead=0, max_trials=2)
    bench.step()
    running = [bench.reserve(), bench.reserve()]
    mine = NewTrial({"x": 3.0, "epochs": 2}, 0, {"origin": "enqueued"})
    bench.store.add_trials("s", None, 2, [mine])
    assert bench.store.reserve("s", "w", "host", "third") is None  # before the feeder looked
    for trial in running:
        bench.finish(trial)
    while bench.run_one():
        pass
    assert bench.counts() == {COMPLETE: 2, TrialState.CANCELLED: 1}


def test_a_replaced_trial_that_is_tried_again_does_not_overshoot() -> None:
    bench = Bench(slots=1, ahead=0, max_trials=2)
    bench.step()
    bench.store.cancel_trial("s", 0)
    bench.step()
    bench.run_one()
    bench.step()
    bench.store.retry_trial("s", 0)
    last = bench.reserve()
    assert bench.store.reserve("s", "w", "host", "third") is None
    bench.finish(last)
    while bench.run_one():
        pass
    assert bench.counts() == {COMPLETE: 2, TrialState.CANCELLED: 1}


def test_a_larger_budget_continues_a_complete_study() -> None:
    bench = Bench(max_trials=2)
    while bench.run_one():
        pass
    spec = StudySpec("s", "module:function", SPACE.to_dict(), fixed={"epochs": 2}, max_trials=3)
    bench.store.create_study(spec)
    bench.feeder = bench.another()
    while bench.run_one():
        pass
    assert bench.counts() == {COMPLETE: 3}


# -- the end ---------------------------------------------------------------------------------------


def test_timeout_lets_running_trials_finish_and_drops_waiting_ones() -> None:
    bench = Bench(slots=1, ahead=2, timeout_s=60)
    bench.step()
    trial = bench.reserve(lease_s=1000)
    bench.clock.advance(59 - 1.5)
    bench.step()
    assert state(bench) is StudyState.ACTIVE
    bench.clock.advance(1)
    bench.step()
    assert state(bench) is StudyState.STOPPING
    bench.finish(trial)
    assert not bench.step()
    assert bench.counts() == {COMPLETE: 1, TrialState.CANCELLED: 2}
    assert (
        message(bench) == "stopped 60 s after it was created, its --timeout; a larger one goes on"
    )


def test_the_pace_goes_by_a_clock_that_nobody_sets() -> None:
    assert Feeder(Bench().store, "s")._clock is time.monotonic


@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_a_timeout_goes_by_the_stores_clock(ahead_s: float) -> None:
    bench = Bench(slots=1, timeout_s=600)
    wrong = Clock()
    wrong.advance(ahead_s)
    bench.feeder = Feeder(bench.store, "s", clock=wrong.seconds)
    for _ in range(9):
        bench.step()
        bench.clock.advance(65)
        assert state(bench) is StudyState.ACTIVE
    bench.clock.advance(65)
    bench.step()
    assert (
        message(bench) == "stopped 600 s after it was created, its --timeout; a larger one goes on"
    )


def test_until_loss_and_patience_end_a_study() -> None:
    bench = Bench(max_trials=None, until_loss=0.5)
    losses = iter([2.0, 0.7, 0.5, 0.1])
    while bench.run_one(loss=next(losses)):
        pass
    assert (bench.counts()[COMPLETE], message(bench)) == (3, "stopped: loss 0.5 has reached 0.5")
    bench = Bench(max_trials=None, patience=3)
    losses = iter([2.0, 1.0, 3.0, 0.9, 0.9, 1.0, 2.0, 0.0])
    while bench.run_one(loss=next(losses)):
        pass
    assert (bench.counts()[COMPLETE], message(bench)) == (7, "stopped: no better loss in 3 trials")


def test_a_study_whose_first_trials_all_fail_is_stopped_with_the_commonest_failure() -> None:
    bench = Bench(max_trials=50)
    for text in ("odd one", "no data", "no data", "no data\nsecond line", "no data"):
        assert bench.step()
        bench.fail(bench.reserve(), text)
    assert not bench.step()
    assert state(bench) is StudyState.COMPLETE
    assert message(bench) == (
        "stopped: the first 5 trials all failed, 4 of them with exception: no data; "
        "see `larnn-search show s 1`"
    )


def test_one_bad_worker_does_not_stop_a_study_that_others_are_at() -> None:
    bench = Bench(max_trials=50, slots=4)
    bench.step()
    good = [bench.reserve(worker=f"good-{i}") for i in range(3)]
    for _ in range(7):
        bench.fail(bench.reserve(worker="bad"))
        assert bench.step()
    assert state(bench) is StudyState.ACTIVE
    for trial in good:
        bench.fail(trial)
        bench.step()
    assert message(bench).startswith("stopped: the first 10 trials all failed")


def test_failures_after_a_success_stop_nothing() -> None:
    bench = Bench(max_trials=50)
    bench.run_one()
    for _ in range(7):
        assert bench.step()
        bench.fail(bench.reserve())
    assert bench.step()
    assert state(bench) is StudyState.ACTIVE


class Racing(MemoryStore):
    """Lets somebody act between a feeder's look and its decision."""

    act: Callable[[], object] = staticmethod(lambda: None)

    def set_study_state(self, name: str, state: StudyState, message: str = "", **how: Any) -> Study:
        act, self.act = self.act, lambda: None
        act()
        return super().set_study_state(name, state, message, **how)


def racing() -> tuple[Bench, Racing]:
    """A study of which the only trial has finished, so that its feeder is about to end it."""
    bench = Bench(max_trials=1)
    bench.store = store = Racing(bench.clock)
    bench.store.create_study(bench.spec)
    bench.feeder = bench.another()
    bench.run_one()
    return bench, store


@pytest.mark.parametrize("decided", [StudyState.CANCELLED, StudyState.PAUSED])
def test_what_somebody_decided_is_not_overruled_by_the_end(decided: StudyState) -> None:
    bench, store = racing()
    store.act = lambda: store.set_study_state("s", decided, "by hand")
    bench.step()
    assert (state(bench), message(bench)) == (decided, "by hand")


def test_a_larger_budget_given_at_the_end_is_used() -> None:
    bench, store = racing()
    store.act = lambda: store.create_study(replace(bench.spec, max_trials=2))
    while bench.run_one():
        pass
    assert bench.counts() == {COMPLETE: 2}


def test_a_larger_budget_given_while_stopping_is_used() -> None:
    bench = Bench(slots=2, max_trials=1)
    bench.step()
    trial = bench.reserve()
    bench.store.set_study_state("s", StudyState.STOPPING, "by hand")
    bench.step()
    assert bench.store.create_study(bench.spec).state is StudyState.STOPPING  # only follows
    bench.store.create_study(replace(bench.spec, max_trials=2))
    bench.finish(trial)
    while bench.run_one():
        pass
    assert bench.counts() == {COMPLETE: 2}


def test_a_trial_enqueued_at_the_end_does_not_wait_for_ever() -> None:
    bench, store = racing()
    mine = NewTrial({"x": 3.0, "epochs": 2}, 0, {"origin": "enqueued"})
    store.act = lambda: store.add_trials("s", None, 1, [mine])
    while bench.step():
        pass
    assert bench.counts() == {COMPLETE: 1, TrialState.CANCELLED: 1}
    assert state(bench) is StudyState.COMPLETE


def test_a_feeder_that_lost_its_lease_ends_nothing() -> None:
    bench, store = racing()
    second = bench.another()

    def take_over() -> None:
        bench.clock.advance(31)
        second._holds_lease()

    store.act = take_over
    assert bench.feeder.survive(bench.feeder.step)
    assert state(bench) is StudyState.ACTIVE
    assert not second.step()


def test_what_is_added_while_somebody_cancels_is_cancelled_too() -> None:
    bench = Bench(slots=1)
    bench.step()
    bench.store.set_study_state("s", StudyState.CANCELLED)
    bench.store.add_trials("s", None, 1, [NewTrial({"x": 1.0}, 0)])
    assert not bench.step()
    assert bench.counts() == {TrialState.CANCELLED: 2}


def test_stopping_completes_when_the_last_running_trial_has_ended() -> None:
    bench = Bench(slots=2, ahead=1)
    bench.step()
    trial = bench.reserve()
    bench.store.set_study_state("s", StudyState.STOPPING, "stopped by alice")
    assert bench.step()
    bench.finish(trial)
    assert not bench.step()
    assert (state(bench), message(bench)) == (StudyState.COMPLETE, "stopped by alice")
    assert bench.store.counts("s")[WAITING] == 0


def test_paused_studies_are_fed_nothing() -> None:
    bench = Bench()
    bench.store.set_study_state("s", StudyState.PAUSED)
    assert bench.step()
    assert bench.counts() == {}


def test_a_study_that_cannot_be_searched_ends_with_the_reason() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    store.create_study(StudySpec("s", "m:f", {"name": "x", "rows": [{"name": "a"}]}))
    assert not Feeder(store, "s", clock=clock.seconds).step()
    study = store.get_study("s")
    assert study.state is StudyState.COMPLETE
    assert study.message.startswith("stopped: not a stored search space")


# -- leases and outages ----------------------------------------------------------------------------


def test_only_the_holder_of_the_lease_feeds_and_another_takes_over_when_it_runs_out() -> None:
    bench = Bench()
    second = bench.another()
    bench.step()
    second.step()
    assert bench.counts() == {WAITING: 1}
    bench.finish(bench.reserve(), seconds=0)
    bench.clock.advance(29)
    second.step()
    assert bench.counts() == {COMPLETE: 1}
    bench.clock.advance(2)
    second.step()
    assert bench.counts() == {COMPLETE: 1, WAITING: 1}
    assert bench.step()  # the first one wakes: it may not feed
    assert bench.counts() == {COMPLETE: 1, WAITING: 1}


def test_a_feeder_that_lost_its_lease_while_suggesting_adds_nothing() -> None:
    bench = Bench(slots=1)
    second = bench.another()
    bench.step()
    bench.finish(bench.reserve(), seconds=0)
    suggester = bench.feeder._suggester
    assert suggester is not None
    suggest = suggester.suggest

    def slow(trials: Sequence[Trial], count: int) -> list[NewTrial]:
        bench.clock.advance(31)
        second.step()
        return suggest(trials, count)

    suggester.suggest = slow  # type: ignore[method-assign]  # the test's stand-in
    assert bench.feeder.survive(bench.feeder.step)
    assert bench.counts() == {COMPLETE: 1, WAITING: 1}


def test_expired_trials_are_given_back_to_the_queue() -> None:
    bench = Bench()
    bench.step()
    bench.reserve(lease_s=5)
    bench.clock.advance(14)
    bench.step()
    # This feeder has just started: had there been an outage, the worker could still be back.
    assert bench.counts() == {RUNNING: 1}
    bench.clock.advance(1)
    bench.step()
    assert bench.counts() == {WAITING: 1}


def test_a_retried_trial_counts_again_only_when_it_has_ended() -> None:
    bench = Bench(max_trials=3, ahead=0)
    bench.run_one()
    bench.step()
    failed = bench.fail(bench.reserve())
    bench.step()
    bench.store.retry_trial("s", failed.number)
    bench.finish(bench.reserve())  # before the feeder saw it wait
    bench.clock.advance(11)
    while bench.run_one():
        pass
    assert bench.counts() == {COMPLETE: 3}


class Moving(MemoryStore):
    """Two of three counts miss a running trial, as if it were on its way to COMPLETE."""

    counted = listed = 0

    def counts(self, study: str) -> dict[TrialState, int]:
        self.counted += 1
        found = dict(super().counts(study))
        found[RUNNING] -= self.counted % 3 > 0
        return found

    def list_trials(
        self, study: str, states: Sequence[TrialState] | None = None, with_reports: bool = True
    ) -> list[Trial]:
        self.listed += states is None
        return super().list_trials(study, states, with_reports)


def test_a_count_that_misses_a_moving_trial_is_no_reason_to_read_all_anew() -> None:
    clock = Clock()
    store = Moving(clock)
    store.create_study(StudySpec("s", "module:function", SPACE.to_dict(), max_trials=10))
    feeder = Feeder(store, "s", clock=clock.seconds)
    for turn in range(4):
        feeder.step()
        store.reserve("s", "w", "host", f"claim-{turn}", 1000)
        clock.advance(11)
    assert store.counted > 0
    assert store.listed == 1


class Unreachable(MemoryStore):
    """Fails every other call of a round."""

    calls = 0

    def list_trials(
        self, study: str, states: Sequence[TrialState] | None = None, with_reports: bool = True
    ) -> list[Trial]:
        self.calls += 1
        if self.calls % 2:
            raise StoreUnavailableError("no server")
        return super().list_trials(study, states, with_reports)


def test_outages_are_sat_out() -> None:
    clock = Clock()
    store = Unreachable(clock)
    store.create_study(StudySpec("s", "m:f", SPACE.to_dict(), max_trials=3))
    claims = iter(range(1000))

    def wait(event: threading.Event, seconds: float) -> None:
        assert 0 < seconds <= 1
        clock.advance(seconds)
        if (trial := store.reserve("s", "w", "host", f"t{next(claims)}")) is not None:
            store.finish(trial.claim, Outcome(COMPLETE, 1.0))

    Feeder(store, "s", clock=clock.seconds, wait=wait).run(threading.Event())
    assert store.counts("s")[COMPLETE] == 3
    assert store.acquire_feeder("s", "another")  # the lease was given back


def test_a_deleted_study_ends_its_feeder_with_an_error() -> None:
    bench = Bench()
    bench.step()
    bench.store.delete_study("s")
    with pytest.raises(StudyNotFoundError):
        bench.feeder.run(threading.Event())


# -- pruning, weights, cost ------------------------------------------------------------------------


def test_cutoffs_of_the_pruner_are_published() -> None:
    bench = Bench(max_trials=50, pruner={"name": "asha", "reduction_factor": 3, "warmup_trials": 3})
    for loss in (1.0, 2.0, 3.0):
        bench.step()
        trial = bench.reserve()
        bench.store.report(trial.claim, [Report(step, loss + 1 / step) for step in range(1, 5)])
        bench.finish(trial, loss)
    bench.step()
    assert bench.store.get_study("s").cutoffs == {1: 2.0, 3: 1 + 1 / 3}


def test_weights_of_all_but_the_best_and_of_unfinished_trials_are_dropped() -> None:
    bench = Bench(slots=1, max_trials=20, ahead=1)
    number = 0
    while bench.step():
        trial = bench.reserve()
        bench.store.save_blob(trial.claim, WEIGHTS, b"w")
        bench.finish(trial, loss=float(trial.number * 7 % 20))
        number += 1
    kept = [n for n in range(number) if bench.store.load_blob("s", n, WEIGHTS) is not None]
    best = sorted(range(20), key=lambda n: n * 7 % 20)[:5]
    assert kept == sorted(best)


def test_a_grid_keeps_the_weights_of_settings_that_win_by_their_mean() -> None:
    rows = (
        Parameter("rate", "choice", choices=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
        Parameter("seed", "choice", choices=(0, 1, 2)),
    )
    store = MemoryStore()
    space = Space("grid", rows).to_dict()
    store.create_study(StudySpec("s", "m:f", space, algorithm="grid", max_trials=18))
    feeder = Feeder(store, "s", ahead=0)
    for n in range(18):
        feeder.step()
        trial = store.reserve("s", "w", "host", f"c{n}")
        assert trial is not None
        store.save_blob(trial.claim, WEIGHTS, b"w")
        # 0.6 has the worst first seed of all, and the least mean.
        rate, seed = trial.params["rate"], trial.params["seed"]
        loss = {0: 9.0, 1: 0.1, 2: 0.1}[seed] if rate == 0.6 else 4.0 + rate
        store.finish(trial.claim, Outcome(COMPLETE, loss))
    assert not feeder.step()
    best = ranked(store.get_study("s"), store.list_trials("s"))
    assert (best[0].trial.params["rate"], best[0].trial.loss) == (0.6, 9.0)
    kept = [n for n in range(18) if store.load_blob("s", n, WEIGHTS) is not None]
    assert kept == sorted(one.trial.number for one in best[:5])


class Counting(MemoryStore):
    """Counts how many trials are handed out."""

    read = 0

    def list_trials(
        self, study: str, states: Sequence[TrialState] | None = None, with_reports: bool = True
    ) -> list[Trial]:
        made = super().list_trials(study, states, with_reports)
        self.read += len(made)
        return made

    def get_trial(self, study: str, number: int) -> Trial:
        self.read += 1
        return super().get_trial(study, number)


def test_a_round_reads_only_what_changed_however_long_the_history() -> None:
    clock = Clock()
    store = Counting(clock)
    store.create_study(StudySpec("s", "m:f", SPACE.to_dict(), algorithm="random"))
    feeder = Feeder(store, "s", ahead=0, clock=clock.seconds)
    store.add_trials("s", None, 0, [NewTrial({"x": n / 1000}, n) for n in range(300)])
    for n in range(300):
        trial = store.reserve("s", "w", "host", f"c{n}")
        assert trial is not None
        store.finish(trial.claim, Outcome(COMPLETE, 1.0))
    feeder.step()
    assert store.read == 300
    store.read = 0
    for n in range(10):
        trial = store.reserve("s", "w", "host", f"d{n}")
        assert trial is not None
        store.finish(trial.claim, Outcome(COMPLETE, 1.0))
        feeder.step()
    assert store.read <= 30


def test_pauses_are_short_while_things_happen_and_grow_when_they_do_not() -> None:
    bench = Bench(slots=1, max_trials=50)
    pauses = []
    bench.run_one(seconds=100)
    for _ in range(8):
        bench.step()
        pauses.append(bench.feeder.pause)
    assert pauses[0] <= 0.02
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.5
    bench.finish(bench.reserve(), seconds=0)
    bench.step()
    assert bench.feeder.pause == 0.02


# -- all studies -----------------------------------------------------------------------------------


def test_feed_all_feeds_every_study_and_new_ones() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    stop = threading.Event()
    fed: Mapping[str, int] = {"a": 2, "b": 3, "late": 1}
    rounds = 0

    def create(name: str) -> None:
        store.create_study(StudySpec(name, "m:f", SPACE.to_dict(), max_trials=fed[name]))

    def wait(event: threading.Event, seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        clock.advance(seconds)
        if rounds == 20:
            create("late")
        for name in (s.name for s in store.list_studies()):
            trial = store.reserve(name, "w", "host", f"{name}{rounds}")
            if trial is not None:
                store.finish(trial.claim, Outcome(COMPLETE, 1.0))
        done = [s.state is StudyState.COMPLETE for s in store.list_studies()]
        if (len(done) == 3 and all(done)) or rounds > 500:
            stop.set()

    create("a")
    create("b")
    feed_all(store, stop, clock=clock.seconds, wait=wait)
    assert {name: store.counts(name)[COMPLETE] for name in fed} == fed


def test_feed_all_of_an_unknown_study_says_so() -> None:
    with pytest.raises(StudyNotFoundError):
        feed_all(MemoryStore(), threading.Event(), only="nope")
