"""A study's feeder in MongoDB: its lease, and what only it may write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pymongo.errors import BulkWriteError

from trials import pipelines
from trials.documents import Document, encode_trial, trial_id
from trials.mongo_studies import DUPLICATE_KEY, MongoStudies
from trials.reading import read_trial
from trials.retrying import are_all, retried
from trials.rules import feeder_lost, numbers_taken
from trials.store import LEASE_SECONDS, NewTrial
from trials.study import StudyState
from trials.trial import Trial
from trials.values import canonical, plain


class MongoFeeding(MongoStudies):
    """The part of `MongoStore` that concerns feeders."""

    @retried
    def acquire_feeder(self, name: str, token: str, lease_s: float = LEASE_SECONDS) -> bool:
        """See `TrialStore.acquire_feeder`."""
        # Null sorts before every date, so that a feeder that never was has run out too.
        free = {"$expr": {"$lte": ["$feeder.expires_at", pipelines.NOW]}}
        lease = {"token": pipelines.literal(token), "expires_at": pipelines.until(lease_s)}
        result = self._studies.update_one(
            {"_id": name, "$or": [{"feeder.token": token}, {"feeder": None}, free]},
            [{"$set": {"feeder": lease}}],
        )
        if result.matched_count == 0:
            self._read_study(name)
        return result.matched_count == 1

    @retried
    def unfed_studies(self) -> list[str]:
        """See `TrialStore.unfed_studies`."""
        # As in `acquire_feeder`: null sorts before every date.
        free = {"$expr": {"$lte": ["$feeder.expires_at", pipelines.NOW]}}
        going_on = {"$in": [StudyState.ACTIVE.value, StudyState.STOPPING.value]}
        found = self._studies.find({"state": going_on, **free}, {"_id": 1})
        return sorted(str(study["_id"]) for study in found)

    @retried
    def release_feeder(self, name: str, token: str) -> None:
        """See `TrialStore.release_feeder`."""
        mine = {"_id": name, "feeder.token": token}
        if self._studies.update_one(mine, {"$set": {"feeder": None}}).matched_count == 0:
            self._read_study(name)

    @retried
    def set_cutoffs(self, name: str, token: str, cutoffs: Mapping[int, float]) -> None:
        """See `TrialStore.set_cutoffs`."""
        encoded = plain({str(step): loss for step, loss in cutoffs.items()}, "cut-offs")
        result = self._studies.update_one(
            {"_id": name, "feeder.token": token}, {"$set": {"cutoffs": encoded}}
        )
        if result.matched_count == 0:
            self._read_study(name)
            raise feeder_lost(name)

    @retried
    def add_trials(
        self, study: str, token: str | None, first_number: int, trials: Sequence[NewTrial]
    ) -> list[Trial]:
        """See `TrialStore.add_trials`."""
        self._check_feeder(study, token)
        now = self._now()
        wanted = [
            encode_trial(study, number, new, now) for number, new in enumerate(trials, first_number)
        ]
        there = self._same_trials(study, first_number, wanted)
        try:
            if new := wanted[len(there) :]:
                self._trials.insert_many(new)
        except BulkWriteError as error:
            if not are_all(DUPLICATE_KEY, error):
                raise
            # Somebody else's, or this call's own, sent again by the driver.
            if len(self._same_trials(study, first_number, wanted)) < len(wanted):
                raise numbers_taken(study, first_number) from None
        return [read_trial(document) for document in there + new]

    def _same_trials(self, study: str, first: int, wanted: Sequence[Document]) -> list[Document]:
        """Those of ``wanted`` that are there; refuses others under their numbers, and gaps."""
        ids = [trial_id(study, number) for number in range(first - 1, first + len(wanted))]
        found = list(self._trials.find({"_id": {"$in": ids}}).sort("number", 1))
        there = [document for document in found if document["_id"] != ids[0]]
        complete = first == 0 or len(found) > len(there)
        same = all(
            canonical(read_trial(a).params) == canonical(b["params"])
            for a, b in zip(there, wanted, strict=False)
        )
        if not complete or not same:
            raise numbers_taken(study, first)
        return there
