"""Speed of the queue on a private mongod: ``python -m benchmarks.queue [PART ...]``.

Parts: throughput, gap, growth, idle, feeding; and long (10,000 trials of 1 s on 16 worker
processes, about 11 minutes), which runs only when it is named. ``--seconds`` is how long throughput
and idle are watched, ``--trials`` how many feeding and long have.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TypeVar

from benchmarks.feeding import feeding
from search.snapshot import take_snapshot
from trials.documents import encode_trial
from trials.embedded import embedded_server
from trials.mongo_store import MongoStore
from trials.settings import Stop, WorkerSettings
from trials.store import NewTrial
from trials.study import StudySpec
from trials.trial import Outcome, Report, TrialState
from trials.worker import Worker

SPAWN = multiprocessing.get_context("spawn")
PROCESSES = 4
SLEEP = "benchmarks.sleep:sleep"
BATCH = 5000
Row = tuple[str, str]
T = TypeVar("T")


def fill(
    store: MongoStore, study: str, count: int, *, complete: int = 0, seconds: float = 0
) -> None:
    """A study of ``count`` trials, the first ``complete`` of them COMPLETE."""
    store.create_study(StudySpec(study, SLEEP, space={"name": "none", "rows": []}))
    now = datetime.now(UTC)
    new = NewTrial({"seconds": seconds, "x": 0.5, "window_size": 10}, seed=1)
    done = {"state": "COMPLETE", "loss": 0.5, "attempt": 1, "worker": "w", "host": "h"}
    done |= {"started_at": now, "finished_at": now}
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        documents = [
            encode_trial(study, n, new, now) | (done if n < complete else {}) for n in numbers
        ]
        store.database["trials"].insert_many(documents)


# -- throughput ----------------------------------------------------------------------------------


def throughput(uri: str, seconds: float, trials: int) -> Iterator[Row]:
    """Trials reserved and finished per second by workers that do nothing else."""
    for workers in (1, 8, 32, 128):
        database = f"bench_{uuid.uuid4().hex}"
        with MongoStore(uri, database) as store:
            fill(store, "s", 60_000)
            processes = min(workers, PROCESSES)
            start = SPAWN.Barrier(processes)
            with SPAWN.Pool(processes, _start_together, [start]) as pool:
                share = [(uri, database, workers // processes, seconds)] * processes
                rate = sum(pool.starmap(serve, share, chunksize=1))
            store.database.client.drop_database(database)
        yield f"{workers} simulated workers", f"{rate:.0f} reserve + finish per second"


_start: Barrier


def _start_together(start: Barrier) -> None:
    global _start
    _start = start


def serve(uri: str, database: str, threads: int, seconds: float) -> float:
    """Trials per second of some workers, which are threads of this process."""
    counts = [0] * threads
    with MongoStore(uri, database) as store:
        _start.wait()  # imports are done, and each process has the others' company throughout
        stop_at = time.monotonic() + seconds

        def work(i: int) -> None:
            while time.monotonic() < stop_at:
                trial = store.reserve("s", f"w{i}", "h", uuid.uuid4().hex)
                assert trial is not None
                store.finish(trial.claim, Outcome(TrialState.COMPLETE, 0.5))
                counts[i] += time.monotonic() < stop_at

        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return sum(counts) / seconds


# -- one worker's idle time ----------------------------------------------------------------------


def gap(uri: str, seconds: float, trials: int) -> Iterator[Row]:
    """Time between a trial's end and the start of the same worker's next, by the database."""
    with working(uri, 1) as (store, _):
        fill(store, "s", 200, seconds=0.02)
        wait_until(lambda: store.counts("s")[TrialState.COMPLETE] == 200)
        done = sorted(store.list_trials("s"), key=lambda trial: trial.number)
    gaps = [
        (after.started_at - before.finished_at).total_seconds() * 1000
        for before, after in itertools.pairwise(done)
        if after.started_at and before.finished_at
    ]
    yield "between two trials of a worker, median", f"{statistics.median(gaps):.0f} ms"
    yield "the slowest of ten", f"{statistics.quantiles(gaps, n=10)[-1]:.0f} ms"


@contextlib.contextmanager
def working(uri: str, count: int, slots: int = 1) -> Iterator[tuple[MongoStore, list[Worker]]]:
    """Workers with connections of their own, and one more store."""
    database = f"bench_{uuid.uuid4().hex}"
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(MongoStore(uri, database))
        workers, threads = [], []
        for _ in range(count):
            own = stack.enter_context(MongoStore(uri, database))
            workers.append(Worker(own, WorkerSettings(objectives=[SLEEP], slots=["cpu"] * slots)))
            threads.append(threading.Thread(target=workers[-1].run))
            threads[-1].start()
        try:
            wait_until(lambda: len(store.list_workers()) == count)
            yield store, workers
        finally:
            for worker in workers:
                worker.stop(Stop.AT_ONCE)
            for thread in threads:
                thread.join()
            store.database.client.drop_database(database)


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.1)


# -- growth --------------------------------------------------------------------------------------


def growth(uri: str, seconds: float, trials: int) -> Iterator[Row]:
    """Each step of a trial, and `status`, at 100 and at 100,000 trials, which take turns."""
    sizes, repeats = (100, 100_000), 300
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    databases = [f"bench_{uuid.uuid4().hex}" for _ in sizes]
    with MongoStore(uri, databases[0]) as small, MongoStore(uri, databases[1]) as large:
        stores = dict(zip(sizes, (small, large), strict=True))
        for size, store in stores.items():
            fill(store, "s", size + repeats, complete=size)
        for i, (size, store) in itertools.product(range(repeats), stores.items()):
            for name, took in steps(store, with_status=i % 10 == 0):
                times[name, size].append(took)
        for store in stores.values():
            store.database.client.drop_database(store.database.name)
    for name in dict.fromkeys(name for name, _ in times):
        few, many = (statistics.median(times[name, size]) for size in sizes)
        yield name, f"{few:.2f} ms at 100, {many:.2f} ms at 100,000 trials: {many / few:.2f}x"


def steps(store: MongoStore, *, with_status: bool) -> Iterator[tuple[str, float]]:
    """Milliseconds of each step of one trial's life."""

    def timed(call: Callable[[], T]) -> tuple[T, float]:
        started = time.perf_counter()
        return call(), (time.perf_counter() - started) * 1000

    trial, took = timed(lambda: store.reserve("s", "w", "h", uuid.uuid4().hex))
    assert trial is not None
    yield "reserve", took
    yield "beat", timed(lambda: store.beat(trial.claim))[1]
    yield "report", timed(lambda: store.report(trial.claim, [Report(1, 0.5)]))[1]
    done = Outcome(TrialState.COMPLETE, 0.5)
    yield "finish", timed(lambda: store.finish(trial.claim, done))[1]
    if with_status:
        yield "status", timed(lambda: take_snapshot(store, "s"))[1]


