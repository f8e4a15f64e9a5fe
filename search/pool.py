"""The worker processes that `larnn-search run` starts on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from search.launch import own_command
from trials.devices import usable_cores
from trials.variables import URI_VARIABLE

WORKERS = 2
GRACE_SECONDS = 6.0
"""A worker that was told to stop leaves within 5 s (`trials.settings`), checkpoints saved."""


def fitting_workers(threads: int, gpus: Sequence[str]) -> int:
    """How many workers to start where nobody says: no more than the cores take, one for each GPU.

    Args:
        threads: CPU threads of each trial.
        gpus: That trials may run on.
    """
    return max(1, len(gpus), min(WORKERS, usable_cores() // threads))


class WorkerPool:
    """Starts workers for one study, and stops them when the block ends.

    Workers are processes of their own session: a Ctrl-C in the terminal reaches only the launcher,
    which then tells them to save and leave. They share the GPUs, where trials may run on some: each
    sees the next one.
    """

    def __init__(
        self,
        study: str,
        count: int,
        *,
        mongo: str | None,
        objectives: Sequence[str],
        device: str,
        gpus: Sequence[str] = (),
        log: Path,
    ) -> None:
        arguments = ["--study", study, "--slots", "1", "--device", device]
        arguments += ["--with-parent", str(os.getpid())]
        for objective in objectives:
            arguments += ["--allow-objective", objective]
        self._command = own_command("worker", *arguments)
        self._environment = dict(os.environ)
        if mongo is not None:
            # Never on the command line, where other users of the machine could read it.
            self._environment[URI_VARIABLE] = mongo
        self._count = count
        self._gpus = gpus
        self._log = log
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            for number in range(self._count):
                self._processes.append(
                    subprocess.Popen(
                        self._command,
                        env=self._environment | self._own_gpu(number),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        return self

    def _own_gpu(self, number: int) -> dict[str, str]:
        """What tells a worker its GPU; nothing, where there is none."""
        if not self._gpus:
            return {}
        return {"CUDA_VISIBLE_DEVICES": self._gpus[number % len(self._gpus)]}

    @property
    def alive(self) -> int:
        """How many workers have not ended."""
        return sum(process.poll() is None for process in self._processes)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            for process in self._processes:
                process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            # Its children see the pipe close and end as well; their leases run out.
            self._signal(signal.SIGKILL)
            for process in self._processes:
                process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)
