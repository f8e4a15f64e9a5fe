"""What happens when the database does not answer: tries with growing pauses, then a clear line."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import pymongo
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    OperationFailure,
    PyMongoError,
)

from trials.errors import InvalidValueError, StoreUnavailableError, TrialsError
from trials.patience import patience_seconds
from trials.store import REUNION_SECONDS

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
OUT_OF_DISK = 14031
PASSING = {6, 7, 43, 50, 64, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436}
"""Server errors of a connection, of our own time limit, a shutdown or a change of primary, and
cursors lost with them."""
TOO_LARGE = {10334, 17419, 17420}
OTHER_INDEX = {85, 86}
BAD_VALUE = 2
UNAUTHORIZED = 13
AUTHENTICATION_FAILED = {18, 8000}

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Outage:
    """What one client has seen of the latest outage, in seconds of its clock."""

    began: float | None = None
    """None: it is over."""
    ended: float = float("-inf")
    lasted: float = 0.0

    def begin(self, now: float) -> None:
        """An operation that was started ``now`` got no answer."""
        if self.began is None:
            self.began = now

    def end(self, now: float) -> None:
        """An operation got its answer."""
        began, self.began = self.began, None
        if began is not None:
            self.ended, self.lasted = now, now - began

    def may_have_silenced_others(self, now: float) -> bool:
        """Whether others, cut off as long as this client was, may still be on their way back."""
        return self.began is not None or now < self.ended + min(self.lasted, REUNION_SECONDS)


@dataclass(frozen=True)
class Retrying:
    """Runs operations on the database, each of which must be safe to run twice."""

    where: str
    """The server's address, for messages."""
    for_s: float = 60.0
    """Seconds to go on trying."""
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    """Uniform in [0, 1): spreads the clients, which all lost the server at the same moment."""
    outage: Outage = field(default_factory=Outage)

    def __call__(self, operation: Callable[[], T]) -> T:
        """Return what ``operation`` returns, trying again through an outage.

        Raises:
            StoreUnavailableError: If the outage lasts longer than `for_s`, or the login is refused.
            InvalidValueError: If a document would grow over the database's limit.
        """
        started, pause = self.clock(), FIRST_PAUSE_S
        while True:
            tried_at = self.clock()
            try:
                answer = operation()
            except (PyMongoError, DocumentTooLarge) as error:  # which is BSON's, not PyMongo's
                if is_outage(error):
                    self.outage.begin(tried_at)
                left = started + min(self.for_s, patience_seconds()) - self.clock()
                if not is_outage(error) or left <= 0:
                    raise translated(error, self.where) from error
            else:
                self.outage.end(self.clock())
                return answer
            self.sleep(min(left, pause * (0.5 + self.random() / 2)))
            pause = min(2 * pause, LONGEST_PAUSE_S)


class _Retries(Protocol):
    _retrying: Retrying
    _prompt_s: float


S = TypeVar("S", bound=_Retries)


def retried(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], T]:
    """Run a store's method through its `Retrying`; it must be safe to run twice."""

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._retrying(lambda: method(self, *args, **kwargs))

    return run


def prompt(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], T]:
    """Give each try of a `retried` method up early: for what must not wait on a dead connection."""

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with pymongo.timeout(self._prompt_s):
            return method(self, *args, **kwargs)

    return run


def is_outage(error: Exception) -> bool:
    """Whether the same operation may succeed later: no connection, a new primary, a full disk."""
    if isinstance(error, ConnectionFailure):  # AutoReconnect, NotPrimary, NetworkTimeout are these
        return True
    if not isinstance(error, OperationFailure):
        return False
    return bool(_codes(error) & PASSING) or _is_out_of_disk(error)


def is_too_large(error: Exception) -> bool:
    """Whether a document would grow over the database's limit."""
    if isinstance(error, OperationFailure):
        return bool(_codes(error) & TOO_LARGE)
    return isinstance(error, DocumentTooLarge)


def are_all(code: int, error: Exception) -> bool:
    """Whether a bulk of writes met errors of this one code alone."""
    if not isinstance(error, BulkWriteError) or error.details.get("writeConcernErrors"):
        return False
    met = [one["code"] for one in error.details["writeErrors"]]
    return bool(met) and all(one == code for one in met)


def _is_out_of_disk(error: OperationFailure) -> bool:
    # An insert that finds the disk full is told as "unknown error" (8), with the system's words.
    return OUT_OF_DISK in _codes(error) or "No space left on device" in str(error)


def _codes(error: OperationFailure) -> set[int]:
    details = error.details or {}
    nested = [*details.get("writeErrors", []), *details.get("writeConcernErrors", [])]
    return {code for code in [error.code, *(one.get("code") for one in nested)] if code is not None}


def translated(error: Exception, where: str) -> Exception:
    """Return what to raise for ``error``: a clear line where a person can do something about it."""
    if is_too_large(error):
        return too_large()
    if isinstance(error, ConnectionFailure):
        return StoreUnavailableError(
            f"cannot reach MongoDB at {where} ({_first_line(error)}): is it running, and is the "
            "address in LARNN_MONGO_URI or --mongo right?"
        )
    if not isinstance(error, OperationFailure):
        return error
    codes = _codes(error)
    if codes & PASSING:
        return StoreUnavailableError(
            f"MongoDB at {where} does not serve now ({_first_line(error)}): it stops, starts or "
            "changes its primary"
        )
    if codes & AUTHENTICATION_FAILED:
        return StoreUnavailableError(
            f"MongoDB at {where} refuses the login: check the user in LARNN_MONGO_URI, its "
            "password (LARNN_MONGO_PASSWORD_FILE) and its authSource"
        )
    if UNAUTHORIZED in codes:
        return StoreUnavailableError(
            f"MongoDB at {where} does not allow this user to do that ({_first_line(error)}): "
            "log in as a user with the right to, see `larnn-search mongo users`"
        )
    if _is_out_of_disk(error):
        return StoreUnavailableError(
            f"the disk of MongoDB at {where} is full: free some space, then start this again"
        )
    if codes & OTHER_INDEX or (BAD_VALUE in codes and "hint provided" in str(error)):
        return StoreUnavailableError(
            f"the database of MongoDB at {where} lacks an index of ours, or has another in its "
            "place: run `larnn-search upgrade`, which makes it"
        )
    return error


def too_large() -> TrialsError:
    """What to raise for a trial or study over the database's limit."""
    return InvalidValueError(
        "a trial with its result and reports may hold 16 MB, this one would hold more: return or "
        "report less, and keep arrays with save_weights"
    )


def _first_line(error: PyMongoError) -> str:
    """What the driver says, without the state of its whole topology (and it knows no passwords)."""
    text = str(error).split(", Timeout:")[0].split(" (configured timeouts")[0]
    return (text.splitlines() or [type(error).__name__])[0][:160]
