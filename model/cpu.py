"""How the CPU computes, for as long as a training runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


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
