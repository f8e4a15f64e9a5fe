"""One attempt at one trial, from the worker's side: passes messages on and enforces every limit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trials.errors import (
    BrokenDocumentError,
    LeaseLostError,
    StoreUnavailableError,
    StudyNotFoundError,
    TrialsError,
)
from trials.failures import death, outcome_of
from trials.objective import StopReason
from trials.outbox import Outbox
from trials.pipe import Frame
from trials.process import ChildGoneError, ChildProcess
from trials.settings import Shared, Stop
from trials.store import CHECKPOINT, LOG, Control
from trials.study import Study, StudyState
from trials.trial import Failure, FailureKind, Outcome, Report, Trial, TrialState, least_loss

TICK_SECONDS = 0.1
"""How soon a stop or a limit is seen. What the child says is heard at once."""
MEMORY_CHECK_SECONDS = 0.5
TRACEBACK_BYTES = 4000
log = logging.getLogger("larnn.worker")


class Attempt:
    """Runs a reserved trial in a child and tells the store how it ended."""

    def __init__(self, shared: Shared, study: Study, trial: Trial, child: ChildProcess) -> None:
        self.trial = trial
        self.study = study
        self.refusal: str | None = None
        """Why the objective cannot run this study's trials here."""
        self._shared = shared
        self._child = child
        self._outbox = Outbox(shared.store, trial.claim)
        self._control = Control(study.state, study.cutoffs)
        self._lost: str | None = None
        self._told: StopReason | None = None
        self._killed_after = float("inf")
        self._started = self._progressed = self._memory_checked = float("-inf")
        self._latest: Report | None = None
        self._least_loss = least_loss(trial.reports)
        self._printed = b""

    def beat(self) -> None:
        """Renew the lease and hear what people decided. Called from the worker's heart thread."""
        try:
            self._control = self._shared.store.beat(self.trial.claim, self._shared.settings.lease_s)
        except (LeaseLostError, StudyNotFoundError) as error:
            self._lost = str(error)
        except TrialsError as error:
            # Training goes on: when the database is back, the lease may still be ours.
            log.warning("%s: %s", self, error)

    def run(self) -> Outcome | None:
        """Run the trial to its end; None when it is no longer this worker's."""
        try:
            outcome = self._run()
        except ChildGoneError:
            kind, message = death(*self._child.await_exit())
            self._printed = self._child.take_log()
            tail = self._printed[-TRACEBACK_BYTES:].decode("utf-8", "replace")
            outcome = self._failed(kind, message, tail)
        except (KeyError, ValueError, TypeError) as error:
            self._child.kill()
            outcome = self._failed(
                FailureKind.CRASH, f"the trial's process sent a message that is none: {error!r}"
            )
        self._printed = self._printed or self._child.take_log()
        return outcome

    def _run(self) -> Outcome | None:
        trial, spec = self.trial, self.study.spec
        try:
            checkpoint = self._load_checkpoint()
        except BrokenDocumentError as error:
            return self._failed(FailureKind.EXCEPTION, str(error))
        header = {
            "type": "trial",
            "objective": spec.objective,
            "params": dict(trial.params),
            "number": trial.number,
            "attempt": trial.attempt,
            "seed": trial.seed,
            "threads": spec.threads,
            "device": self._child.device.partition(":")[0],
            "requirements": dict(spec.requirements),
            "has_checkpoint": checkpoint is not None,
            "seconds_before": trial.reports[-1].seconds if trial.reports else 0.0,
        }
        try:
            self._child.send(header, checkpoint or b"")
        except ValueError as error:
            return self._failed(FailureKind.EXCEPTION, str(error))
        # From here on it is the trial's time: its checkpoint may have waited for the database.
        self._started = self._progressed = self._memory_checked = self._shared.clock()
        while True:
            for frame in self._child.receive(TICK_SECONDS):
                if (outcome := self._hear(frame)) is not None:
                    return outcome
            verdict = self._verdict()
            if verdict is None and self._outbox.error is not None:
                # What it reports from here on would be lost as well, and it would fail at its end.
                verdict = self._failed(FailureKind.EXCEPTION, self._outbox.error)
            if verdict is not None:
                self._child.kill()
                return verdict
            if self._lost is not None or self._outbox.lost:
                self._child.kill()
                self._outbox.discard()
                self._tell_lost(self._lost or "its lease ran out")
                return None

    def _load_checkpoint(self) -> bytes | None:
        if self.trial.attempt == 1:
            return None
        store, study, number = self._shared.store, self.trial.study, self.trial.number
        return self._shared.insist(lambda: store.load_blob(study, number, CHECKPOINT))

    def _hear(self, frame: Frame) -> Outcome | None:
        """Take one message of the child; the trial's outcome when it was the last."""
        header = frame.header
        match header["type"]:
            case "report":
                self._latest = Report(
                    header["step"], header["loss"], header["metrics"], header["seconds"]
                )
                self._least_loss = min(self._least_loss, least_loss([self._latest]))
                self._outbox.add_report(self._latest)
                self._progressed = self._shared.clock()
            case "blob":
                self._outbox.add_blob(header["kind"], frame.payload)
            case "complete":
                result = self._with_device(header["result"])
                return Outcome(TrialState.COMPLETE, loss=header["loss"], result=result)
            case "stopped":
                return self._stopped(header["result"])
            case "failed":
                kind = FailureKind(header["kind"])
                failed = self._failed(kind, header["message"], header["traceback"])
                return replace(failed, result=self._with_device(header["result"]))
            case "refused":
                self.refusal = header["message"]
                return Outcome(TrialState.WAITING)
        return None

    def _stopped(self, result: Mapping[str, Any]) -> Outcome:
        if self._told is StopReason.PRUNE:
            loss = self._latest.loss if self._latest else None
            return Outcome(TrialState.PRUNED, loss=loss, result=self._with_device(result))
        if self._told is StopReason.INTERRUPT:
            return Outcome(TrialState.WAITING)
        return self._failed(
            FailureKind.EXCEPTION, "the objective returned 'stopped' though nothing told it to stop"
        )

    def _verdict(self) -> Outcome | None:
        """Whether the trial is to be ended from outside, and how; also tells it to stop."""
        clock, control = self._shared.clock(), self._control
        if control.cancel or control.study_state is StudyState.CANCELLED:
            return Outcome(TrialState.CANCELLED)
        if self._shared.stop is Stop.AT_ONCE or clock >= self._killed_after:
            return Outcome(TrialState.WAITING)
        if self._shared.stop is Stop.GENTLY or control.study_state is StudyState.PAUSED:
            if self._killed_after == float("inf"):
                settings, leaves = self._shared.settings, self._shared.stop is Stop.GENTLY
                grace_s = settings.grace_s if leaves else settings.pause_grace_s
                self._killed_after = clock + grace_s
                self._tell(StopReason.INTERRUPT)
        elif self._is_hopeless():
            self._tell(StopReason.PRUNE)
        return self._broken_limit(clock)

    def _is_hopeless(self) -> bool:
        if self._latest is None:
            return False
        return self._least_loss > self._control.cutoffs.get(self._latest.step, float("inf"))

    def _tell(self, reason: StopReason) -> None:
        if self._told is None:
            self._told = reason
            self._child.send({"type": "stop", "reason": reason})

    def _broken_limit(self, clock: float) -> Outcome | None:
        spec = self.study.spec
        if spec.trial_timeout_s is not None and clock - self._started > spec.trial_timeout_s:
            return self._failed(
                FailureKind.TIMEOUT, f"ran longer than trial_timeout_s {spec.trial_timeout_s:g}"
            )
        if spec.stall_timeout_s is not None and clock - self._progressed > spec.stall_timeout_s:
            return self._failed(
                FailureKind.STALL,
                f"no report for longer than stall_timeout_s {spec.stall_timeout_s:g}",
            )
        limit = spec.memory_limit_bytes
        if limit is not None and clock - self._memory_checked >= MEMORY_CHECK_SECONDS:
            self._memory_checked = clock
            resident = self._child.resident_bytes()
            if resident > limit:
                return self._failed(
                    FailureKind.OUT_OF_MEMORY,
                    f"used {resident} bytes of memory, above memory_limit_bytes {limit}",
                )
        return None

    def _failed(self, kind: FailureKind, message: str, trace: str = "") -> Outcome:
        shared, trial = self._shared, self.trial
        failure = Failure(kind, message, shared.name, shared.host, trial.attempt, trace)
        outcome = outcome_of(failure, trial.retries, self.study.spec.max_retries)
        return replace(outcome, result=self._with_device({}))

    def _with_device(self, result: Mapping[str, Any]) -> dict[str, Any]:
        return {**result, "device": self._child.device}

    def _tell_lost(self, why: str) -> None:
        log.warning("%s was given up, its result counts no more: %s", self, why)

    def finish(self, outcome: Outcome) -> Trial | None:
        """Write what is still to be written, then how it ended; None when the lease was lost."""
        if self._printed:
            self._outbox.add_blob(LOG, self._printed)
        self._outbox.flush()
        if self._outbox.error is not None and outcome.state is TrialState.COMPLETE:
            outcome = self._failed(FailureKind.EXCEPTION, self._outbox.error)
        try:
            return self._write(outcome)
        except LeaseLostError as error:
            self._tell_lost(str(error))
            return None

    def _write(self, outcome: Outcome) -> Trial:
        store, claim = self._shared.store, self.trial.claim
        try:
            return self._shared.insist(lambda: store.finish(claim, outcome))
        except (LeaseLostError, StoreUnavailableError):
            raise
        except Exception as error:  # for example a result that is too large
            # Left RUNNING it would be lost, run again and refused again, without end.
            refused = self._failed(FailureKind.EXCEPTION, f"its result cannot be kept: {error}")
            return self._shared.insist(lambda: store.finish(claim, refused))

    def __str__(self) -> str:
        return f"trial {self.trial.number} of {self.trial.study} (attempt {self.trial.attempt})"
