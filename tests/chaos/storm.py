"""Breaks things at random, one after the other, and mends those that do not mend themselves."""

import contextlib
import os
import random
import signal
import time
from collections import Counter

from tests.acceptance.servers import Mongod, Proxy
from tests.chaos.observer import Observer
from tests.chaos.service import LEASE_SECONDS, Service
from tests.trials_tests.working import children, eventually
from trials.mongo_store import MongoStore

TICK_SECONDS = 0.1
LOOK_SECONDS = 0.5
STUCK_SECONDS = 90
"""Without one more finished trial for so long, the service is stuck."""
DECK = {
    "kill_child": 4,
    "kill_worker": 3,
    "pause_worker": 3,
    "cut_connections": 2,
    "silence_connections": 2,
    "kill_mongod": 2,
    "kill_feeder": 1,
}


class Storm:
    def __init__(self, service, busy, seed):
        self._service = service
        self._busy = busy
        self._random = random.Random(seed)
        self._deck = []
        self._repairs = []
        self._mongod_is_down = False
        self._paused = set()
        self._is_over = False
        self.torments = Counter()

    def torment(self):
        """One more misfortune; all kinds come in a shuffled order before any comes again."""
        if not self._deck:
            more = [name for name, times in DECK.items() for _ in range(times - 1)]
            self._deck = self._shuffled(more) + self._shuffled(DECK)
        name = self._deck.pop()
        if name == "kill_mongod" and self._mongod_is_down:
            return
        getattr(self, name)()
        self.torments[name] += 1

    def _shuffled(self, names):
        return self._random.sample(list(names), len(names))

    def _worker(self):
        """One that is awake and runs a trial, if any does: it has something to lose."""
        victims = (self._busy() or set()) - self._paused
        workers = self._service.workers
        return self._random.choice([w for w in workers if w.pid in victims] or workers)

    def mend(self, all_of_it=False):
        """Undo what has lasted long enough."""
        self._is_over = all_of_it
        now = time.monotonic()
        due = [repair for at, repair in self._repairs if all_of_it or at <= now]
        self._repairs = [(at, r) for at, r in self._repairs if not (all_of_it or at <= now)]
        for repair in due:
            repair()

    def _later(self, shortest, longest, repair):
        pause = self._random.uniform(shortest, longest)
        self._repairs.append((time.monotonic() + pause, repair))

    def kill_child(self):
        worker = self._worker()
        with contextlib.suppress(ProcessLookupError):
            for pid in children(worker.pid):
                os.kill(pid, signal.SIGKILL)

    def kill_worker(self):
        self._worker().kill()

    def kill_feeder(self):
        self._random.choice(self._service.feeders).kill()

    def pause_worker(self):
        worker = self._worker()
        worker.send_signal(signal.SIGSTOP)
        self._paused.add(worker.pid)
        self._later(1.2 * LEASE_SECONDS, 2 * LEASE_SECONDS, lambda: self._wake(worker))

    def _wake(self, worker):
        """Wake a worker once another has its trial; at the end in any case."""
        busy = self._busy()
        if not self._is_over and (busy is None or worker.pid in busy):
            self._later(0.3, 0.6, lambda: self._wake(worker))
            return
        self._paused.discard(worker.pid)
        worker.send_signal(signal.SIGCONT)

    def cut_connections(self):
        self._service.proxy.cut()
        self._later(0.1, 3, self._service.proxy.mend)

    def silence_connections(self):
        self._service.proxy.silence()
        self._later(0.5, 1.5 * LEASE_SECONDS, self._service.proxy.mend)

    def kill_mongod(self):
        self._service.mongod.kill()
        self._mongod_is_down = True
        self._later(0.1, 3, self._start_mongod)

    def _start_mongod(self):
        self._service.mongod.start()
        self._mongod_is_down = False

    def next_at(self):
        return time.monotonic() + self._random.uniform(0.3, 3)


def run(folder, seconds, max_trials, seed, say=lambda line: None):
    """Break things for ``seconds``, then let all come to rest; what happened, in numbers.

    Raises:
        AssertionError: If something was lost, done twice, wrong, stuck, or left running.
    """
    with (
        Mongod(folder / "db") as mongod,
        Proxy(mongod.port) as proxy,
        Service(folder, mongod, proxy) as service,
        MongoStore(mongod.uri(), retry_for_s=1) as store,
    ):
        observer = Observer(store, max_trials)
        storm = Storm(service, observer.busy, seed)
        observer.launch()
        _storm(service, storm, observer, seconds, say)
        storm.mend(all_of_it=True)
        say("the storm is over")
        eventually(lambda: _all_over(service, observer), STUCK_SECONDS)
        eventually(service.hears)
        assert service.leave() == [0] * 8, service.log.read_text()[-3000:]
        assert service.running() == []
        store.sweep_blobs()
        names = store.database["blobs.files"].distinct("_id")
        assert [name for name in names if "/checkpoint/" in name] == []
    refused = service.log.read_text().count("its result counts no more")
    return {
        "seed": seed,
        "torments": dict(storm.torments),
        "complete": observer.complete,
        "failures": dict(observer.kinds),
        "refused results": refused,
    }


def _storm(service, storm, observer, seconds, say):
    started = progressed = time.monotonic()
    torment_at, look_at, seen = storm.next_at(), started, 0
    while (now := time.monotonic()) < started + seconds:
        if not seen:
            started = now  # it begins with the first finished trial, however slow the machine is
        storm.mend()
        service.tend()
        if now >= torment_at and seen:
            storm.torment()
            torment_at = storm.next_at()
        if now >= look_at and (finished := observer.look_if_possible()) is not None:
            look_at = time.monotonic() + LOOK_SECONDS
            if len(observer.studies) < 2:
                observer.launch()
                torments = sum(storm.torments.values())
                say(f"{now - started:.0f} s: {finished} trials finished, {torments} torments")
            if finished > seen:
                seen, progressed = finished, now
        assert now < progressed + STUCK_SECONDS, service.log.read_text()[-3000:]
        time.sleep(TICK_SECONDS)


def _all_over(service, observer):
    service.tend()
    observer.look()
    return not observer.studies
