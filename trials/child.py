"""The process that runs objectives: ``python -m trials.child FD``.

It has no database. It talks to its worker (`trials.process`) over a private pipe and stays warm
between trials. When the worker is gone, it is ended with everything it started.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trials.errors import TrialRefusedError
from trials.objective import StopReason, TrialContext
from trials.pipe import Frame, Pipe
from trials.plain import plain_number, plain_result
from trials.store import CHECKPOINT, WEIGHTS
from trials.trial import FailureKind

TRACEBACK_CHARACTERS = 4000
GUARD = "trap '' INT TERM; read -r _; kill -9 0"
"""Waits for the end of its input, then ends its process group, itself included."""
Objective = Callable[..., Any]


@dataclass
class PipeContext:
    """The `TrialContext` of one trial: passes everything on to the worker."""

    number: int
    attempt: int
    seed: int
    threads: int
    device: str
    requirements: Mapping[str, Any]
    pipe: Pipe
    checkpoint: bytes | None
    seconds_before: float
    stop: StopReason | None = None
    """Set by the thread that listens to the worker."""
    started: float = field(default_factory=time.monotonic)
    ended: bool = False

    def report(self, step: int, loss: float, **metrics: float) -> None:
        """Say how step ``step`` went."""
        self._send(
            {
                "type": "report",
                "step": int(plain_number(step, "step")),
                "loss": plain_number(loss, "loss"),
                "metrics": {name: plain_number(value, name) for name, value in metrics.items()},
                "seconds": self.seconds_before + time.monotonic() - self.started,
            }
        )

    def stop_reason(self) -> StopReason | None:
        """Whether to stop now."""
        return self.stop

    def save_checkpoint(self, data: bytes) -> None:
        """Keep where the trial stands."""
        self.checkpoint = bytes(data)
        self._send({"type": "blob", "kind": CHECKPOINT}, self.checkpoint)

    def load_checkpoint(self) -> bytes | None:
        """What was saved last, by this attempt or an earlier one."""
        return self.checkpoint

    def save_weights(self, data: bytes) -> None:
        """Keep what the trial made."""
        self._send({"type": "blob", "kind": WEIGHTS}, bytes(data))

    def _send(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        # A thread that an objective left behind must not speak for the next trial.
        if self.ended:
            raise RuntimeError(f"trial {self.number} has ended: nothing can be reported for it")
        self.pipe.send(header, payload)


class Listener(threading.Thread):
    """Hears what the worker says while the main thread trains."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(name="listener", daemon=True)
        self._pipe = pipe
        self._context: PipeContext | None = None
        self.orders: queue.SimpleQueue[tuple[Frame, PipeContext | None]] = queue.SimpleQueue()

    def run(self) -> None:
        """Sort messages until the worker is gone or speaks nonsense, then end the whole group."""
        try:
            while True:
                for frame in self._pipe.receive():
                    self._sort(frame)
        finally:
            os.killpg(0, signal.SIGKILL)

    def _sort(self, frame: Frame) -> None:
        # Frames arrive in order: a stop that crossed its trial's result finds the old context.
        if frame.header["type"] == "stop":
            if self._context is not None and self._context.stop is not StopReason.PRUNE:
                self._context.stop = StopReason(frame.header["reason"])
            return
        if frame.header["type"] == "trial":
            self._context = make_context(frame, self._pipe)
        self.orders.put((frame, self._context))


def make_context(frame: Frame, pipe: Pipe) -> PipeContext:
    """The context of the trial that the worker sent."""
    header = frame.header
    return PipeContext(
        number=header["number"],
        attempt=header["attempt"],
        seed=header["seed"],
        threads=header["threads"],
        device=header["device"],
        requirements=header["requirements"],
        pipe=pipe,
        checkpoint=frame.payload if header["has_checkpoint"] else None,
        seconds_before=header["seconds_before"],
    )


