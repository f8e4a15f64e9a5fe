"""Keys that steer a study from `status --watch`: pause, stop, cancel, the next study, quit."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from search.steering import resume
from trials.errors import TrialsError
from trials.store import TrialStore
from trials.study import StudyState

HELP = "p pause/resume  s stop after running trials  c cancel  n next study  q leave"
BY_KEY = "larnn-search: by key"
SURE = "Cancel the study? Its running trials are lost.   y yes   any other key: no"


class Keys:
    """Single key presses of a terminal; use it as a context manager.

    Where there is no terminal (a pipe, a service) nobody presses anything, and `wait` just waits.

    Args:
        descriptor: The terminal's; None: standard input's.
        sleep: Waits where there is no terminal.
    """

    def __init__(
        self, descriptor: int | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._sleep = sleep
        self._before: list[Any] | None = None

    @property
    def are_read(self) -> bool:
        """Whether somebody can press a key."""
        return self._before is not None

    def __enter__(self) -> Self:
        try:
            import termios
            import tty

            if os.isatty(self._descriptor):
                self._before = termios.tcgetattr(self._descriptor)
                tty.setcbreak(self._descriptor)  # Ctrl-C still interrupts
        except ImportError:  # no termios on Windows: the view works, without keys
            pass
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
            self._before = None

    def wait(self, seconds: float) -> str:
        """The key pressed within that time, "" for none."""
        if not self.are_read:
            self._sleep(seconds)
            return ""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        return os.read(self._descriptor, 1).decode(errors="replace") if ready else ""


class Steering:
    """What keys do to the study that is shown, and which one that is.

    Args:
        store: Where the studies are.
        study: The name of the first.
    """

    def __init__(self, store: TrialStore, study: str) -> None:
        self._store = store
        self._asked = False
        self.study = study
        """The study that keys act on."""
        self.has_switched = False
        """Whether somebody chose another study: then the view stays until they leave it."""
        self.note = HELP
        """The line to show below the view."""

    def press(self, key: str) -> bool:
        """Act on a key; False when the view should be left."""
        if not key:
            return True
        sure, self._asked = self._asked and key == "y", False
        self.note = HELP
        if key == "c":
            self._asked, self.note = True, SURE
        try:
            if sure:
                self._set(StudyState.CANCELLED)
            elif key == "s":
                self._set(StudyState.STOPPING)
            elif key == "n":
                self._switch()
            elif key == "p":
                self._pause_or_resume()
        except TrialsError as error:  # this user may only read, say
            self.note = str(error)
        return key != "q"

    def _switch(self) -> None:
        """Turn to the next older study; after the oldest, to the latest."""
        names = [study.name for study in self._store.list_studies()]
        at = names.index(self.study) if self.study in names else 0
        self.has_switched = self.has_switched or len(names) > 1
        self.study = names[at - 1]

    def _pause_or_resume(self) -> None:
        if self._store.get_study(self.study).state is StudyState.PAUSED:
            resume(self._store, self.study, BY_KEY)
        else:
            self._set(StudyState.PAUSED)

    def _set(self, state: StudyState) -> None:
        self._store.set_study_state(self.study, state, BY_KEY)