# -- idle ----------------------------------------------------------------------------------------


def idle(uri: str, seconds: float, trials: int) -> Iterator[Row]:
    """Database operations of 50 workers with nothing to do."""
    for slots in (1, 4):
        with working(uri, 50, slots) as (store, _):
            time.sleep(10)  # until they ask as seldom as they ever do
            before = operations(store)
            time.sleep(2 * seconds)
            rate = (operations(store) - before) / (2 * seconds)
        yield f"50 idle workers, slots: {slots}", f"{rate:.0f} database operations per second"


def operations(store: MongoStore) -> int:
    counters = store.database.client.admin.command("serverStatus")["opcounters"]
    return sum(value for value in counters.values() if isinstance(value, int))


# -- long ----------------------------------------------------------------------------------------


def long(uri: str, seconds: float, trials: int, workers: int = 16) -> Iterator[Row]:
    """Wall time of many short trials on worker processes, beside the ideal."""
    command = [sys.executable, "-m", "search", "worker", "--slots", "1", "--device", "cpu"]
    command += ["--allow-objective", SLEEP]
    with MongoStore(uri) as store, contextlib.ExitStack() as stack:
        environment = os.environ | {"LARNN_MONGO_URI": uri}
        for _ in range(workers):
            process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        wait_until(lambda: len(store.list_workers()) == workers)
        fill(store, "long", trials, seconds=1)
        wait_until(lambda: store.counts("long")[TrialState.COMPLETE] == trials)
        listed = store.list_trials("long", with_reports=False)
        first = min(trial.started_at for trial in listed if trial.started_at)
        last = max(trial.finished_at for trial in listed if trial.finished_at)
    took, ideal = (last - first).total_seconds(), trials / workers
    yield (
        f"{trials} trials of 1 s on {workers} workers",
        f"{took:.0f} s: {took / ideal:.3f}x of ideal",
    )


PARTS = {part.__name__: part for part in (throughput, gap, growth, idle, feeding, long)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--trials", type=int, default=10_000)
    chosen = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as folder, embedded_server(folder) as uri:
        for name in chosen.parts or [part for part in PARTS if part != "long"]:
            print(f"\n{name}: {PARTS[name].__doc__}")
            for what, figure in PARTS[name](uri, chosen.seconds, chosen.trials):
                print(f"  {what}: {figure}", flush=True)


if __name__ == "__main__":
    main()
