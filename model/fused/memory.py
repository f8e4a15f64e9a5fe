"""Memory that the kernel's calls hand on to each other, training step after training step.

PyTorch keeps none on a CPU: what a step frees goes back to the system, and comes back with every
page cleared. That took an eighth of the kernel's time.
"""

from __future__ import annotations

import ctypes
import weakref

import torch
from torch import Tensor


class Pool:
    """Blocks of memory that nobody uses at the moment.

    There are never more blocks than were once in use together, and none is larger than the largest
    that was asked for.
    """

    def __init__(self) -> None:
        self._free: dict[int, Tensor] = {}  # by address; blocks return from whichever thread

    def take(self, size: int) -> Tensor:
        """Bytes with whatever they held, ``[size]``; their block returns when the last use ends."""
        block = self._fitting(size)
        view = (ctypes.c_uint8 * size).from_address(block.data_ptr())
        weakref.finalize(view, self._free.__setitem__, block.data_ptr(), block).atexit = False
        return torch.frombuffer(view, dtype=torch.uint8)

    def release(self) -> None:
        """Give all free blocks back to the allocator."""
        self._free.clear()

    def _fitting(self, size: int) -> Tensor:
        """The smallest free block that is large enough, else a new one in the largest's place."""
        blocks = sorted(self._free.values(), key=len)
        for block in blocks:
            # Where another thread was faster, there is nothing to pop.
            if len(block) >= size and self._free.pop(block.data_ptr(), None) is not None:
                return block
        if blocks:
            self._free.pop(blocks[-1].data_ptr(), None)
        return torch.empty(size, dtype=torch.uint8)


POOL = Pool()


def release_memory() -> None:
    """Give the memory back that the kernel keeps for its next call, as large as its largest."""
    POOL.release()
