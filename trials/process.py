"""A worker's hold on one child process: start it, talk to it, watch its memory, end it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trials.failures import kernel_oom_kills
from trials.pipe import Frame, Pipe

SEND_TIMEOUT_SECONDS = 30.0
"""A child always listens; one that takes nothing for this long is stuck."""
EXIT_SECONDS = 1.0
"""For a child that hung up to exit by itself, so that its own exit status is seen."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
"""Lets glibc keep freed memory for the next training step. By default it hands large blocks back at
every step, and a quarter of an LSTM's time goes into page faults (benchmarks/layers.md)."""
WAIT_ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Lets OpenMP's idle threads sleep. By default they spin, and hold a core that others need."""
LOG_HEAD_BYTES = 64 << 10
LOG_TAIL_BYTES = 192 << 10


class ChildGoneError(Exception):
    """The child died, hung up, or speaks nonsense."""


class BoundedLog:
    """Keeps the first and the last bytes of an output of any length."""

    def __init__(self, head_bytes: int = LOG_HEAD_BYTES, tail_bytes: int = LOG_TAIL_BYTES) -> None:
        self._limits = (head_bytes, tail_bytes)
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def write(self, data: bytes) -> None:
        """Append ``data``; the middle is dropped when there is too much."""
        head_bytes, tail_bytes = self._limits
        room = head_bytes - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        excess = len(self._tail) - tail_bytes
        if excess > 0:
            del self._tail[:excess]
            self._dropped += excess

    def take(self) -> bytes:
        """What was kept, as UTF-8; then start anew."""
        gap = f"\n[... {self._dropped} bytes left out ...]\n".encode() if self._dropped else b""
        text = bytes(self._head) + gap + bytes(self._tail)
        self._head, self._tail, self._dropped = bytearray(), bytearray(), 0
        return text.decode("utf-8", "replace").encode()


def child_environment(environment: Mapping[str, str], device: str, threads: int) -> dict[str, str]:
    """The environment of a child: no way to the database, its threads, and its own GPU alone.

    `KEEP_MEMORY` and `WAIT_ASLEEP` are its settings where the worker's environment has no others.

    Args:
        environment: The worker's.
        device: The slot's: ``"cpu"``, or ``"cuda:"`` and a number or UUID as nvidia-smi names it.
        threads: CPU threads of each trial.
    """
    kept = {k: v for k, v in environment.items() if not k.startswith("LARNN_MONGO_")}
    result = KEEP_MEMORY | WAIT_ASLEEP | kept
    result.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    result["CUDA_VISIBLE_DEVICES"] = device.partition(":")[2]
    result["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # nvidia-smi's order
    return result


class ChildProcess:
    """One running `trials.child`, in a process group of its own."""

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        self.device = device
        self.threads = threads
        self.warmed: set[str] = set()
        """Modules that it was told to import ahead of a trial."""
        ours, theirs = socket.socketpair()
        with theirs:
            # -P keeps the current folder off the front of the import path; the child appends it.
            command = (sys.executable, "-P", "-X", "faulthandler", "-m", "trials.child")
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.PIPE,  # nothing is written: its end tells that we are gone
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=child_environment(os.environ, device, threads),
            )
        assert self._process.stdin is not None  # noqa: S101  # stdin=PIPE above
        assert self._process.stdout is not None  # noqa: S101  # stdout=PIPE above
        self._life = self._process.stdin
        ours.settimeout(SEND_TIMEOUT_SECONDS)
        self.pid = self._process.pid
        self._pipe = Pipe(ours)
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._log = BoundedLog()
        self._oom_kills = kernel_oom_kills()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)
        self._selector.register(self._output, selectors.EVENT_READ)

    @property
    def is_usable(self) -> bool:
        """Whether the child, idle, can take a trial."""
        try:
            self.receive(0)
        except ChildGoneError:
            return False
        return True

    def send(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        """Tell the child something.

        Raises:
            ValueError: If the header has no JSON form.
            ChildGoneError: If the child does not take it.
        """
        if header["type"] == "trial":
            self._oom_kills = kernel_oom_kills()
        try:
            self._pipe.send(header, payload)
        except OSError as error:
            raise ChildGoneError(str(error)) from None

    def receive(self, timeout_s: float) -> list[Frame]:
        """What the child said within ``timeout_s``; returns as soon as there is something.

        Raises:
            ChildGoneError: If the child is gone.
        """
        readable = [key.fileobj for key, _ in self._selector.select(timeout_s)]
        if self._output in readable:
            self._drain_output()
        if self._pipe in readable:
            try:
                return self._pipe.receive()
            except (EOFError, ValueError, OSError) as error:
                raise ChildGoneError(str(error)) from None
        # Something the child forked may hold the pipe open, so that no end is seen there.
        if self._has_exited():
            raise ChildGoneError("the process has exited")
        return []

    def take_log(self) -> bytes:
        """What was printed since the last call, head and tail of it, as UTF-8."""
        self._drain_output()
        return self._log.take()

    def _drain_output(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._output.fileno(), 1 << 16):
                self._log.write(data)
            if self._output in self._selector.get_map():
                self._selector.unregister(self._output)

    def _has_exited(self) -> bool:
        # Not reaped: while it is a zombie its group's number cannot become another's.
        flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return self._process.returncode is not None or bool(os.waitid(os.P_PID, self.pid, flags))

    def resident_bytes(self) -> int:
        """Resident memory of the child and all processes in its group (Linux)."""
        pages = 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):  # it ended meanwhile
                # After the command's name, which may contain anything: state, parent, group, ...
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.pid:
                    pages += int(fields[21])
        return pages * os.sysconf("SC_PAGESIZE")

    def await_exit(self) -> tuple[int, bool]:
        """Wait for the exit of a child that is gone, then clear what it left.

        Returns:
            Its exit status as in `subprocess`, and whether the kernel killed for memory meanwhile.
        """
        deadline = time.monotonic() + EXIT_SECONDS
        while not self._has_exited() and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.kill(), kernel_oom_kills() > self._oom_kills

    def kill(self) -> int:
        """End the child and everything in its group at once; returns its exit status."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def close(self) -> None:
        """End the child and let go of its pipes."""
        self.kill()
        self._selector.close()
        self._pipe.close()
        self._life.close()
        self._output.close()
