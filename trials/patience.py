"""How long this thread tries an operation on the database before it hears of an outage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_seconds: ContextVar[float] = ContextVar("patience_seconds", default=math.inf)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within the block this thread's operations are tried for so long at most.

    For those who tell somebody what goes on, and then try again themselves.
    """
    before = _seconds.set(seconds)
    try:
        yield
    finally:
        _seconds.reset(before)


def patience_seconds() -> float:
    """What `patience` allows here; infinite without one."""
    return _seconds.get()
