"""Work beside the main thread, which a program that is told to stop does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

FAREWELL_SECONDS = 2.0
"""For the work to end in good order. Through an outage the store may hold it for much longer: then
it is left behind, and what it had a lease on runs out."""


class Beside:
    """Does ``work`` in a thread while the block runs; it is to return once its event is set."""

    def __init__(self, work: Callable[[threading.Event], object]) -> None:
        self._work = work
        self._stop = threading.Event()
        self._ended: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="beside", daemon=True)

    def _run(self) -> None:
        try:
            self._work(self._stop)
        except Exception as error:  # for the main thread, which would wait without end
            self._ended = error

    def check(self) -> None:
        """Raise what ended the work, if anything did."""
        if self._ended is not None:
            raise self._ended

    def stop(self) -> None:
        """Tell the work to end; not for signal handlers, which may find the event's lock held."""
        self._stop.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._thread.join(FAREWELL_SECONDS)
