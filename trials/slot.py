"""One slot of a worker: a thread that keeps one child busy with one trial after the other."""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections.abc import Mapping
from typing import Any

from trials.attempt import Attempt
from trials.chooser import Chooser
from trials.errors import StoreUnavailableError, TrialsError
from trials.failures import needs_fresh_child
from trials.health import SlotHealth
from trials.process import ChildGoneError, ChildProcess
from trials.settings import Shared
from trials.study import Study
from trials.trial import Trial, TrialState

FIRST_IDLE_SECONDS = 0.02
LAST_IDLE_SECONDS = 1.0
IDLE_GROWTH = 1.6
WARM_SECONDS = 300.0
"""An import may come from a slow network drive; one that never ends must not go unseen."""
log = logging.getLogger("larnn.worker")


class Slot(threading.Thread):
    """Reserves, runs and finishes trials until the worker stops."""

    def __init__(self, shared: Shared, chooser: Chooser, device: str) -> None:
        super().__init__(name=f"slot {device}", daemon=True)
        self.device = device
        self.attempt: Attempt | None = None
        """What runs now; the worker's heart beats for it."""
        self.is_parked = False
        """Too few of the worker's cores are free: not to be counted upon."""
        self.health = SlotHealth(shared.store, shared.settings, shared.clock)
        self._shared = shared
        self._chooser = chooser
        self._child: ChildProcess | None = None
        self._trouble = ""
        self._idle_s = FIRST_IDLE_SECONDS

    @property
    def info(self) -> Mapping[str, Any]:
        """What it does, as in `WorkerInfo.slots`."""
        attempt = self.attempt
        if attempt is not None:
            study, number = attempt.trial.study, attempt.trial.number
            return {"device": self.device, "study": study, "number": number, "state": "running"}
        state = "quarantined" if self.health.rests else "idle"
        return {"device": self.device, "study": None, "number": None, "state": state}

    @property
    def message(self) -> str:
        """What is wrong with it, for people."""
        problem = self.health.message or self._trouble
        return f"{self.device} {problem}" if problem else ""

    def run(self) -> None:
        """Serve until the worker stops. Whatever goes wrong with one trial, the next is tried."""
        stopping = self._shared.stopping
        while not stopping.is_set():
            try:
                served = self._serve()
            except TrialsError as error:  # for example the database is away
                log.warning("%s", error)
                served = False
            except Exception:
                log.exception("%s: a bug of the worker; it goes on", self.name)
                served = False
            if served:
                self._idle_s = FIRST_IDLE_SECONDS
                continue
            # Jitter: a hundred idle workers must not ask in step.
            stopping.wait(self._idle_s * random.uniform(0.75, 1.25))  # noqa: S311  # no secret
            self._idle_s = min(self._idle_s * IDLE_GROWTH, LAST_IDLE_SECONDS)
        self._end_child()

    def _serve(self) -> bool:
        """Run one trial, if there is one and the slot may."""
        if self.health.rests:
            return False
        for offer in self._chooser.offers(patience_s=self._idle_s / 2):
            try:
                study = self._shared.store.get_study(offer.study)
                if self._chooser.accepts(study):
                    if self._serve_study(study):
                        return True
                    if self.is_parked:
                        return False
            except StoreUnavailableError:
                raise
            except TrialsError as error:  # deleted meanwhile, or its document is broken
                log.warning("study %r is passed over: %s", offer.study, error)
            self._chooser.forget()
        self.is_parked = False
        return False

    def _serve_study(self, study: Study) -> bool:
        """Run one trial of a study, if it has one for this worker and the cores are free."""
        threads, cores = study.spec.threads, self._shared.cores
        self.is_parked = not cores.take(threads)
        if self.is_parked:
            self._chooser.hold(study.name)
            return False
        try:
            # Before the reservation: no trial waits for a child, nor for what it imports.
            child = self._ready_child(threads, study.spec.objective.partition(":")[0])
            trial = self._reserve(study) if child is not None else None
            if child is None or trial is None:
                return False
            self._chooser.took(study.name)
            self._run_trial(study, trial, child)
            return True
        finally:
            cores.give_back(threads)

    def _reserve(self, study: Study) -> Trial | None:
        shared, settings, token = self._shared, self._shared.settings, uuid.uuid4().hex
        # One token until an answer comes: a reservation whose answer was lost is found again.
        return shared.insist(
            lambda: shared.store.reserve(
                study.name,
                shared.name,
                shared.host,
                token,
                settings.lease_s,
                settings.elsewhere_s,
            )
        )

    def _run_trial(self, study: Study, trial: Trial, child: ChildProcess) -> None:
        self.attempt = attempt = Attempt(self._shared, study, trial, child)
        log.info("%s starts on %s", attempt, self.device)
        try:
            outcome = attempt.run()
            ended = attempt.finish(outcome) if outcome is not None else None
            if ended is not None:
                self._judge(attempt, ended)
        finally:
            self.attempt = None
            if not child.is_usable:
                self._end_child()

    def _judge(self, attempt: Attempt, ended: Trial) -> None:
        """Learn from how a trial ended, as it was written."""
        study, last = attempt.study, ended.failures[-1] if ended.failures else None
        failure = last if last is not None and last.attempt == attempt.trial.attempt else None
        if attempt.refusal is not None:
            self._chooser.leave_alone(study, attempt.refusal)
            log.warning("leaves study %r alone: %s", study.name, attempt.refusal)
        if failure is None:
            loss = "" if ended.loss is None else f", loss {ended.loss:.4g}"
            log.info("%s %s%s", attempt, _ending(ended), loss)
            if ended.state in (TrialState.COMPLETE, TrialState.PRUNED):
                self.health.succeeded()
            return
        log.warning("%s %s: %s: %s", attempt, _ending(ended), failure.kind, failure.message)
        if needs_fresh_child(failure):
            self._end_child()
        try:
            self.health.failed(study.name, ended.number, failure)
        except TrialsError as error:  # for example deleted meanwhile
            log.warning("study %r: %s", study.name, error)

    def _ready_child(self, threads: int, module: str) -> ChildProcess | None:
        """A child with so many threads and the objective's module; None if there is none now."""
        child = self._child
        if child is None or child.threads != threads or not child.is_usable:
            self._end_child()
            self._child = child = ChildProcess(device=self.device, threads=threads)
        if module in child.warmed:
            return child
        deadline = self._shared.clock() + WARM_SECONDS
        try:
            child.send({"type": "warm", "module": module})
            while not self._shared.stopping.is_set():
                if self._shared.clock() > deadline:
                    self._trouble = f"importing {module} takes longer than {WARM_SECONDS:.0f} s"
                    log.error("%s", self.message)
                    break
                for frame in child.receive(timeout_s=0.1):
                    if error := frame.header["error"]:
                        log.warning("cannot import %s: %s", module, error)
                    self._trouble = ""
                    child.warmed.add(module)
                    child.take_log()
                    return child
        except ChildGoneError as error:
            printed = child.take_log()[-500:].decode("utf-8", "replace").strip()
            self._trouble = f"cannot start its process: {error} {printed}"
            log.error("%s", self.message)
        self._end_child()
        return None

    def kill_child(self) -> None:
        """End the child from another thread, when this one does not come to it."""
        child = self._child
        if child is not None:
            child.kill()

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()


def _ending(trial: Trial) -> str:
    """What became of a trial, for the log."""
    if trial.state is TrialState.WAITING:
        return "goes back to the queue"
    return f"ends {trial.state}"
