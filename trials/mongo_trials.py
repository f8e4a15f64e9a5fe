"""Trials in MongoDB: their life, and reading them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from operator import attrgetter

from pymongo.errors import DuplicateKeyError

from trials import pipelines
from trials.documents import Document, below, encode_failure, encode_outcome, trial_id
from trials.errors import BrokenDocumentError
from trials.mongo_base import FLEETING
from trials.mongo_feeding import MongoFeeding
from trials.mongo_studies import AFTER
from trials.oversize import with_room
from trials.reading import decode_reserved, read_trial, refusal
from trials.retrying import prompt, retried
from trials.rules import (
    check_cancel,
    check_retry,
    lease_lost,
    trial_not_found,
)
from trials.store import CHECKPOINT, ELSEWHERE_SECONDS, LEASE_SECONDS, Control
from trials.study import StudySpec, StudyState
from trials.trial import (
    TAKEN_STATES,
    Claim,
    Failure,
    Outcome,
    Report,
    Trial,
    TrialState,
)
from trials.values import canonical


class MongoTrials(MongoFeeding):
    """The part of `MongoStore` that concerns trials."""

    # -- one trial's life ------------------------------------------------------------------------

    @retried
    def reserve(
        self,
        study: str,
        worker: str,
        host: str,
        token: str,
        lease_s: float = LEASE_SECONDS,
        elsewhere_s: float = ELSEWHERE_SECONDS,
    ) -> Trial | None:
        """See `TrialStore.reserve`; a trial whose document does not fit becomes FAILED instead."""
        wanted = {"study": study, **pipelines.open_to(worker, elsewhere_s)}
        change = pipelines.reserve(worker, host, token, lease_s)
        while (document := self._reserve(study, wanted, change, token)) is not None:
            try:
                return decode_reserved(document)
            except BrokenDocumentError as problem:
                self._refuse(document["_id"], token, refusal(problem, worker, host))
        return None

    def _refuse(self, trial: object, token: str, why: Failure) -> None:
        owned = {"_id": trial, "token": token}
        state = {"state": TrialState.FAILED.value, "failures": [encode_failure(why)]}
        change = {"$set": {**pipelines.NO_CLAIM, **state}}
        with_room(self._trials, owned, lambda: self._trials.update_one(owned, change))

    def _reserve(
        self, study: str, wanted: Document, change: pipelines.Pipeline, token: str
    ) -> Document | None:
        found, document = self._read_study(study), None
        if found.state is StudyState.ACTIVE:
            # A DuplicateKeyError: reserved before under this token, and the answer was lost.
            with contextlib.suppress(DuplicateKeyError):
                document = with_room(
                    self._trials,
                    wanted,
                    lambda: self._trials.find_one_and_update(
                        wanted, change, sort=[("number", 1)], return_document=AFTER
                    ),
                )
        if document is None:
            document = self._trials.find_one({"state": TrialState.RUNNING.value, "token": token})
        if document is not None and self._is_beyond_budget(found.spec):
            mine = {"_id": document["_id"], "token": token}
            self._trials.update_one(mine, pipelines.give_back())
            return None
        return document

    def _is_beyond_budget(self, spec: StudySpec) -> bool:
        """Whether one trial too many runs, asked by whoever has just reserved one.

        Who reserves before he asks is seen by all who reserve later: of two that take the last
        place at once both may be told so, and ask again, but never neither.
        """
        if spec.max_trials is None:
            return False
        # Numbers have no gaps: without this one there are not more trials than may run.
        if self._trials.find_one({"_id": trial_id(spec.name, spec.max_trials)}, {"_id": 1}) is None:
            return False
        # One by one, in this order: a trial that ends meanwhile is counted twice, but not missed.
        return sum(self._count(spec.name, state) for state in TAKEN_STATES) > spec.max_trials

    @retried
    @prompt
    def beat(self, claim: Claim, lease_s: float = LEASE_SECONDS) -> Control:
        """See `TrialStore.beat`."""
        found = self._trials.with_options(write_concern=FLEETING).find_one_and_update(
            pipelines.owned(claim), pipelines.beat(lease_s), {"cancel": 1}, return_document=AFTER
        )
        if found is None:
            raise self._lost(claim)
        study = self._read_study(claim.study)
        return Control(study.state, study.cutoffs, found.get("cancel") is True)

    @retried
    def report(self, claim: Claim, reports: Sequence[Report]) -> None:
        """See `TrialStore.report`."""
        owned = pipelines.owned(claim)
        if reports:
            change = pipelines.report(reports, claim.attempt)
            found = self._trials.update_one(owned, change).matched_count
        else:
            found = self._trials.count_documents(owned, limit=1)
        if not found:
            raise self._lost(claim)

    @retried
    def finish(self, claim: Claim, outcome: Outcome) -> Trial:
        """See `TrialStore.finish`."""
        document = self._trials.find_one_and_update(
            pipelines.owned(claim), pipelines.finish(claim, outcome), return_document=AFTER
        )
        if document is None:
            document = self._ended(claim, outcome)
        trial = read_trial(document)
        checkpoint = document["ended"]["checkpoint"]
        if trial.state.is_finished and checkpoint is not None:
            self._blobs.delete(checkpoint)
        return trial

    def _ended(self, claim: Claim, outcome: Outcome) -> Document:
        """The trial, when this very outcome was recorded under the claim before."""
        document = self._trials.find_one({"_id": trial_id(claim.study, claim.number)})
        ended = (document or {}).get("ended")
        told = [claim.token, claim.attempt, outcome.state.value, encode_outcome(outcome)["loss"]]
        if document is None or not isinstance(ended, dict):
            raise self._lost(claim)
        if canonical([ended.get(k) for k in ("token", "attempt", "state", "loss")]) != canonical(
            told
        ):
            raise self._lost(claim)
        return document

    def _lost(self, claim: Claim) -> Exception:
        found = self._trials.find_one(
            {"_id": trial_id(claim.study, claim.number)}, {"state": 1, "attempt": 1}
        )
        if found is None:
            return lease_lost(claim, "deleted")
        return lease_lost(claim, f"{found.get('state')}, attempt {found.get('attempt')}")

    @retried
    @prompt
    def release_expired(self) -> list[Trial]:
        """See `TrialStore.release_expired`; none when others may just not be back yet."""
        if self._retrying.outage.may_have_silenced_others(self._retrying.clock()):
            return []
        # Whatever is no date sorts before all dates (null, text, numbers), so it is released too.
        expired = {
            "state": TrialState.RUNNING.value,
            "$expr": {"$lte": ["$lease_expires_at", pipelines.NOW]},
        }

        def release() -> Document | None:
            return self._trials.find_one_and_update(
                expired, pipelines.release(), return_document=AFTER
            )

        released = []
        while document := with_room(self._trials, expired, release):
            released.append(self._without_checkpoint(read_trial(document)))
        return released

    def _without_checkpoint(self, trial: Trial) -> Trial:
        """Delete what a trial needs no more once it was ended outside of `finish`."""
        if trial.state.is_finished:
            self._blobs.delete_below(f"{trial.study}/{CHECKPOINT}/{trial.number}/")
        return trial

    @retried
    def cancel_trial(self, study: str, number: int) -> Trial:
        """See `TrialStore.cancel_trial`."""
        states = [TrialState.WAITING, TrialState.RUNNING]
        trial = self._move(study, number, states, pipelines.cancel())
        check_cancel(number, trial.state)
        return self._without_checkpoint(trial)

    @retried
    def retry_trial(self, study: str, number: int) -> Trial:
        """See `TrialStore.retry_trial`."""
        found, counts = self._read_study(study), self._counts(study)
        check_retry(found, self._read_trial(study, number), counts)
        states = [TrialState.FAILED, TrialState.CANCELLED]
        trial = self._move(study, number, states, pipelines.retry())
        check_retry(found, trial, counts)  # somebody may have been faster
        # After the trial, for a feeder that completes the study meanwhile looks for such trials.
        complete = {"_id": study, "state": StudyState.COMPLETE.value}
        self._studies.update_one(
            complete, {"$set": {"state": StudyState.ACTIVE.value, "message": ""}}
        )
        return trial

    def _move(
        self, study: str, number: int, states: Sequence[TrialState], change: pipelines.Pipeline
    ) -> Trial:
        """Change a trial that is in one of ``states``; another comes back as it is."""
        document = self._trials.find_one_and_update(
            {"_id": trial_id(study, number), "state": {"$in": [state.value for state in states]}},
            change,
            return_document=AFTER,
        )
        return self._read_trial(study, number) if document is None else read_trial(document)

    # -- reading ---------------------------------------------------------------------------------

    @retried
    def get_trial(self, study: str, number: int) -> Trial:
        """See `TrialStore.get_trial`."""
        return self._read_trial(study, number)

    def _read_trial(self, study: str, number: int) -> Trial:
        document = self._trials.find_one({"_id": trial_id(study, number)})
        if document is None:
            self._read_study(study)
            raise trial_not_found(study, number)
        return read_trial(document)

    @retried
    def list_trials(
        self, study: str, states: Sequence[TrialState] | None = None, with_reports: bool = True
    ) -> list[Trial]:
        """See `TrialStore.list_trials`."""
        if states is None:
            # By primary key: scans by state miss a trial that goes from one to another meanwhile.
            condition: Document = {"_id": below(f"{study}/")}
        else:
            condition = {"study": study, "state": {"$in": [state.value for state in states]}}
        fields = None if with_reports else {"reports": 0}
        made = [read_trial(document) for document in self._trials.find(condition, fields)]
        if not made:
            self._read_study(study)
        return sorted(made, key=attrgetter("number"))

    @retried
    def best_trial(self, study: str) -> Trial | None:
        """See `TrialStore.best_trial`."""
        # NaN is no number between the infinities, and so left out.
        asked: Document = {
            "study": study,
            "state": TrialState.COMPLETE.value,
            "loss": {"$gte": -math.inf, "$lte": math.inf},
        }
        order = [("loss", 1), ("number", 1)]
        document = self._trials.find_one(asked, sort=order)
        if document is None:
            self._read_study(study)
            return None
        best = read_trial(document)
        if best.state is not TrialState.COMPLETE:  # it cannot be read: the next one that can
            others = map(read_trial, self._trials.find(asked, sort=order))
            return next((trial for trial in others if trial.state is TrialState.COMPLETE), None)
        return best
