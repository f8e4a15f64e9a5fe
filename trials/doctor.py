"""Why a search does not get on: looks at everything between a worker and its next trial."""

from __future__ import annotations

import enum
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from pymongo.errors import PyMongoError

from trials import pipelines
from trials.diagnosis import diagnose_study
from trials.documents import SCHEMA_VERSION, schema_message
from trials.errors import TrialsError
from trials.indexes import faulty_indexes
from trials.mongo_store import MongoStore
from trials.retrying import translated
from trials.trial import TrialState

PACKAGES = ("model", "search", "trials")
CLOCK_SKEW_S = 5.0
"""Displays count time from this machine's clock; leases do not."""
STALE_S = 15.0
"""A lease that ran out so long ago should have been taken back."""
WRITING = frozenset({"insert", "update", "remove"})


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    message: str
    mend: str = ""
    """The command, or the step, that mends it."""


def examine_machine(
    find: Callable[[str], object] = importlib.util.find_spec,
    folder: Path | None = None,
    home: Path = Path(__file__).parents[1],
) -> Iterator[Finding]:
    """Look for other modules of our packages' names.

    Args:
        find: Finds a module as `importlib.util.find_spec` does.
        folder: The current folder.
        home: Where our packages are.
    """
    folder = Path.cwd() if folder is None else folder
    hidden = False
    for name in PACKAGES:
        origin = getattr(find(name), "origin", None)
        if origin is None or Path(origin).parent != home / name:
            hidden = True
            yield Finding(
                "modules",
                Level.PROBLEM,
                f"`import {name}` finds {origin}, not {home / name}",
                "unset PYTHONPATH, or uninstall what brought it: `pip show -f` names its files",
            )
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.exists() and path.parent not in (home, home / name):
                hidden = True
                yield Finding(
                    "modules",
                    Level.WARNING,
                    f"{path} has the name of our package: `larnn-search` ignores it, `python -m` "
                    "run from here does not",
                    f"mv {path} somewhere else",
                )
    if not hidden:
        yield Finding("modules", Level.OK, f"model, search and trials come from {home}")


def examine(store: MongoStore, study: str | None = None) -> Iterator[Finding]:
    """Look at the database, what it holds, and who works on it.

    Args:
        store: Opened with ``any_schema``, so that another version's database can be looked at.
        study: Look at this study only; None: at all that are not over.

    Raises:
        StudyNotFoundError: If there is no such study.
        StoreUnavailableError: If the database goes away.
    """
    try:
        yield from _examine_server(store)
        stored = [*_examine_indexes(store), *_examine_schema(store)]
        yield from stored
        if any(finding.level is Level.PROBLEM for finding in stored):
            return  # what stands on it cannot be looked at
        yield from _examine_leases(store)
        yield from _examine_workers(store)
    except PyMongoError as error:
        raise translated(error, store.where) from error
    for symptom in diagnose_study(store, study):
        level = Level.PROBLEM if symptom.is_stuck else Level.OK
        yield Finding(f"study {symptom.study}", level, symptom.message, symptom.mend)


def _examine_server(store: MongoStore) -> Iterator[Finding]:
    server = store.database.client.server_info()["version"]
    yield Finding("server", Level.OK, f"MongoDB {server} answers at {store.where}")
    yield _examine_login(store)
    before = time.time()
    told = store.database.client.admin.command("hello")["localTime"]
    skew = told.replace(tzinfo=UTC).timestamp() - (before + time.time()) / 2
    if abs(skew) > CLOCK_SKEW_S:
        ahead = "ahead of" if skew > 0 else "behind"
        yield Finding(
            "clock",
            Level.WARNING,
            f"the database's clock is {abs(skew):.0f} s {ahead} this machine's: leases go by the "
            "database's, but ages and times left are shown wrong here",
            "timedatectl set-ntp true  (on the machine whose clock is wrong)",
        )
    else:
        yield Finding("clock", Level.OK, f"differs from the database's by {abs(skew):.1f} s")


