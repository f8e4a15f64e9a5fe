"""From an option and the environment to an open store."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trials.address import has_password, split_uri
from trials.embedded import embedded_server, revive
from trials.errors import InvalidValueError, ServerNotFoundError, StoreUnavailableError
from trials.mongo_store import MongoStore
from trials.variables import PASSWORD_FILE_VARIABLE, URI_VARIABLE, at_home


@contextlib.contextmanager
def connect(
    uri: str | None = None,
    *,
    state_dir: Path | str | None = None,
    retry_for_s: float = 60.0,
    any_schema: bool = False,
) -> Iterator[MongoStore]:
    """Open the store: of ``uri``, else of ``LARNN_MONGO_URI``, else of the state folder's server.

    Args:
        uri: What a person typed; no password in it, since other users see the command line.
        state_dir: Folder of the embedded server; used only where no URI is given.
        retry_for_s: Seconds for which an operation is tried again through an outage.
        any_schema: Open a database of another version too, to upgrade it.

    Yields:
        The store, closed afterwards.

    Raises:
        InvalidValueError: If the URI cannot be used, or the password's file cannot be read.
        StoreUnavailableError: If the server cannot be reached or refuses the login.
        ServerNotFoundError: If an embedded server is wanted and none can be started.
        SchemaVersionError: If another version of this project wrote the database.
    """
    if uri is not None and has_password(uri):
        raise InvalidValueError(
            "a password in --mongo can be read by everyone on this machine: put the URI into the "
            f"environment variable {URI_VARIABLE}, or the password alone into a file named by "
            f"{PASSWORD_FILE_VARIABLE}"
        )
    chosen = uri or os.environ.get(URI_VARIABLE)
    with contextlib.ExitStack() as stack:
        pause: Callable[[float], object] = time.sleep
        if chosen is None or not chosen.strip():
            address, password = stack.enter_context(embedded_server(state_dir)), None
            pause = functools.partial(_pause, state_dir)
        else:
            address, password = chosen.strip(), password_for(chosen.strip())
        store = MongoStore(
            address,
            retry_for_s=retry_for_s,
            password=password,
            sleep=pause,
            any_schema=any_schema,
        )
        yield stack.enter_context(store)


def _pause(state_dir: Path | str | None, seconds: float) -> None:
    """Wait out an outage of the embedded server, and start it again should it be gone."""
    time.sleep(seconds)
    try:
        revive(state_dir)
    except ServerNotFoundError as error:
        # For whoever outlasts outages this is one: the next try may succeed.
        raise StoreUnavailableError(f"the private MongoDB has died: {error}") from error


def password_for(uri: str) -> str | None:
    """Read the file that ``LARNN_MONGO_PASSWORD_FILE`` names; None when it names none.

    Raises:
        InvalidValueError: If it cannot be read, is empty, or the URI has a password or no user.
    """
    name = os.environ.get(PASSWORD_FILE_VARIABLE)
    if not name:
        return None
    if has_password(uri):
        raise InvalidValueError(
            f"the MongoDB URI has a password and {PASSWORD_FILE_VARIABLE} names another: keep one"
        )
    if not split_uri(uri).user:
        raise InvalidValueError(
            f"{PASSWORD_FILE_VARIABLE} is set, but the MongoDB URI names no user: expected "
            "mongodb://USER@HOST:PORT/DATABASE"
        )
    return read_password(Path(name), PASSWORD_FILE_VARIABLE)


def read_password(file: Path, named_by: str) -> str:
    """Read a password out of a file, without the line's end.

    Args:
        file: Where it is.
        named_by: The option or variable that names the file, for messages.

    Raises:
        InvalidValueError: If it cannot be read, or is empty.
    """
    try:
        password = at_home(file, named_by).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(
            f"the file that {named_by} names cannot be read: {file} ({type(error).__name__})"
        ) from None
    if not password:
        raise InvalidValueError(f"the file that {named_by} names is empty: {file}")
    return password
