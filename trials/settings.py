"""How a worker behaves, and what its parts share."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from trials.devices import Cores
from trials.errors import InvalidValueError, StoreUnavailableError
from trials.store import ELSEWHERE_SECONDS, HEARTBEAT_SECONDS, LEASE_SECONDS, TrialStore

RETRY_SECONDS = 1.0
log = logging.getLogger("larnn.worker")
Answer = TypeVar("Answer")


class Stop(enum.IntEnum):
    """How urgently a worker should leave."""

    NO = 0
    GENTLY = 1
    """Trials save a checkpoint and go back to the queue."""
    AT_ONCE = 2
    """Trials go back to the queue as they are."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Everything about a worker that its user may choose."""

    objectives: Sequence[str]
    """Allow list of ``module:function``; studies with another objective are left alone."""
    slots: Sequence[str] = ("cpu",)
    """One trial at a time runs on each: ``"cpu"`` or ``"cuda:N"`` (`trials.devices`)."""
    cores: int | None = None
    """CPU cores; all trials that run have no more threads together. None: not limited."""
    studies: Sequence[str] | None = None
    """Serve these only; None: all."""
    exit_when_done: Sequence[str] = ()
    """Leave once all of these studies are COMPLETE, CANCELLED or deleted."""
    lease_s: float = LEASE_SECONDS
    heartbeat_s: float = HEARTBEAT_SECONDS
    elsewhere_s: float = ELSEWHERE_SECONDS
    """How long a trial that failed here waits for another worker before it is tried here again."""
    grace_s: float = 3.5
    """For a trial told to stop to save its checkpoint and return; then it is killed."""
    leave_s: float = 4.5
    """From the first signal until the worker waits for nothing more, not even the database."""
    quarantine_after: int = 3
    """Different trials that fail in a row on a slot, while others succeed elsewhere."""
    quarantine_s: float = 60.0
    """How long such a slot rests before it tries one trial; doubles when that fails too."""

    @property
    def pause_grace_s(self) -> float:
        """As `grace_s`, for a pause: it is heard of up to one heartbeat late, and obeyed in 5 s."""
        return max(0.5, self.leave_s - self.heartbeat_s)

    def __post_init__(self) -> None:
        if not self.slots:
            raise InvalidValueError("a worker needs at least one slot, got none")
        if not 0 < self.heartbeat_s < self.lease_s:
            raise InvalidValueError(
                "the heartbeat must be above 0 and shorter than the lease, got "
                f"heartbeat_s {self.heartbeat_s:g} and lease_s {self.lease_s:g}"
            )


@dataclass
class Shared:
    """What the slots of one worker have in common."""

    store: TrialStore
    settings: WorkerSettings
    name: str
    host: str
    clock: Callable[[], float] = time.monotonic
    stop: Stop = Stop.NO
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set with the first stop: ends every wait."""
    cores: Cores = field(init=False)

    def __post_init__(self) -> None:
        self.cores = Cores(self.settings.cores)

    def insist(self, call: Callable[[], Answer]) -> Answer:
        """Ask the store until it answers: an outage may last longer than the store's patience.

        Raises:
            StoreUnavailableError: If it did not answer and the worker is to leave.
        """
        while True:
            try:
                return call()
            except StoreUnavailableError as error:
                log.warning("%s", error)
                if self.stopping.wait(RETRY_SECONDS):
                    raise
