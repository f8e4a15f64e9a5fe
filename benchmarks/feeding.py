"""A feeder's memory and time over a long search; a part of ``python -m benchmarks.queue``."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from search.named_spaces import NAMED_SPACES
from trials.mongo_store import MongoStore
from trials.store import WorkerInfo
from trials.study import StudySpec
from trials.trial import Outcome, Report, TrialState

WORKERS = 8
EPOCHS = 20
MARKS = (1_000, 2_000, 5_000, 10_000)
LATEST = 500
"""Trials before a mark over which the time is taken."""


def feeding(uri: str, seconds: float, trials: int) -> Iterator[tuple[str, str]]:
    """Memory and CPU time of `larnn-search feed` (TPE, space `card`); its trials take no time."""
    marks = [mark for mark in MARKS if mark <= trials] or [trials]
    spec = StudySpec(
        f"feeding-{uuid.uuid4().hex[:6]}",
        "benchmarks.sleep:sleep",
        space=NAMED_SPACES["card"].to_dict(),
        max_trials=marks[-1],
        pruner={"name": "asha"},
    )
    with MongoStore(uri) as store:
        store.create_study(spec)
        over = threading.Event()
        workers = [
            threading.Thread(target=work, args=(store, spec.name, i, over)) for i in range(WORKERS)
        ]
        command = [sys.executable, "-m", "search", "feed", "--study", spec.name]
        feeder = subprocess.Popen(
            command, env=os.environ | {"LARNN_MONGO_URI": uri}, stderr=subprocess.DEVNULL
        )
        try:
            for worker in workers:
                worker.start()
            for mark in marks:
                wait_for(store, spec.name, mark - LATEST)
                before, finished = cpu_seconds(feeder.pid), count(store, spec.name)
                wait_for(store, spec.name, mark - WORKERS)  # before the study is over
                spent = cpu_seconds(feeder.pid) - before
                each = 1000 * spent / (count(store, spec.name) - finished)
                memory = resident_bytes(feeder.pid) / 2**20
                yield f"at {mark} trials", f"{memory:.0f} MiB, {each:.0f} ms of CPU a trial"
        finally:
            over.set()
            feeder.terminate()
            feeder.wait()
            for worker in workers:
                worker.join()
            store.delete_study(spec.name)


def work(store: MongoStore, study: str, number: int, over: threading.Event) -> None:
    """Be a worker whose trials report and end at once, with a loss that can be learnt."""
    slot = {"device": "cpu", "study": study, "number": None, "state": "running"}
    me, beat_at = WorkerInfo(f"w{number}", "h", 0, (slot,)), 0.0
    while not over.is_set():
        if time.monotonic() >= beat_at:
            beat_at = time.monotonic() + 3
            store.beat_worker(me)
        trial = store.reserve(study, me.name, me.host, uuid.uuid4().hex)
        if trial is None:
            over.wait(0.1)
            continue
        loss = abs(math.log(trial.params["learning_rate"] / 0.01)) + trial.params["dropout"]
        reports = [Report(step, loss + 1 / step, {"accuracy": 0.5}) for step in range(1, EPOCHS)]
        store.report(trial.claim, reports)
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, loss))


def count(store: MongoStore, study: str) -> int:
    return store.counts(study)[TrialState.COMPLETE]


def wait_for(store: MongoStore, study: str, finished: int) -> None:
    while count(store, study) < finished:
        time.sleep(0.2)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")
