"""Memory that a layer's calls hand on to each other, training step after training step.

PyTorch keeps none on a CPU: what a step frees goes back to the system, and comes back with every
page cleared. That took an eighth of the kernel's time.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import weakref
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Pool:
    """Blocks of memory that nobody uses at the moment.

    There are never more blocks than were once in use together, and none is larger than the largest
    that was asked for.
    """

    def __init__(self) -> None:
        self._free: dict[int, mmap.mmap] = {}  # by identity; blocks return from whichever thread

    def take(self, size: int) -> Tensor:
        """Bytes with whatever they held, ``[size]``; their block returns when the last use ends."""
        block = self._fitting(size)
        view = (ctypes.c_uint8 * size).from_buffer(block)
        weakref.finalize(view, self._free.__setitem__, id(block), block).atexit = False
        return torch.frombuffer(view, dtype=torch.uint8)

    def release(self) -> None:
        """Give all free blocks back to the system."""
        self._free.clear()

    def _fitting(self, size: int) -> mmap.mmap:
        """The smallest free block that is large enough, else a new one in the largest's place."""
        if (block := self._free_block(size)) is not None:
            return block
        try:
            return _map(size)
        except OSError:
            self.release()
        try:
            return _map(size)
        except OSError as error:
            raise MemoryError(f"no memory for {size / 2**20:,.0f} MB of a layer's call") from error

    def _free_block(self, size: int) -> mmap.mmap | None:
        """The smallest free block that is large enough; without one the largest is let go."""
        blocks = sorted(self._free.values(), key=len)
        for block in blocks:
            # Where another thread was faster, there is nothing to pop.
            if len(block) >= size and self._free.pop(id(block), None) is not None:
                return block
        if blocks:
            self._free.pop(id(blocks[-1]), None)
        return None


def _map(size: int) -> mmap.mmap:
    """New memory, in huge pages where the system has them: looking up small ones takes time."""
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux
        with contextlib.suppress(OSError):  # built without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


POOL = Pool()


def release_memory() -> None:
    """Give the memory back that layers keep for their next call, as large as the largest."""
    POOL.release()


def take_block(shapes: Iterable[Sequence[int]], like: Tensor) -> Tensor:
    """Memory for tensors of these shapes, with whatever it held; other devices have pools already.

    Args:
        shapes: As `split` will be told.
        like: Tells type and device.
    """
    size = sum(_padded(shape) for shape in shapes)
    if like.device.type != "cpu" or torch.compiler.is_compiling():  # whose tracer knows no pool
        return like.new_empty(size)
    return POOL.take(size * like.element_size()).view(like.dtype)


def split(block: Tensor, shapes: Iterable[Sequence[int]]) -> list[Tensor]:
    """Lay tensors out in a block, each at the beginning of a cache line."""
    parts, at = [], 0
    for shape in shapes:
        parts.append(block[at : at + math.prod(shape)].view(*shape))
        at += _padded(shape)
    return parts


def _padded(shape: Sequence[int]) -> int:
    return math.ceil(math.prod(shape) / 16) * 16
