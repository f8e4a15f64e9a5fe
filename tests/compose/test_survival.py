"""A search to which everything happens: it ends with the asked-for trials, none lost."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.compose.stack import Stack, wait_until
from trials.mongo_store import MongoStore
from trials.study import StudyState
from trials.trial import BUDGET_STATES, FailureKind, Trial, TrialState

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]
STUDY = "compose"
MAX_TRIALS = 20
# Every trial takes about 10 s of a core: long enough for things to happen to it.
LAUNCH = [
    "launch", "--study", STUDY, "--data", "har", "--epochs", "2", "--max-trials", str(MAX_TRIALS),
    "--fix", "num_layers=2", "--fix", "window_size=16", "--fix", "num_heads=6",
    "--fix", "head_size=8", "--pruner", "none",
]  # fmt: skip


def finished(store: MongoStore) -> int:
    counts = store.counts(STUDY)
    return sum(counts[state] for state in BUDGET_STATES)


def wait_for_another(store: MongoStore, after: str) -> None:
    """See that the search goes on."""
    seen = finished(store)
    assert seen < MAX_TRIALS, f"all trials finished before {after}: make them longer"
    wait_until(lambda: finished(store) > seen, 300, f"a finished trial after {after}")


def running(store: MongoStore) -> list[Trial]:
    return store.list_trials(STUDY, [TrialState.RUNNING], with_reports=False)


def test_a_search_loses_nothing(stack: Stack) -> None:
    stack.compose("up", "-d", "--scale", "worker=1")
    stack.search(*LAUNCH, "--no-wait")
    with stack.store() as store:
        wait_until(lambda: finished(store) >= 1, 300, "a first finished trial")

        stack.compose("up", "-d", "--scale", "worker=3", "--no-recreate")
        wait_until(lambda: len(running(store)) == 3, 120, "three workers at work")

        _lose_a_worker(stack, store)
        _kill_the_feeder(stack, store)

        stack.compose("restart", "-t", "0", "mongo")
        wait_for_another(store, "mongo's restart")

    _stop_and_go_on(stack)
    _check_answer(stack)


def _lose_a_worker(stack: Stack, store: MongoStore) -> None:
    """A container dies as if its machine had: another worker runs its trial again."""
    victim = running(store)[0]
    # Docker's own name for a container's host is the start of its id.
    (container,) = [c for c in stack.containers("worker") if c.startswith(str(victim.host))]
    stack.docker("kill", container)
    lost = wait_until(
        lambda: [
            failure
            for trial in store.list_trials(STUDY, with_reports=False)
            for failure in trial.failures
            if failure.kind is FailureKind.LOST_WORKER and failure.host == victim.host
        ],
        180,
        "the lost worker's trial taken back",
    )
    assert len(lost) == 1
    stack.compose("up", "-d", "--scale", "worker=3", "--no-recreate")


def _kill_the_feeder(stack: Stack, store: MongoStore) -> None:
    """It comes back by its restart policy, and the search goes on."""
    (feeder,) = stack.containers("feeder")
    stack.docker("exec", feeder, "sh", "-c", "kill -9 -1 || true")
    wait_until(lambda: stack.inspect(feeder)["RestartCount"] == 1, 60, "the feeder's restart")
    wait_for_another(store, "the feeder's death")


def _stop_and_go_on(stack: Stack) -> None:
    """`down` sends the running trials back to the queue; `up` finds everything still there."""
    with stack.store() as store:
        before = wait_until(lambda: running(store), 60, "a trial at work")
    stack.compose("down")
    stack.compose("up", "-d", "--scale", "worker=3")
    with stack.store() as store:
        wait_until(
            lambda: store.get_study(STUDY).state is StudyState.COMPLETE, 600, "the study's end"
        )
        assert running(store) == []
        after = [store.get_trial(STUDY, trial.number) for trial in before]
    went_on = [
        (old, new) for old, new in zip(before, after, strict=True) if new.attempt > old.attempt
    ]
    assert went_on, "`down` interrupted no trial"
    lost = [new.failures for old, new in went_on if new.failures != old.failures]
    assert not lost, "trials were lost rather than given back"


def _check_answer(stack: Stack) -> None:
    trials = json.loads(stack.search("trials", STUDY, "--json"))
    assert [trial["number"] for trial in trials] == list(range(len(trials)))
    assert Counter(t["state"] for t in trials if t["state"] != "CANCELLED") == {
        "COMPLETE": MAX_TRIALS
    }
    assert all(trial["params"]["epochs"] == 2 for trial in trials)

    # Launched again, a finished study shows its answer and draws its figures.
    answer = json.loads(stack.search(*LAUNCH, "--json").splitlines()[-1])
    assert answer["counts"]["COMPLETE"] == MAX_TRIALS
    losses = [trial["loss"] for trial in trials if trial["state"] == "COMPLETE"]
    assert answer["best"]["loss"] == min(losses)
    (notebook,) = stack.containers("notebook")
    shown = stack.docker("exec", notebook, "ls", f"/home/larnn/results/{STUDY}")
    assert ".png" in shown