def _examine_login(store: MongoStore) -> Finding:
    told = store.database.command("connectionStatus", showPrivileges=True)["authInfo"]
    users = [user["user"] for user in told["authenticatedUsers"]]
    if not users:
        host = store.where.rpartition(":")[0] or store.where
        if host.startswith("/") or host in ("127.0.0.1", "localhost", "[::1]"):
            return Finding("login", Level.OK, "none asked for; reached from this machine only")
        return Finding(
            "login",
            Level.WARNING,
            f"none: everyone who reaches {store.where} can change all",
            "start mongod with --auth, then larnn-search mongo users",
        )
    can: set[str] = set()
    for privilege in told["authenticatedUserPrivileges"]:
        resource = privilege["resource"]
        if resource.get("anyResource") or (
            resource.get("db") in (store.database.name, "") and not resource.get("collection")
        ):
            can.update(privilege["actions"])
    if not can >= WRITING:
        return Finding(
            "login",
            Level.WARNING,
            f"user {users[0]} may only read: no worker can use this login",
            "for a worker, log in as user worker of `larnn-search mongo users`",
        )
    return Finding("login", Level.OK, f"user {users[0]} may read and write")


def _examine_indexes(store: MongoStore) -> Iterator[Finding]:
    missing, other = faulty_indexes(store.database)
    if not other and store.database["studies"].find_one({}, {"_id": 1}) is None:
        state = "none made yet: the database is empty" if missing else "all are there"
        yield Finding("indexes", Level.OK, state)
        return
    for faulty, fault in ((missing, "missing"), (other, "other than they should be")):
        if faulty:
            yield Finding(
                "indexes",
                Level.PROBLEM,
                f"{fault}, so that commands fail or are slow: {', '.join(map('.'.join, faulty))}",
                "larnn-search upgrade",
            )
    if not (missing or other):
        yield Finding("indexes", Level.OK, "all are there")


def _examine_schema(store: MongoStore) -> Iterator[Finding]:
    meta = store.database["meta"].find_one({"_id": "schema"}) or {}
    version = meta.get("version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        yield Finding(
            "schema", Level.PROBLEM, schema_message("the database", version), "larnn-search upgrade"
        )
        return
    readable = {study.name for study in store.list_studies()}
    broken = sorted({str(name) for name in store.database["studies"].distinct("_id")} - readable)
    for name in broken:
        try:
            store.get_study(name)
        except TrialsError as error:
            yield Finding(
                "schema",
                Level.WARNING,
                f"left out: {error}",
                f"larnn-search upgrade, or larnn-search delete {name[:64]}",
            )
    yield Finding("schema", Level.OK, f"version {version}, {len(readable)} studies can be read")


def _examine_leases(store: MongoStore) -> Iterator[Finding]:
    since = {"$subtract": [pipelines.NOW, round(STALE_S * 1000)]}
    expired = {
        "state": TrialState.RUNNING.value,
        "$expr": {"$lte": ["$lease_expires_at", since]},
    }
    stale = list(store.database["trials"].find(expired, {"_id": 1}).limit(5))
    if stale:
        names = ", ".join(str(trial["_id"]) for trial in stale)
        yield Finding(
            "leases",
            Level.PROBLEM,
            f"ran out, and nobody takes them back: {names}: no worker and no feeder is at work",
            "larnn-search worker, or larnn-search feed",
        )
    else:
        yield Finding("leases", Level.OK, "none has run out")


def _examine_workers(store: MongoStore) -> Iterator[Finding]:
    ours, workers = importlib.metadata.version("larnn-search"), store.list_workers()
    for worker in workers:
        if worker.message:
            yield Finding(
                "workers",
                Level.WARNING,
                f"{worker.name}: {worker.message}",
                f"larnn-search show STUDY NUMBER tells each failure; restart it on {worker.host}",
            )
        if worker.version != ours:
            yield Finding(
                "workers",
                Level.WARNING,
                f"{worker.name} is of version {worker.version[:20]}, this is {ours}",
                f"install {ours} on {worker.host} and restart the worker",
            )
    slots = sum(len(worker.slots) for worker in workers)
    yield Finding("workers", Level.OK, f"{len(workers)} alive with {slots} slots")
