"""A private mongod for one folder: started, shared by the folder's users, and stopped.

Every user holds a shared lock on the folder's ``users.lock``, which the kernel takes back even from
a process that was killed. Who leaves tries to hold it alone; if that works, nobody else is left and
the server is shut down. Starting and leaving happen one at a time, under ``server.lock``. A server
whose users were all killed goes on and is adopted by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote_plus

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure

from trials.errors import ServerNotFoundError, StoreUnavailableError
from trials.mongo_base import DATABASE
from trials.mongod import start_mongod
from trials.variables import at_home

STOP_S = 20.0
POLL_S = 0.05
KEPT_LOGS = 3
"""Of earlier servers."""
ANSWER_S = 10.0
PING_MS = 500
LONGEST_SOCKET = 100
"""Bytes; the system allows 108, some 104."""


@dataclass(frozen=True)
class ServerStatus:
    """What is known of a folder's server."""

    state_dir: Path
    uri: str | None
    """How to connect; None while it does not run."""
    pid: int | None
    is_kept: bool
    """Whether it goes on when its last user has left."""


@contextlib.contextmanager
def embedded_server(state_dir: Path | str | None = None) -> Iterator[str]:
    """Use the folder's server, starting it if need be; the last user stops it.

    Args:
        state_dir: Where its data are; default: `default_state_dir`.

    Yields:
        Its URI.

    Raises:
        ServerNotFoundError: If there is no mongod, or it does not start.
        StoreUnavailableError: If the folder cannot be written.
    """
    folder = _Folder.at(state_dir)
    with folder.opened("users.lock") as users:
        with folder.locked():
            fcntl.flock(users, fcntl.LOCK_SH)
            uri = folder.ensure_running()
        try:
            yield uri
        finally:
            with folder.locked():
                folder.leave(users)


def revive(state_dir: Path | str | None = None) -> None:
    """Start the folder's server again if it died under its users; nobody else does.

    Raises:
        ServerNotFoundError: If it does not start.
        StoreUnavailableError: If the folder cannot be written, or its disk is full.
    """
    folder = _Folder.at(state_dir)
    with folder.locked():
        if folder.pid() is None:
            folder.start()


def start(state_dir: Path | str | None = None) -> ServerStatus:
    """Start the folder's server, and keep it when its users leave.

    Raises:
        ServerNotFoundError: If there is no mongod, or it does not start.
        StoreUnavailableError: If the folder cannot be written.
    """
    folder = _Folder.at(state_dir)
    with folder.locked():
        folder.ensure_running()
        folder.keep.touch()
        return folder.status()


def stop(state_dir: Path | str | None = None) -> ServerStatus:
    """Stop the folder's server, or leave that to its last user while it has some."""
    folder = _Folder.at(state_dir)
    with folder.locked(), folder.opened("users.lock") as users:
        folder.keep.unlink(missing_ok=True)
        folder.leave(users)
        return folder.status()


def status(state_dir: Path | str | None = None) -> ServerStatus:
    """Whether the folder's server runs; starts nothing, and makes no folder."""
    folder = _Folder(_chosen(state_dir))
    if not folder.path.exists():
        return folder.status()
    with folder.locked():
        return folder.status()


def default_state_dir() -> Path:
    """``LARNN_STATE_DIR``, else ``larnn-search`` in the user's folder for state (XDG)."""
    if chosen := os.environ.get("LARNN_STATE_DIR"):
        return at_home(chosen, "LARNN_STATE_DIR")
    place = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return at_home(place, "the state folder (LARNN_STATE_DIR names another)") / "larnn-search"


def _chosen(state_dir: Path | str | None) -> Path:
    return default_state_dir() if state_dir is None else at_home(state_dir, "the state folder")


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of this user's that nobody else may look into."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    is_own = found.st_uid == os.getuid()
    return is_own and stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700


