"""MongoDB's users: one that works and searches, one that only reads.

They live in the queue's own database, so that a URI needs no ``authSource``:
``mongodb://worker@HOST/larnn_search``.
"""

from __future__ import annotations

from typing import Any

from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from trials.errors import InvalidValueError
from trials.mongo_store import MongoStore
from trials.retrying import translated

WORKER, READER = "worker", "reader"
WORKER_ROLE = "larnn_worker"
WORKER_ACTIONS = (
    "find",
    "insert",
    "update",
    "remove",
    # For `launch`, which makes sure that the indexes are there; nothing can be dropped.
    "createCollection",
    "createIndex",
    # For `doctor`, which looks whether they are.
    "listCollections",
    "listIndexes",
)
ROLE_EXISTS, USER_EXISTS = 51002, 51003
LEAST_PASSWORD = 12
"""Characters."""


def make_users(store: MongoStore, *, worker_password: str, reader_password: str) -> None:
    """Create both users, or give them these passwords and their roles again.

    Also prepares an empty database. Needs a user who may create users and roles, as root may.

    Args:
        store: The queue, opened as such a user.
        worker_password: For user ``worker``: reads and writes this database's documents.
        reader_password: For user ``reader``: reads them.

    Raises:
        InvalidValueError: If a password is too short, or both are the same.
        StoreUnavailableError: If the server refuses, or cannot be reached.
    """
    _check_password(WORKER, worker_password)
    _check_password(READER, reader_password)
    if worker_password == reader_password:
        raise InvalidValueError("worker and reader need passwords of their own, got the same twice")
    store.prepare()
    database = store.database
    privileges = [
        {"resource": {"db": database.name, "collection": ""}, "actions": list(WORKER_ACTIONS)}
    ]
    try:
        _make(database, "Role", ROLE_EXISTS, WORKER_ROLE, privileges=privileges, roles=[])
        _make(database, "User", USER_EXISTS, WORKER, pwd=worker_password, roles=[WORKER_ROLE])
        _make(database, "User", USER_EXISTS, READER, pwd=reader_password, roles=["read"])
    except PyMongoError as error:
        raise translated(error, store.where) from error


def _make(
    database: Database[dict[str, Any]], kind: str, exists: int, name: str, **settings: Any
) -> None:
    """Create a user or role, or change the one there is."""
    try:
        database.command(f"create{kind}", name, **settings)
    except OperationFailure as error:
        if error.code != exists:
            raise
        database.command(f"update{kind}", name, **settings)


def _check_password(user: str, password: str) -> None:
    if len(password) < LEAST_PASSWORD:
        raise InvalidValueError(
            f"the password of {user} needs at least {LEAST_PASSWORD} characters, "
            f"found {len(password)}: make secrets writes good ones"
        )
