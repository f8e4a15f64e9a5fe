"""Studies and workers in MongoDB."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DocumentTooLarge, DuplicateKeyError, OperationFailure

from trials import pipelines
from trials.documents import (
    Document,
    encode_spec,
    encode_study,
    encode_worker,
)
from trials.errors import UNREADABLE, BrokenDocumentError, StudyNotFoundError
from trials.mongo_base import MongoBase
from trials.oversize import with_room
from trials.reading import decode_study, decode_worker
from trials.retrying import are_all, is_too_large, prompt, retried
from trials.rules import (
    check_same_study,
    check_study_change,
    feeder_lost,
    reopens,
    study_changed,
    study_exists,
    study_not_found,
)
from trials.store import CHECKPOINT, LEASE_SECONDS, Offer, WorkerInfo
from trials.study import LIMIT_FIELDS, Counts, Study, StudySpec, StudyState, states_before
from trials.transfer import check_whole, study_document, trial_document
from trials.trial import Trial, TrialState
from trials.values import plain

log = logging.getLogger(__name__)
AFTER = ReturnDocument.AFTER
DUPLICATE_KEY = 11000


class MongoStudies(MongoBase):
    """The part of `MongoStore` that concerns studies as a whole."""

    # -- studies ---------------------------------------------------------------------------------

    @retried
    def create_study(self, spec: StudySpec) -> Study:
        """See `TrialStore.create_study`."""
        self.prepare()
        encoded = encode_study(spec, self._now())
        try:
            self._studies.insert_one(encoded)
            # A feeder that had asked may have added trials while one of that name was deleted.
            self._trials.delete_many(
                {"study": spec.name, "created_at": {"$lt": encoded["created_at"]}}
            )
            return decode_study(encoded)
        except DuplicateKeyError:
            return self._relaunch(spec)

    def _relaunch(self, spec: StudySpec) -> Study:
        while True:
            old = self._read_study(spec.name)
            check_same_study(old.spec, spec)
            change: Document = {"spec": encode_spec(spec)}
            if reopens(old, spec, self._counts(spec.name)):
                change |= {"state": StudyState.ACTIVE.value, "message": ""}
            document = self._studies.find_one_and_update(
                {"_id": spec.name, "state": old.state.value},
                {"$set": change},
                return_document=AFTER,
            )
            if document is not None:  # else somebody changed its state since it was read
                return decode_study(document)

    @retried
    @prompt
    def get_study(self, name: str) -> Study:
        """See `TrialStore.get_study`."""
        return self._read_study(name)

    @retried
    def list_studies(self) -> list[Study]:
        """See `TrialStore.list_studies`; one that cannot be read is logged and left out."""
        made = []
        for document in self._studies.find().sort([("created_at", 1), ("_id", 1)]):
            try:
                made.append(decode_study(document))
            except UNREADABLE as error:
                self._tell_left_out(error)
        return made

    @retried
    def set_study_state(
        self,
        name: str,
        state: StudyState,
        message: str = "",
        *,
        was: Study | None = None,
        token: str | None = None,
    ) -> Study:
        """See `TrialStore.set_study_state`."""
        change = {"state": state.value, "message": message}
        allowed: Document = {"state": {"$in": [old.value for old in states_before(state)]}}
        if was is not None:
            limits = {f"spec.{field}": getattr(was.spec, field) for field in LIMIT_FIELDS}
            allowed = {"$and": [allowed, {"state": was.state.value, **limits}]}
        # The change itself, sent again as its answer was lost, is no other one.
        condition: Document = {"_id": name, "$or": [allowed, change]}
        if token is not None:
            condition["feeder.token"] = token
        document = self._studies.find_one_and_update(
            condition, {"$set": change}, return_document=AFTER
        )
        if document is None:
            self._check_feeder(name, token)
            found = self._read_study(name)
            check_study_change(found, state, message, was)
            raise study_changed(found)
        study = decode_study(document)
        if state is StudyState.CANCELLED:
            # After the study: what is reserved in between learns it from its first beat.
            unfinished = {"$in": [TrialState.WAITING.value, TrialState.RUNNING.value]}
            chosen = {"study": name, "state": unfinished}
            with_room(
                self._trials,
                chosen,
                lambda: self._trials.update_many(chosen, pipelines.cancel()),
            )
            self._blobs.delete_below(f"{name}/{CHECKPOINT}/")
        return study

    def delete_study(self, name: str) -> None:
        """See `TrialStore.delete_study`; interrupted, it can be called again."""
        self._require(name)
        self._delete(name)

    @retried
    def _delete(self, name: str) -> None:
        closed = {"state": StudyState.CANCELLED.value, "feeder": None}
        self._studies.update_one({"_id": name}, {"$set": closed})
        self._trials.delete_many({"study": name})
        self._blobs.delete_below(f"{name}/")
        # Last: as long as something is left, the study is there to be deleted.
        self._studies.delete_one({"_id": name})

    def restore_study(self, study: Study, trials: Sequence[Trial]) -> Study:
        """See `TrialStore.restore_study`; interrupted, it leaves a CANCELLED study to delete."""
        check_whole(study, trials)
        encoded = [trial_document(trial) for trial in trials]
        return self._restore(study_document(study), encoded, uuid.uuid4().hex)

    @retried
    def _restore(self, study: Document, trials: Sequence[Document], token: str) -> Study:
        self.prepare()
        name, held = study["_id"], {"state": StudyState.CANCELLED.value, "restored_by": token}
        try:
            # Nobody may serve it before it is whole.
            self._studies.insert_one({**study, **held})
        except DuplicateKeyError:
            if self._studies.find_one({"_id": name, "restored_by": token}, {"_id": 1}) is None:
                raise study_exists(name) from None
        try:
            if trials:
                self._trials.insert_many(trials, ordered=False)
        except (OperationFailure, DocumentTooLarge) as error:
            if is_too_large(error):
                self._delete(name)  # it will never be whole
            if not are_all(DUPLICATE_KEY, error):
                raise
        return self._changed(name, {}, {"$set": {"state": study["state"]}})

    @retried
    def record_test_look(self, name: str, look: Mapping[str, Any]) -> Study:
        """See `TrialStore.record_test_look`."""
        entry = pipelines.literal(plain(look, "a look at the test people"))
        logged = {"$mergeObjects": [entry, {"at": pipelines.NOW}]}
        change = [{"$set": {"test_looks": pipelines.appended("test_looks", logged)}}]
        try:
            return self._changed(name, {"test_looks.number": {"$ne": look["number"]}}, change)
        except StudyNotFoundError:  # or the trial was looked at before
            return self._read_study(name)

    @retried
    def _require(self, name: str) -> None:
        if self._studies.find_one({"_id": name}, {"_id": 1}) is None:
            raise self._not_found(name)

    def _read_study(self, name: str) -> Study:
        document = self._studies.find_one({"_id": name})
        if document is None:
            raise self._not_found(name)
        return decode_study(document)

    def _changed(self, name: str, condition: Document, change: Any) -> Study:
        document = self._studies.find_one_and_update(
            {"_id": name, **condition}, change, return_document=AFTER
        )
        if document is None:
            raise self._not_found(name)
        return decode_study(document)

    def _check_feeder(self, study: str, token: str | None) -> None:
        found = self._studies.find_one({"_id": study}, {"feeder.token": 1})
        if found is None:
            raise self._not_found(study)
        if token is not None and (found.get("feeder") or {}).get("token") != token:
            raise feeder_lost(study)

    def _not_found(self, name: str) -> StudyNotFoundError:
        return study_not_found(name, self._studies.distinct("_id"))

    # -- choosing --------------------------------------------------------------------------------

    @retried
    def offers(self) -> list[Offer]:
        """See `TrialStore.offers`; one query, whose cost does not grow with finished trials."""

        def having(state: TrialState, *stages: Document) -> Document:
            return {
                "from": self._trials.name,
                "localField": "_id",
                "foreignField": "study",
                "pipeline": [{"$match": {"state": state.value}}, *stages],
            }

        one, count = {"$limit": 1}, {"$count": "n"}
        found = self._studies.aggregate(
            [
                {"$match": {"state": StudyState.ACTIVE.value}},
                {
                    "$lookup": {
                        **having(TrialState.WAITING, one, {"$project": {"_id": 1}}),
                        "as": "waiting",
                    }
                },
                {"$match": {"waiting": {"$ne": []}}},
                {"$lookup": {**having(TrialState.RUNNING, count), "as": "running"}},
                {"$sort": {"_id": 1}},
            ]
        )
        made = []
        for row in found:
            try:
                spec = decode_study(row).spec
            except UNREADABLE as error:
                self._tell_left_out(error)
                continue
            running = row["running"][0]["n"] if row["running"] else 0
            made.append(Offer(spec.name, spec.objective, spec.priority, running))
        return made

    @retried
    def counts(self, study: str) -> Counts:
        """See `TrialStore.counts`."""
        counts = self._counts(study)
        if not any(counts.values()):
            self._read_study(study)
        return counts

    def _counts(self, study: str) -> Counts:
        # Finished states first: a trial that moves on meanwhile is missed once rather than counted
        # twice.
        order = sorted(TrialState, key=lambda state: not state.is_finished)
        found = {state: self._count(study, state) for state in order}
        return {state: found[state] for state in TrialState}

    def _count(self, study: str, state: TrialState) -> int:
        # Counting index keys, state by state, takes a quarter of the time of one grouping.
        query = {"study": study, "state": state.value}
        told = self._database.command("count", self._trials.name, query=query, hint="queue")
        return int(told["n"])

    # -- workers ---------------------------------------------------------------------------------

    @retried
    @prompt
    def beat_worker(self, worker: WorkerInfo) -> None:
        """See `TrialStore.beat_worker`."""
        told = {name: pipelines.literal(value) for name, value in encode_worker(worker).items()}
        change = [{"$set": {**told, "last_seen_at": pipelines.NOW}}]
        self._workers.update_one({"_id": worker.name}, change, upsert=True)

    @retried
    @prompt
    def remove_worker(self, name: str) -> None:
        """See `TrialStore.remove_worker`."""
        self._workers.delete_one({"_id": name})

    @retried
    def list_workers(self, seen_within_s: float = LEASE_SECONDS) -> list[WorkerInfo]:
        """See `TrialStore.list_workers`."""
        since = {"$subtract": [pipelines.NOW, round(seen_within_s * 1000)]}
        recent = {"$expr": {"$gte": ["$last_seen_at", since]}}
        made = []
        for document in self._workers.find(recent).sort("_id", 1):
            try:
                made.append(decode_worker(document))
            except BrokenDocumentError as error:
                self._tell_left_out(error)
        return made

    def _tell_left_out(self, error: Exception) -> None:
        """Once: workers ask for offers twice a second."""
        if str(error) not in self._left_out:
            self._left_out.add(str(error))
            log.warning("left out: %s", error)
