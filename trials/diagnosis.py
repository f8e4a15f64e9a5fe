"""Why no trial of a study is starting, and the command that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trials.mongo_store import MongoStore
from trials.store import WorkerInfo
from trials.study import Study, StudyState
from trials.trial import BUDGET_STATES, TrialState


@dataclass(frozen=True, slots=True)
class Symptom:
    """How a study gets on."""

    study: str
    is_stuck: bool
    """Whether nothing will happen until somebody acts."""
    message: str
    mend: str = ""


def diagnose_study(store: MongoStore, only: str | None = None) -> Iterator[Symptom]:
    """Look at every study that is not over, or at ``only`` one.

    Raises:
        StudyNotFoundError: If there is no study ``only``.
    """
    studies = store.list_studies() if only is None else [store.get_study(only)]
    workers, unfed = store.list_workers(), set(store.unfed_studies())
    for study in studies:
        if only is not None or not study.state.is_over:
            yield _diagnose(store, study, workers, is_fed=study.name not in unfed)


def _diagnose(store: MongoStore, study: Study, alive: list[WorkerInfo], *, is_fed: bool) -> Symptom:
    name, counts = study.name, store.counts(study.name)
    workers = [worker for worker in alive if worker.serves(name)]
    waiting, running = counts[TrialState.WAITING], counts[TrialState.RUNNING]
    finished = sum(counts[state] for state in BUDGET_STATES)
    feed = f"larnn-search feed --study {name}"

    def stuck(message: str, mend: str) -> Symptom:
        return Symptom(name, True, message, mend)

    def well(message: str) -> Symptom:
        return Symptom(name, False, message)

    if study.state.is_over:
        return well(f"is {study.state}: {study.message or 'it has ended'}")
    if study.state is StudyState.PAUSED:
        return stuck("is PAUSED: no trial starts", f"larnn-search resume {name}")
    if not workers and (running or waiting or is_fed):
        own = study.spec.objective.partition(":")[0].startswith("search.")
        allow = "" if own else f" --allow-objective {study.spec.objective}"
        lack = "every worker serves other studies only" if alive else "no worker is alive"
        return stuck(
            f"{waiting} trials wait and {lack}",
            f"larnn-search worker --study {name}{allow}",
        )
    if not is_fed and study.state is StudyState.STOPPING and not running:
        return stuck("is STOPPING, but no feeder completes it", feed)
    if not is_fed and not waiting:
        return stuck("no trial waits, and no feeder suggests one", feed)
    if running or study.state is StudyState.STOPPING:
        return well(f"{running} trials run, {waiting} wait, {finished} have finished")
    if not waiting:
        return well("its feeder is at work on the next suggestion")
    return _why_none_takes_it(name, waiting, workers) or well(f"{waiting} trials wait to be taken")


def _why_none_takes_it(name: str, waiting: int, workers: list[WorkerInfo]) -> Symptom | None:
    """What keeps every worker from a study whose trials wait; None if nothing does."""
    left = [w.message for w in workers if f"leaves study {name!r} alone" in w.message]
    states = [str(_entry(slot, "state")) for worker in workers for slot in worker.slots]
    if len(left) == len(workers):
        why = left[0].partition(f"leaves study {name!r} alone: ")[2].partition("; leaves study")[0]
        mend = why.partition("start the worker with ")[2]
        start = f"larnn-search worker {mend}" if mend else "larnn-search worker on another machine"
        return Symptom(name, True, f"is left alone by every worker: {why}", start)
    if states and all(state == "quarantined" for state in states):
        return Symptom(
            name,
            True,
            "every slot rests after failures in a row",
            f"larnn-search trials {name} --state FAILED, then restart the workers",
        )
    if states and all(state == "running" for state in states):
        return Symptom(
            name,
            False,
            f"{waiting} trials wait: every slot runs another study's",
            f"larnn-search worker --study {name}",
        )
    return None


def _entry(slot: Mapping[str, object], name: str) -> object:
    return slot.get(name) if isinstance(slot, Mapping) else None
