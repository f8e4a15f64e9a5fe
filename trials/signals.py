"""Taking signals for as long as a block runs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNAL_SECONDS = 0.05
"""How soon a main thread that looks for signals sees one."""


@contextmanager
def on_signals(
    handler: Callable[[int, FrameType | None], object], *numbers: signal.Signals
) -> Iterator[None]:
    """Let ``handler`` take these signals while the block runs."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def noting_signals() -> Iterator[list[signal.Signals]]:
    """A list to which each SIGTERM and SIGINT is added.

    A handler must not set an event: the thread that it interrupts, or the handler of the signal
    before, may be holding the event's lock.
    """
    received: list[signal.Signals] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))

    with on_signals(note, signal.SIGTERM, signal.SIGINT):
        yield received
