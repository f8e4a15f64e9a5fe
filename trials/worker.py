"""A worker: reserves trials, has child processes run them, and never trains itself.

Threads: one for each slot (`trials.slot`), one heart that beats for all of them, and the main
thread, which answers signals. None of them runs an objective.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from trials.chooser import Chooser
from trials.errors import StudyNotFoundError, TrialRefusedError, TrialsError
from trials.settings import Shared, Stop, WorkerSettings
from trials.signals import SIGNAL_SECONDS, on_signals
from trials.slot import Slot
from trials.store import (
    REUNION_SECONDS,
    TrialStore,
    WorkerInfo,
)

__all__ = ["Worker", "WorkerSettings", "run_worker"]

FAREWELL_SECONDS = 0.5
"""For the heart to sign the worker off."""
log = logging.getLogger("larnn.worker")


class Worker:
    """Runs trials in its slots until it is stopped or has nothing left to do."""

    def __init__(
        self,
        store: TrialStore,
        settings: WorkerSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        host = socket.gethostname()
        self.name = f"{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._settings = settings
        self._shared = Shared(store, settings, self.name, host, clock)
        self._chooser = Chooser(store, settings.objectives, settings.studies, clock)
        self._slots = [Slot(self._shared, self._chooser, device) for device in settings.slots]
        self._heart = threading.Thread(target=self._beat_on, name="heart", daemon=True)
        self._over = threading.Event()

    def stop(self, how: Stop = Stop.GENTLY) -> None:
        """Make `run` return, within 5 s even through an outage.

        Callable from any thread, and from a signal handler.
        """
        # Without the event: whom the signal interrupted may be holding its lock.
        if how > self._shared.stop:
            self._shared.stop = how

    def run(self) -> None:
        """Serve until stopped.

        Raises:
            TrialRefusedError: If none of the studies it was started for can run here.
        """
        log.info("worker %s serves with slots %s", self.name, ", ".join(self._settings.slots))
        self._heart.start()
        for slot in self._slots:
            slot.start()
        while self._shared.stop is Stop.NO:
            time.sleep(SIGNAL_SECONDS)
        self._shared.stopping.set()
        deadline = time.monotonic() + self._settings.leave_s
        for slot in self._slots:
            slot.join(max(0.0, deadline - time.monotonic()))
            # One that still waits for the database is left behind; its lease runs out.
            if slot.is_alive():
                slot.kill_child()
        self._over.set()
        self._heart.join(FAREWELL_SECONDS)
        log.info("worker %s has left", self.name)
        if self._chooser.is_useless:
            raise TrialRefusedError(f"this worker has nothing it can run: {self._chooser.message}")

    @property
    def info(self) -> WorkerInfo:
        """What the worker says of itself."""
        studies = self._settings.studies
        messages = [self._chooser.message, *(slot.message for slot in self._slots)]
        return WorkerInfo(
            name=self.name,
            host=self._shared.host,
            pid=os.getpid(),
            slots=tuple(slot.info for slot in self._slots if not slot.is_parked),
            version=importlib.metadata.version("larnn-search"),
            message="; ".join(filter(None, messages)),
            studies=None if studies is None else tuple(studies),
        )

    def _beat_on(self) -> None:
        """Until the worker has left: beat, take back expired leases, see whether all is done."""
        clock, store = self._shared.clock, self._shared.store
        beat_at = clock()
        release_at = beat_at + min(REUNION_SECONDS, self._settings.lease_s)
        while True:
            if clock() >= beat_at:
                beat_at = clock() + self._settings.heartbeat_s
                for slot in self._slots:
                    if (attempt := slot.attempt) is not None:
                        self._guarded(attempt.beat)
                self._guarded(lambda: store.beat_worker(self.info))
            if clock() >= release_at:
                # Jitter: workers that started together take turns.
                release_at = clock() + self._settings.lease_s / 3 * random.uniform(0.8, 1.2)  # noqa: S311  # no secret
                self._guarded(self._release_expired)
            if self._chooser.is_useless:
                self.stop()
            self._guarded(self._stop_when_done)
            # Never late for a beat: what people decided is obeyed within 5 s.
            if self._over.wait(min(1.0, max(0.0, beat_at - clock()))):
                break
        self._guarded(lambda: store.remove_worker(self.name))

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except TrialsError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("a bug of the worker; it goes on")

    def _release_expired(self) -> None:
        for trial in self._shared.store.release_expired():
            lost = "trial %s of %s is %s: its worker was lost"
            log.warning(lost, trial.number, trial.study, trial.state)

    def _stop_when_done(self) -> None:
        names = self._settings.exit_when_done
        idle = all(slot.attempt is None for slot in self._slots)
        if names and idle and all(self._is_done(name) for name in names):
            self.stop()

    def _is_done(self, study: str) -> bool:
        try:
            return self._shared.store.get_study(study).state.is_over
        except StudyNotFoundError:
            return True


@contextmanager
def _signals_stop(worker: Worker) -> Iterator[list[signal.Signals]]:
    """Within the block SIGTERM and SIGINT stop the worker; a second one at once."""
    received: list[signal.Signals] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        worker.stop(Stop.GENTLY if len(received) == 1 else Stop.AT_ONCE)

    with on_signals(stop, signal.SIGTERM, signal.SIGINT):
        yield received


def run_worker(store: TrialStore, settings: WorkerSettings) -> signal.Signals | None:
    """Be a worker, in the process's main thread, until a signal or the work's end.

    The first SIGTERM or SIGINT lets trials save a checkpoint and puts them back into the queue; a
    second one puts them back at once.

    Returns:
        The first signal, None if the work was done.

    Raises:
        TrialRefusedError: If none of the settings' studies can run here.
    """
    worker = Worker(store, settings)
    with _signals_stop(worker) as received:
        worker.run()
    return received[0] if received else None
