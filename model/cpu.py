"""What the CPU is, and how it computes for as long as a training runs."""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Iterator
from pathlib import Path

import torch


@functools.lru_cache(maxsize=1)
def cpu_type() -> str:
    """What the CPU calls itself: on one of another type the same training rounds otherwise."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    told = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    kind = [f"{name} {told[name]}" for name in ("cpu family", "model", "stepping") if name in told]
    return ", ".join([told.get("model name") or platform.processor() or platform.machine(), *kind])


@contextlib.contextmanager
def threads_of(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads; None leaves them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Take what is too small to be a normal number (below 1e-38) for 0.

    Gradients and their moments fade into such numbers, and a CPU takes a hundred times as long over
    each.
    """
    before = float(torch.tensor(1e-40) * 1.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