def load_objective(name: str) -> Objective:
    """Import ``module:function``.

    Raises:
        TrialRefusedError: If this machine cannot; another one may.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise TrialRefusedError(
            f"cannot import the objective {name!r}: {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise TrialRefusedError(f"the objective {name!r} is not a function")
    return found  # type: ignore[no-any-return]  # any callable may be an objective


def takes_context(objective: Objective) -> bool:
    """Whether it wants a `TrialContext`; an objective written for `hyperopt.fmin` does not."""
    parameters = inspect.signature(objective).parameters.values()
    return any(p.name == "context" or p.kind is p.VAR_KEYWORD for p in parameters)


def call(objective: Objective, params: Mapping[str, Any], context: TrialContext) -> Any:
    """What an objective returns, which may or may not want a context."""
    arguments = {"context": context} if takes_context(objective) else {}
    return objective(params, **arguments)


def run_trial(header: Mapping[str, Any], context: PipeContext) -> dict[str, Any]:
    """Run one trial to its end; whatever happens becomes a message."""
    try:
        return ending(call(load_objective(header["objective"]), header["params"], context))
    except TrialRefusedError as error:
        return {"type": "refused", "message": str(error)}
    except BaseException as error:  # sys.exit() in an objective is its failure, not our end
        trace = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
        message = f"{type(error).__name__}: {error}"[:TRACEBACK_CHARACTERS]
        return failure(kind_of(error), message, trace)


def ending(result: Any) -> dict[str, Any]:
    """Check what an objective returned.

    Raises:
        TypeError: If it is not ``{"loss": number, "status": "ok", ...}`` of plain values.
    """
    if not isinstance(result, Mapping):
        raise TypeError(
            "an objective returns {'loss': number, 'status': 'ok', ...}, "
            f"got a {type(result).__name__}"
        )
    values = plain_result(result)
    status = values.pop("status", "ok")
    if status == "stopped":
        values.pop("loss", None)
        return {"type": "stopped", "result": values}
    if status != "ok":
        raise TypeError(f"an objective's status is 'ok' or 'stopped', got {status!r}")
    if "loss" not in values:
        raise TypeError(f"an objective's result needs a loss, got only {', '.join(values) or '{}'}")
    loss = plain_number(values.pop("loss"), "loss")
    if not math.isfinite(loss):
        why = f": {values.pop('message')}" if "message" in values else ""
        return failure(FailureKind.NAN_LOSS, f"the loss is {loss}{why}", result=values)
    return {"type": "complete", "loss": loss, "result": values}


def failure(
    kind: FailureKind, message: str, trace: str = "", result: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The message that a trial failed, with what it returned all the same."""
    told = {"kind": kind, "message": message, "traceback": trace}
    return {"type": "failed", **told, "result": dict(result or {})}


def kind_of(error: BaseException) -> FailureKind:
    """Tell running out of memory, the machine's or the GPU's, from other exceptions."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return FailureKind.OUT_OF_MEMORY
    if any(sign in str(error) for sign in ("CUDA out of memory", "DefaultCPUAllocator")):
        return FailureKind.OUT_OF_MEMORY
    return FailureKind.EXCEPTION


def warm_up(module: str) -> dict[str, Any]:
    """Import ``module`` ahead of a trial; what fails here is told again by the trial."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return {"type": "ready", "error": f"{type(error).__name__}: {error}"}
    return {"type": "ready", "error": None}


class Output:
    """Standard output and error as they were, whatever a trial did to them."""

    def __init__(self) -> None:
        self._streams = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._kept = {name: os.dup(stream.fileno()) for name, stream in self._streams.items()}

    def settle(self) -> None:
        """Write out what was printed, and put back streams that were replaced or closed."""
        for name, stream in self._streams.items():
            with contextlib.suppress(Exception):  # what a trial put in place may do anything
                getattr(sys, name).flush()
            if stream.closed:
                number = 1 if name == "stdout" else 2
                os.dup2(self._kept[name], number)
                self._streams[name] = stream = open(number, "w", buffering=1)  # noqa: SIM115  # it stays
            setattr(sys, name, stream)


def serve(pipe: Pipe) -> None:
    """Do what the worker orders, for as long as it lives."""
    listener = Listener(pipe)
    listener.start()
    output = Output()
    while True:
        frame, context = listener.orders.get()
        if frame.header["type"] == "warm":
            answer = warm_up(frame.header["module"])
        else:
            assert context is not None  # noqa: S101  # every other order is a trial
            answer = run_trial(frame.header, context)
            context.ended = True
        # What the trial printed must be in the log before the worker hears that it ended.
        output.settle()
        pipe.send(answer)


def leave_signals_to_the_worker() -> None:
    """Let SIGINT and SIGTERM of a terminal or service manager pass without effect.

    Not SIG_IGN: processes that an objective starts would inherit it, and could not be terminated.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
        os.register_at_fork(after_in_child=functools.partial(signal.signal, number, signal.SIG_DFL))


def start_guard() -> subprocess.Popen[bytes]:
    """Have a process of its own end this group as soon as the worker is gone.

    No thread of ours could do it while C code (a regular expression, say) holds Python's lock. And
    not PR_SET_PDEATHSIG: it is Linux's alone, goes by the worker's thread that started us, and
    leaves what we started alive. The worker holds the other end of our standard input, which is the
    guard's from here on.
    """
    guard = subprocess.Popen(
        ["/bin/sh", "-c", GUARD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    return guard


def main() -> None:
    """Serve the worker at the other end of the descriptor named by the first argument."""
    leave_signals_to_the_worker()
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    guard = start_guard()  # noqa: F841  # kept: a Popen that is dropped complains
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper
    sys.path.append(str(os.getcwd()))  # last: a user's model.py cannot shadow ours
    serve(Pipe(connection))


if __name__ == "__main__":
    main()