class _Folder:
    """The state folder: ``db/``, ``mongod.log``, the locks, ``socket`` and ``keep``."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.database = self.path / "db"
        self.log = self.path / "mongod.log"
        self.keep = self.path / "keep"
        self.socket_note = self.path / "socket"
        """Says where the socket is, when the folder's own path is too long for one."""

    @classmethod
    def at(cls, state_dir: Path | str | None) -> _Folder:
        """The folder, made if need be; nobody else may look into it."""
        folder = cls(_chosen(state_dir))
        try:
            folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(folder.path):
                folder.close_to_others()
            folder.database.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise folder.unwritable(error) from error
        return folder

    def close_to_others(self) -> None:
        """Who can look into the folder can connect to its server, which asks for no password."""
        if not self.database.exists() and any(self.path.iterdir()):
            raise StoreUnavailableError(
                f"the state folder {self.path} holds other files, and others may look into it: set "
                "LARNN_STATE_DIR to a folder of its own"
            )
        self.path.chmod(0o700)

    def unwritable(self, error: OSError) -> StoreUnavailableError:
        reason = error.strerror or str(error)
        return StoreUnavailableError(
            f"cannot write to the state folder {self.path} ({reason}): make room or set "
            "LARNN_STATE_DIR to another folder, or LARNN_MONGO_URI to a running MongoDB"
        )

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        try:
            file = (self.path / name).open("ab")
        except OSError as error:
            raise self.unwritable(error) from error
        with file:
            yield file

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One start or stop at a time."""
        with self.opened("server.lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # -- under the lock --------------------------------------------------------------------------

    def ensure_running(self) -> str:
        deadline = time.monotonic() + ANSWER_S
        while (pid := self.pid()) is not None:  # one that was killed may be on its way out
            if self._answers():
                return self.uri()
            if time.monotonic() > deadline:
                # A second mongod would take the first one's socket away before it notices it.
                raise ServerNotFoundError(
                    f"mongod (process {pid}) runs for {self.path}, but does not answer: "
                    f"`kill -9 {pid}`, then start this again"
                )
        self.start()
        return self.uri()

    def leave(self, users: IO[bytes]) -> None:
        """Stop using the server; stop it, when nobody else uses it and nobody wants it kept."""
        fcntl.flock(users, fcntl.LOCK_UN)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if not self.keep.exists():
            self._shut_down()

    def status(self) -> ServerStatus:
        pid = self.pid()
        return ServerStatus(
            self.path, self.uri() if pid is not None else None, pid, self.keep.exists()
        )

    # -- the server ------------------------------------------------------------------------------

    def socket(self) -> Path:
        """Where the server listens; in another, short and private folder where it must."""
        if self.socket_note.exists():
            return Path(self.socket_note.read_text().strip())
        return self.path / "mongod.sock"

    def uri(self) -> str:
        return f"mongodb://{quote_plus(str(self.socket()))}/{DATABASE}"

    def pid(self) -> int | None:
        """The running server's process; None when none runs.

        A mongod holds a lock on ``mongod.lock``, in which its process id stands, for as long as it
        lives.
        """
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline:
            try:
                with (self.database / "mongod.lock").open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if written := (self.database / "mongod.lock").read_bytes().strip():
                    return int(written)
                # It empties the file last of all, a moment before it lets go.
                time.sleep(POLL_S)
            except FileNotFoundError:
                return None
            else:
                return None
        return None

    def _answers(self) -> bool:
        client: MongoClient[Any] = MongoClient(
            self.uri(), serverSelectionTimeoutMS=PING_MS, socketTimeoutMS=PING_MS
        )
        with client, contextlib.suppress(ConnectionFailure):
            client.admin.command("ping")
            return True
        return False

    def _place_socket(self) -> Path:
        if len(os.fsencode(self.path / "mongod.sock")) <= LONGEST_SOCKET:
            self.socket_note.unlink(missing_ok=True)
        elif not (self.socket_note.exists() and _is_private(self.socket().parent)):
            # mkdtemp's folders are the user's own, 0700, and of a name nobody can guess. One that
            # was deleted since may have been made anew by somebody else.
            self.socket_note.write_text(f"{tempfile.mkdtemp(prefix='larnn-')}/mongod.sock\n")
        return self.socket()

    def _drop_old_logs(self) -> None:
        """Every start of a mongod puts the log before it aside, under its time."""
        kept = KEPT_LOGS - self.log.exists()
        for old in sorted(self.path.glob(f"{self.log.name}.*"))[:-kept]:
            old.unlink(missing_ok=True)

    def start(self) -> None:
        try:
            self._drop_old_logs()
            start_mongod(self.database, self.log, self._place_socket())
        except OSError as error:
            raise self.unwritable(error) from error

    def _shut_down(self) -> None:
        """End the server cleanly, and wait until it is gone."""
        if (pid := self.pid()) is None:
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while self.pid() is not None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self.socket_note.exists():
            shutil.rmtree(self.socket().parent, ignore_errors=True)
            self.socket_note.unlink()
