"""Checkpoints, weights and logs of trials, in MongoDB's GridFS.

A blob's key is ``study/kind/number/attempt/nonce``. The trial names the key it refers to, so that a
new blob takes the old one's place in one step, after it was written whole. A blob that no trial
refers to is an orphan, unless its own attempt still runs: it may be half written.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import gridfs
from gridfs.errors import CorruptGridFile, NoFile
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from trials.documents import SCHEMA_VERSION, Document, below
from trials.trial import Claim

BUCKET = "blobs"


class BlobKey(NamedTuple):
    """What a key says."""

    study: str
    kind: str
    number: int
    attempt: int


def new_key(claim: Claim, kind: str) -> str:
    """A key that no other write uses."""
    parts = (claim.study, kind, claim.number, claim.attempt, uuid.uuid4().hex[:12])
    return "/".join(str(part) for part in parts)


def parse_key(key: object) -> BlobKey | None:
    """Read a key; None for what this project did not write."""
    parts = key.split("/") if isinstance(key, str) else []
    if len(parts) != 5 or not (parts[2].isdecimal() and parts[3].isdecimal()):
        return None
    return BlobKey(parts[0], parts[1], int(parts[2]), int(parts[3]))


class Blobs:
    """Bytes by key; knows nothing of trials."""

    def __init__(self, database: Database[Document], write_concern: WriteConcern) -> None:
        self._bucket = gridfs.GridFSBucket(database, BUCKET, write_concern=write_concern)
        self._files = database[f"{BUCKET}.files"].with_options(write_concern=write_concern)
        self._chunks = database[f"{BUCKET}.chunks"].with_options(write_concern=write_concern)

    def write(self, key: str, data: bytes) -> None:
        """Write all of ``data``; the key is readable only once it is complete."""
        try:
            about = {"schema": SCHEMA_VERSION}
            with self._bucket.open_upload_stream_with_id(key, key, metadata=about) as stream:
                stream.write(data)
        except OperationFailure:
            # Each of many tries would else leave a part behind, above all on a full disk.
            with contextlib.suppress(PyMongoError):
                self.delete(key)
            raise

    def read(self, key: str) -> bytes | None:
        """Read it whole; None when it is not, or no longer, there."""
        try:
            with self._bucket.open_download_stream(key) as stream:
                data: bytes = stream.read()
                return data
        except (NoFile, CorruptGridFile):  # deleted just now, perhaps while it was read
            return None

    def delete(self, key: str) -> None:
        """Delete it if it is there, whole or in part."""
        self._files.delete_one({"_id": key})
        self._chunks.delete_many({"files_id": key})

    def delete_below(self, prefix: str) -> None:
        """Delete every key that starts with ``prefix``, which ends with ``/``."""
        self._files.delete_many({"_id": below(prefix)})
        self._chunks.delete_many({"files_id": below(prefix)})

    def keys_below(self, prefix: str) -> list[str]:
        """Complete blobs whose key starts with ``prefix``, which ends with ``/``."""
        return [file["_id"] for file in self._files.find({"_id": below(prefix)}, {"_id": 1})]

    def all_keys(self) -> Iterator[Any]:
        """Every key that has a file or a chunk; one with both comes twice."""
        yield from (file["_id"] for file in self._files.find({}, {"_id": 1}))
        yield from (
            row["_id"] for row in self._chunks.aggregate([{"$group": {"_id": "$files_id"}}])
        )
