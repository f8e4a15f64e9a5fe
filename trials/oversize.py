"""Trials that have grown so large that MongoDB takes no change of them: they must block nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from trials.documents import Document
from trials.errors import BrokenDocumentError, InvalidValueError
from trials.pipelines import NOW, literal
from trials.reading import read_trial, refusal, stand_in
from trials.retrying import is_too_large
from trials.transfer import trial_document
from trials.trial import TrialState

LIMIT_BYTES = 16 * 2**20
"""What MongoDB keeps as one document."""
ROOM_BYTES = 2**18
"""More than a change of state adds: times, names, a failure's message and traceback."""
T = TypeVar("T")
log = logging.getLogger(__name__)


def with_room(trials: Collection[Document], chosen: Document, change: Callable[[], T]) -> T:
    """Run a change of trials; those of ``chosen`` that are too large for any become FAILED instead.

    Args:
        trials: The collection.
        chosen: Filter: the trials that ``change`` may come upon.
        change: What to do; it is done again when such trials are out of the way.
    """
    while True:
        try:
            return change()
        except OperationFailure as error:
            if not is_too_large(error) or not _refuse(trials, chosen):
                raise


def _refuse(trials: Collection[Document], chosen: Document) -> int:
    large = {"$expr": {"$gt": [{"$bsonSize": "$$ROOT"}, LIMIT_BYTES - ROOM_BYTES]}}
    refused = 0
    for found in trials.find({"$and": [chosen, large]}, {"reports": 0, "result": 0}):
        log.warning("trial %s is larger than MongoDB's 16 MB: it is FAILED", found["_id"])
        rest = {"$mergeObjects": [literal(_what_fits(found)), {"finished_at": NOW}]}
        still = {"$and": [chosen, {"_id": found["_id"]}]}
        refused += trials.update_one(still, [{"$replaceWith": rest}]).matched_count
    return refused


def _what_fits(found: Mapping[str, Any]) -> Document:
    """The FAILED trial without reports and result; without params too, if it is these."""
    problem = BrokenDocumentError(
        f"trial {str(found['_id'])[:100]} has grown to the 16 MB that MongoDB keeps as one, so "
        "that nothing more could be written: its reports and result were dropped; report less"
    )
    known = replace(
        read_trial({**found, "result": {}}),
        state=TrialState.FAILED,
        token=None,
        failures=(refusal(problem),),
    )
    try:
        kept = trial_document(known)
    except InvalidValueError:
        kept = trial_document(stand_in(found, problem))
    return {**kept, "_id": found["_id"]}
