"""Stands by for all studies: one feeder each, none of which can end the others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from search.feeder import STANDBY_PAUSE, Feeder
from trials.errors import StoreUnavailableError, StudyNotFoundError, TrialsError
from trials.store import LEASE_SECONDS, TrialStore

TROUBLED_PAUSE = 60.0
"""Seconds until `feed_all` tries a study again in which something went wrong."""
_log = logging.getLogger(__name__)


def _tell(study: str, error: Exception) -> None:
    """Log what keeps a study from being fed; a traceback is for bugs only."""
    what = "study %s is not fed, tried again in %g s: %s"
    is_bug = not isinstance(error, TrialsError)
    _log.error(what, study, TROUBLED_PAUSE, error, exc_info=error if is_bug else None)


def feed_all(
    store: TrialStore,
    stop: threading.Event,
    *,
    only: str | None = None,
    ahead: int | None = None,
    lease_s: float = LEASE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[threading.Event, float], object] = threading.Event.wait,
) -> None:
    """Stand by for every study, or for ``only`` one, until ``stop`` is set.

    Whatever goes wrong with one study is logged, and keeps the others from nothing.

    Raises:
        StudyNotFoundError: If ``only`` names no study.
    """
    if only is not None:
        store.get_study(only)
    feeders: dict[str, Feeder] = {}
    troubled: dict[str, float] = {}
    look_again = clock()
    while not stop.is_set():
        if clock() >= look_again:
            look_again = clock() + STANDBY_PAUSE
            with suppress(StoreUnavailableError):
                alive = {s.name for s in store.list_studies() if not s.state.is_over}
                wanted = alive if only is None else alive & {only}
                wanted -= {name for name, until in troubled.items() if clock() < until}
                feeders = {
                    name: feeders.get(name)
                    or Feeder(store, name, ahead=ahead, lease_s=lease_s, clock=clock)
                    for name in sorted(wanted)
                }
        for name, feeder in list(feeders.items()):
            if stop.is_set():
                break
            try:
                if feeder.survive(feeder.step):
                    continue
            except StudyNotFoundError:
                pass  # deleted
            except Exception as error:
                if stop.is_set():
                    break  # too late for the program, which has closed the store
                _tell(name, error)
                feeder.leave()
                troubled[name] = clock() + TROUBLED_PAUSE
            del feeders[name]
        wait(stop, min((feeder.pause for feeder in feeders.values()), default=STANDBY_PAUSE))
    for feeder in feeders.values():
        feeder.leave()
