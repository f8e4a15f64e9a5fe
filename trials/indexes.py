"""The database's indexes: what they should be, and which are not so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pymongo import ASCENDING, IndexModel
from pymongo.database import Database

from trials.blobs import BUCKET
from trials.documents import Document
from trials.trial import TrialState

WORKER_KEPT_S = 86_400
OPTIONS = ("unique", "partialFilterExpression", "expireAfterSeconds")
INDEXES: Mapping[str, Sequence[IndexModel]] = {
    # No other index has all states by study: the planner would now and then take it for the queue.
    "trials": [
        IndexModel([("study", 1), ("state", 1), ("number", 1)], name="queue"),
        IndexModel(
            [("study", 1), ("loss", 1), ("number", 1)],
            name="best",
            partialFilterExpression={"state": TrialState.COMPLETE.value},
        ),
        IndexModel(
            [("lease_expires_at", ASCENDING)],
            name="leases",
            partialFilterExpression={"state": TrialState.RUNNING.value},
        ),
        IndexModel(
            [("token", ASCENDING)],
            name="tokens",
            unique=True,
            partialFilterExpression={
                "state": TrialState.RUNNING.value,
                "token": {"$type": "string"},
            },
        ),
    ],
    "studies": [IndexModel([("state", 1)], name="state")],
    "workers": [IndexModel([("last_seen_at", 1)], name="seen", expireAfterSeconds=WORKER_KEPT_S)],
    # As GridFS makes them with its first write, for which a worker may lack the right.
    f"{BUCKET}.files": [IndexModel([("filename", 1), ("uploadDate", 1)])],
    f"{BUCKET}.chunks": [IndexModel([("files_id", 1), ("n", 1)], unique=True)],
}
"""By collection."""


def make_indexes(database: Database[Document]) -> None:
    """Make those that are missing."""
    for collection, wanted in INDEXES.items():
        database[collection].create_indexes(list(wanted))


def drop_other_indexes(database: Database[Document]) -> None:
    """Drop those that have the name of one of ours and are other than it."""
    for collection, name in faulty_indexes(database)[1]:
        database[collection].drop_index(name)


def faulty_indexes(
    database: Database[Document],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Collection and name of each index that is missing, and of each that is other than ours."""
    missing, other = [], []
    for collection, wanted in INDEXES.items():
        there = database[collection].index_information()
        for index in wanted:
            name = index.document["name"]
            if name not in there:
                missing.append((collection, name))
            elif not _agrees(index.document, there[name]):
                other.append((collection, name))
    return missing, other


def _agrees(ours: Mapping[str, object], theirs: Mapping[str, object]) -> bool:
    keys = [(name, int(order)) for name, order in theirs["key"]]  # type: ignore[attr-defined]  # pairs
    return keys == list(ours["key"].items()) and all(  # type: ignore[attr-defined]  # a mapping
        ours.get(option) == theirs.get(option) for option in OPTIONS
    )
