"""The queue in MongoDB, and the blobs of its trials."""

from __future__ import annotations

from collections.abc import Sequence

from trials import pipelines
from trials.blobs import new_key, parse_key
from trials.documents import trial_id
from trials.errors import BrokenDocumentError
from trials.mongo_trials import MongoTrials
from trials.retrying import retried
from trials.rules import check_kind
from trials.trial import FINISHED_STATES, Claim, TrialState

SWEEP_BATCH = 500
BLOB_TRIES = 3


class MongoStore(MongoTrials):
    """A `trials.store.TrialStore` that many machines share; `MongoBase` says how to open one."""

    @retried
    def save_blob(self, claim: Claim, kind: str, data: bytes) -> None:
        """See `TrialStore.save_blob`; the old one is deleted once the new one is complete."""
        field = f"blobs.{check_kind(kind)}"
        if self._trials.find_one(pipelines.owned(claim), {"_id": 1}) is None:
            raise self._lost(claim)
        key = new_key(claim, kind)
        self._blobs.write(key, data)
        old = self._trials.find_one_and_update(
            pipelines.owned(claim), {"$set": {field: key}}, {field: 1}
        )
        if old is None:
            self._blobs.delete(key)
            raise self._lost(claim)
        if (replaced := old.get("blobs", {}).get(kind)) is not None:
            self._blobs.delete(replaced)

    @retried
    def load_blob(self, study: str, number: int, kind: str) -> bytes | None:
        """See `TrialStore.load_blob`.

        Raises:
            BrokenDocumentError: If the trial refers to bytes that are not there.
        """
        field = check_kind(kind)
        for _ in range(BLOB_TRIES):
            found = self._trials.find_one({"_id": trial_id(study, number)}, {f"blobs.{field}": 1})
            blobs = (found or {}).get("blobs")
            key = blobs.get(kind) if isinstance(blobs, dict) else None
            if key is None:
                return None
            if (data := self._blobs.read(key)) is not None:
                return data
            # Replaced since the trial was read: it names another key now.
        raise BrokenDocumentError(
            f"the {kind} of trial {number} of study {study!r} is damaged in the database"
        )

    @retried
    def drop_blobs(self, study: str, kind: str, keep: Sequence[int]) -> int:
        """See `TrialStore.drop_blobs`."""
        self._read_study(study)
        kept, dropped = set(keep), 0
        finished = {"$in": [state.value for state in FINISHED_STATES]}
        for key in self._blobs.keys_below(f"{study}/{check_kind(kind)}/"):
            parsed = parse_key(key)
            if parsed is None or parsed.number in kept:
                continue
            result = self._trials.update_one(
                {"_id": trial_id(study, parsed.number), "state": finished, f"blobs.{kind}": key},
                {"$unset": {f"blobs.{kind}": ""}},
            )
            if result.matched_count:
                self._blobs.delete(key)
                dropped += 1
        return dropped

    @retried
    def sweep_blobs(self) -> int:
        """Delete blobs, whole or in part, that no trial refers to; how many.

        A part whose own attempt still runs is left alone: it may be on its way.
        """
        orphans = 0
        batch: dict[str, None] = {}
        for key in self._blobs.all_keys():
            if parse_key(key) is not None:
                batch[key] = None
            if len(batch) >= SWEEP_BATCH:
                orphans += self._sweep(list(batch))
                batch.clear()
        return orphans + self._sweep(list(batch))

    def _sweep(self, keys: Sequence[str]) -> int:
        owners = {key: parsed for key in keys if (parsed := parse_key(key)) is not None}
        ids = {key: trial_id(owner.study, owner.number) for key, owner in owners.items()}
        fields = {"state": 1, "attempt": 1, "blobs": 1}
        found = {
            document["_id"]: document
            for document in self._trials.find({"_id": {"$in": list(ids.values())}}, fields)
        }
        orphans = []
        for key, owner in owners.items():
            trial = found.get(ids[key], {})
            running = (TrialState.RUNNING.value, owner.attempt)
            blobs = trial.get("blobs")
            is_named = isinstance(blobs, dict) and blobs.get(owner.kind) == key
            if not is_named and (trial.get("state"), trial.get("attempt")) != running:
                orphans.append(key)
        for key in orphans:
            self._blobs.delete(key)
        return len(orphans)
