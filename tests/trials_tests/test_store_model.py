"""Any order of calls: MongoDB's store does what the memory's does, and no rule is ever broken."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from trials import memory_entries, pipelines
from trials.errors import TrialsError
from trials.memory_store import MemoryStore
from trials.mongo_store import MongoStore
from trials.store import CHECKPOINT, WEIGHTS, NewTrial, TrialStore
from trials.study import LEGAL_STUDY_TRANSITIONS, StudySpec, StudyState, taken
from trials.trial import (
    LEGAL_TRANSITIONS,
    TAKEN_STATES,
    Claim,
    Failure,
    FailureKind,
    Outcome,
    Report,
    Trial,
    TrialState,
)

pytestmark = pytest.mark.mongo

SPEC = StudySpec("s", "module:function", space={"name": "none", "rows": []}, max_trials=4)
TIMES = ("created_at", "started_at", "finished_at", "lease_expires_at")
workers = st.sampled_from(["w0", "w1"])
numbers = st.integers(0, 5)
leases = st.sampled_from([0.0, 1000.0])
losses = st.sampled_from([0.5, -1.0, math.inf, math.nan])
failures = st.builds(
    Failure,
    st.sampled_from(FailureKind),
    st.just("broke"),
    workers,
    st.just("h"),
    st.integers(1, 3),
)
outcomes = st.one_of(
    st.builds(Outcome, st.just(TrialState.COMPLETE), losses, st.just({"accuracy": 0.5})),
    st.builds(Outcome, st.just(TrialState.FAILED), failure=failures),
    st.builds(Outcome, st.sampled_from([TrialState.PRUNED, TrialState.CANCELLED])),
    st.builds(
        Outcome,
        st.just(TrialState.WAITING),
        failure=st.none() | failures,
        counts_as_retry=st.booleans(),
    ),
)


def comparable(value: Any) -> Any:
    """The same for equal answers of two stores; of their own clocks only whether a time is set."""
    if isinstance(value, Trial):
        told = {name: getattr(value, name) is not None for name in TIMES}
        return repr(dataclasses.replace(value, **dict.fromkeys(TIMES))), told
    if isinstance(value, list):
        return sorted(map(comparable, value))
    return repr(value)


def answer(call: Callable[[TrialStore], Any], store: TrialStore) -> tuple[Any, Any]:
    """What a call returns, raw and `comparable`; the kind of its refusal."""
    try:
        value = call(store)
    except TrialsError as error:
        return None, type(error).__name__
    return value, comparable(value)


class StoreMachine(RuleBasedStateMachine):
    """Both stores told the same, step by step."""

    mongo: MongoStore
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryStore()
        self.tokens = 0
        self.before: dict[int, Trial] = {}
        self.state = StudyState.ACTIVE
        for name in ("studies", "trials", "blobs.files", "blobs.chunks"):
            self.mongo._database[name].delete_many({})

    def both(self, call: Callable[[TrialStore], Any]) -> Any:
        value, expected = answer(call, self.memory)
        assert answer(call, self.mongo)[1] == expected
        return value

    @initialize()
    def launch(self) -> None:
        for store in (self.memory, self.mongo):
            self.study_before = store.create_study(SPEC)

    @rule(first=st.integers(0, 3) | st.none(), count=st.integers(1, 2), x=st.integers(0, 1))
    def add(self, first: int | None, count: int, x: int) -> None:
        number = len(self.before) if first is None else first
        trials = [NewTrial({"x": x}, seed=1)] * count
        self.both(lambda store: store.add_trials("s", None, number, trials))

    @rule(
        target=claims,
        worker=workers,
        lease=leases,
        elsewhere=st.sampled_from([0.0, 1000.0]),
        again=st.booleans(),
    )
    def reserve(self, worker: str, lease: float, elsewhere: float, again: bool) -> Any:
        self.tokens += not again
        token = f"t{self.tokens}"
        trial = self.both(lambda store: store.reserve("s", worker, "h", token, lease, elsewhere))
        return multiple() if trial is None else trial.claim

    @rule(claim=claims, lease=leases)
    def beat(self, claim: Claim, lease: float) -> None:
        self.both(lambda store: store.beat(claim, lease))

    @rule(claim=claims, steps=st.lists(st.integers(1, 3), max_size=2), loss=losses)
    def report(self, claim: Claim, steps: list[int], loss: float) -> None:
        reports = [Report(step, loss, {"accuracy": 0.5}, 1.5) for step in steps]
        self.both(lambda store: store.report(claim, reports))

    @rule(claim=claims, outcome=outcomes)
    def finish(self, claim: Claim, outcome: Outcome) -> None:
        self.both(lambda store: store.finish(claim, outcome))

    @rule()
    def release_expired(self) -> None:
        self.both(lambda store: store.release_expired())

    @rule(number=numbers)
    def cancel(self, number: int) -> None:
        self.both(lambda store: store.cancel_trial("s", number))

    @rule(number=numbers)
    def retry(self, number: int) -> None:
        self.both(lambda store: store.retry_trial("s", number))

    @rule(state=st.sampled_from(StudyState), late=st.none() | st.booleans())
    def steer(self, state: StudyState, late: bool | None) -> None:
        was = None if late is None else self.study_before if late else self.memory.get_study("s")
        self.both(lambda store: store.set_study_state("s", state, was=was).state)
        self.study_before = was or self.study_before

    @rule(budget=st.integers(1, 8))
    def resume(self, budget: int) -> None:
        spec = dataclasses.replace(SPEC, max_trials=budget)
        self.both(lambda store: store.create_study(spec).state)

    @rule(claim=claims, kind=st.sampled_from([CHECKPOINT, WEIGHTS]), data=st.binary(max_size=3))
    def save_blob(self, claim: Claim, kind: str, data: bytes) -> None:
        self.both(lambda store: store.save_blob(claim, kind, data))

    @rule(kind=st.sampled_from([CHECKPOINT, WEIGHTS]), keep=st.lists(numbers, max_size=2))
    def drop_blobs(self, kind: str, keep: list[int]) -> None:
        self.both(lambda store: store.drop_blobs("s", kind, keep))

    @rule()
    def sweep(self) -> None:
        self.mongo.sweep_blobs()

    @rule(number=numbers, kind=st.sampled_from([CHECKPOINT, WEIGHTS]))
    def load_blob(self, number: int, kind: str) -> None:
        self.both(lambda store: store.load_blob("s", number, kind))

    @invariant()
    def rules_hold(self) -> None:
        if "s" not in [study.name for study in self.memory.list_studies()]:
            return
        state = self.both(lambda store: store.get_study("s").state)
        assert state in (self.state, *LEGAL_STUDY_TRANSITIONS[self.state])
        self.state = state
        trials = self.both(lambda store: store.list_trials("s"))
        self.both(lambda store: store.best_trial("s"))
        self.both(lambda store: store.offers())
        counts = self.both(lambda store: store.counts("s"))
        assert sum(counts.values()) == len(trials)
        assert [trial.number for trial in trials] == list(range(len(trials)))
        tokens = [trial.token for trial in trials if trial.state is TrialState.RUNNING]
        assert len(set(tokens)) == len(tokens)
        for old in self.before.values():
            new = trials[old.number]
            assert new.state is old.state or new.state in LEGAL_TRANSITIONS[old.state]
            # One less: reserved again as its answer was lost, and by then beyond the budget.
            given_back = old.state is TrialState.RUNNING and not new.token
            assert new.attempt - old.attempt in ((0, 1, -1) if given_back else (0, 1))
            assert new.failures[: len(old.failures)] == old.failures
            assert repr(new.params) == repr(old.params)
        taken_before = sum(trial.state in TAKEN_STATES for trial in self.before.values())
        budget = self.memory.get_study("s").spec.max_trials
        assert taken(counts) <= max(budget, taken_before)  # a budget may be cut
        self.before = {trial.number: trial for trial in trials}


@pytest.fixture
def machine(
    mongo_store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[StoreMachine]]:
    for user in (pipelines, memory_entries):  # soon enough for 30 steps
        monkeypatch.setattr(user, "MOST_LOSSES", 2)
    StoreMachine.mongo = mongo_store
    yield StoreMachine
    del StoreMachine.mongo


def test_both_stores_agree_whatever_happens(machine: type[StoreMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
