"""From the schema of an older version of this project to this one's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pymongo.database import Database

from trials.documents import SCHEMA_VERSION, Document, schema_message
from trials.errors import SchemaVersionError, StoreUnavailableError
from trials.indexes import drop_other_indexes
from trials.mongo_store import MongoStore

Step = Callable[[Database[Document]], None]
STEPS: Mapping[int, Step] = {}
"""By version, what turns its documents into the next version's. Version 1 is the first.

A step only changes documents of its own version, so that it can be run again where it was cut off.
"""


def upgrade(
    store: MongoStore, steps: Mapping[int, Step] = STEPS, target: int = SCHEMA_VERSION
) -> int:
    """Bring every document to version ``target``, and make the indexes what they should be.

    Args:
        store: Opened with ``any_schema``.
        steps: As `STEPS`.
        target: This program's version.

    Returns:
        The oldest version that was found.

    Raises:
        SchemaVersionError: If something is newer than this program, or too old for it.
        StoreUnavailableError: If workers still serve: they would go on writing the old version.
    """
    database = store.database
    versions = _versions(database)
    oldest = min(versions, default=target)
    unknown = [v for v in versions if v > target] + [
        v for v in range(oldest, target) if v not in steps
    ]
    if unknown:
        raise SchemaVersionError(schema_message("the database", unknown[0]))
    if oldest < target and (workers := store.list_workers()):
        raise StoreUnavailableError(
            f"{len(workers)} workers still serve, {workers[0].name} for one: stop them, then "
            "upgrade"
        )
    for version in range(oldest, target):
        steps[version](database)
    if versions:
        database["meta"].update_one({"_id": "schema"}, {"$set": {"version": target}})
    drop_other_indexes(database)
    store.prepare()
    return oldest


def _versions(database: Database[Document]) -> list[int]:
    """Every schema version that the database and its documents name."""
    whole = {"schema": {"$type": "number"}}
    found = [
        *database["meta"].distinct("version", {"_id": "schema"}),
        *database["studies"].distinct("schema", whole),
        *database["trials"].distinct("schema", whole),
    ]
    return sorted({int(version) for version in found})
