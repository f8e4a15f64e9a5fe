"""The live view of a study: a display that redraws itself, or plain lines where nobody looks on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from search.live_screen import render
from search.plain_lines import PlainLines
from search.snapshot import Snapshot, StudyFollower
from search.tables import plain_console
from trials.clock import utc_now
from trials.errors import StoreUnavailableError
from trials.patience import patience
from trials.store import TrialStore

REFRESH_SECONDS = 0.5
PATIENCE_SECONDS = 5.0
"""So long the store is silent before people are told."""
OUTAGE_SECONDS = 900.0
"""After a longer outage the view ends; workers and feeders wait for as long as it takes."""


class LiveView:
    """Follows one study on a console; use it as a context manager.

    On a terminal one display is redrawn by each `refresh`. Elsewhere (a pipe, a log file) a line is
    printed for each trial that finished, at most every few seconds and then together.

    Args:
        store: Where the study is kept.
        study: The study's name.
        console: Where to draw; None: standard output.
        clock: Gives the present, UTC.
        timer: Seconds that only go forward, for the pace of lines.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        store: TrialStore,
        study: str,
        console: Console | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._follower = StudyFollower(store, study, clock)
        self._console = console or plain_console()
        self._sleep = sleep
        self._lines = PlainLines(self._console, timer)
        self._timer = timer
        self._latest: Snapshot | None = None
        self._silent_since: float | None = None
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            self._lines.flush()

    def follow(self, study: str) -> None:
        """Show another study from now on."""
        self._follower = StudyFollower(self._store, study, self._clock)

    def refresh(self, footer: str = "", *, above: RenderableType | None = None) -> Snapshot:
        """Read the study, show it, and return what was read last: an outage is told and sat out.

        Args:
            footer: A line to show below; not where plain lines are printed.
            above: What to show above it; not where plain lines are printed.

        Raises:
            StudyNotFoundError: If the study was deleted meanwhile.
            StoreUnavailableError: If the store could not be reached at first, or not for too long.
        """
        try:
            with patience(math.inf if self._latest is None else PATIENCE_SECONDS):
                self._latest = self._follower.snapshot()
        except StoreUnavailableError as error:
            return self._outlast(error, above)
        self._silent_since = None
        if self._live is not None:
            self._draw(self._live, self._latest, footer, above)
        else:
            self._lines.show(self._latest)
        return self._latest

    def _outlast(self, error: StoreUnavailableError, above: RenderableType | None) -> Snapshot:
        """Tell that the store does not answer; what is known meanwhile."""
        now, is_new = self._timer(), self._silent_since is None
        since = self._silent_since = now if self._silent_since is None else self._silent_since
        if self._latest is None or now - since > OUTAGE_SECONDS:
            raise error
        line = f"MongoDB does not answer, trying again: {error}"
        if self._live is not None:
            self._draw(self._live, self._latest, line, above)
        elif is_new:
            self._lines.tell(line)
        return self._latest

    def _draw(
        self, live: Live, snapshot: Snapshot, footer: str, above: RenderableType | None
    ) -> None:
        below = [Text(), Text(footer, style="dim")] if footer else []
        before = [] if above is None else [above, Text()]
        live.update(Group(*before, render(snapshot), *below), refresh=True)

    def wait(self) -> None:
        """Let the time between two refreshes pass."""
        self._sleep(REFRESH_SECONDS)
