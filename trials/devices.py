"""How many trials a machine runs at a time, and on what. Needs no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from trials.errors import InvalidValueError

NVIDIA_SMI_TIMEOUT_SECONDS = 20.0
CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def detect_slots(
    slots: str | int = "auto",
    *,
    device: str = "auto",
    gpus: Sequence[str] | None = None,
    cores: int | None = None,
) -> tuple[str, ...]:
    """The device of each slot: one for each GPU, on a machine without GPUs one for each core.

    Args:
        slots: ``"auto"``, or how many; more slots than GPUs share them in turn.
        device: ``"auto"``: the GPUs, where there are some; or ``"cpu"`` or ``"cuda"`` only.
        gpus: The GPUs' numbers or UUIDs; None: those that are visible here; empty: CPU only.
        cores: CPU cores; None: those that this process may use.

    Returns:
        ``"cpu"`` or ``"cuda:"`` with number or UUID, one a slot.

    Raises:
        InvalidValueError: If ``slots`` is neither ``"auto"`` nor a whole number from 1, or CUDA is
            asked for and there is no GPU.
    """
    if gpus is None:
        gpus = visible_gpus() if device != "cpu" else ()
    devices = tuple(f"cuda:{gpu}" for gpu in gpus)
    if device == "cuda" and not devices:
        raise InvalidValueError(
            "CUDA was asked for, but this machine shows no GPU (nvidia-smi and "
            "CUDA_VISIBLE_DEVICES tell): take --device cpu, or auto"
        )
    if slots == "auto":
        return devices or ("cpu",) * (cores or usable_cores())
    if not str(slots).isdecimal() or int(slots) < 1:
        raise InvalidValueError(f"slots are 'auto' or a whole number from 1, got {slots!r}")
    return tuple((devices or ("cpu",))[i % max(1, len(devices))] for i in range(int(slots)))


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs this process may use: CUDA_VISIBLE_DEVICES where set, else what nvidia-smi lists.

    Raises:
        InvalidValueError: If nvidia-smi hangs, as with a driver that is broken.
    """
    allowed = environment.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        gpus = [gpu.strip() for gpu in allowed.split(",")]
        # As CUDA does: the first invalid entry hides all that follow.
        return gpus[: next((i for i, gpu in enumerate(gpus) if gpu in ("", "-1")), len(gpus))]
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=index", "--format=csv,noheader"]
    try:
        listing = subprocess.run(
            query, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InvalidValueError(
            f"nvidia-smi does not say within {NVIDIA_SMI_TIMEOUT_SECONDS:g} s which GPUs are here: "
            "name them in CUDA_VISIBLE_DEVICES, or take --device cpu"
        ) from None
    # It fails where a driver is installed and no GPU is there.
    return listing.stdout.split() if listing.returncode == 0 else []


def usable_cores(quota: Path = CGROUP_CPU) -> int:
    """CPU cores this process may use, a container's quota included; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        limit, period = quota.read_text().split()
    except OSError:
        return cores
    return cores if limit == "max" else max(1, min(cores, int(limit) // int(period)))


class Cores:
    """CPU cores that the trials of one worker share. Safe to use from several threads.

    Args:
        total: How many; None: as many as are asked for.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, threads: int) -> bool:
        """Take a core for each thread of a trial, or all; False, and none, while too few are free.

        A trial with more threads than there are cores runs alone.
        """
        with self._lock:
            if self._total is not None and 0 < self._taken > self._total - threads:
                return False
            self._taken += threads
            return True

    def give_back(self, threads: int) -> None:
        """Free what was taken for a trial."""
        with self._lock:
            self._taken -= threads
