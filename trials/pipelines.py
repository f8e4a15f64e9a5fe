"""Each change of a trial, as one update that MongoDB carries out at once, by its own clock.

A value that came from outside stands in ``$literal``: otherwise text such as ``$token`` would be
read as an expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trials.documents import Document, encode_failure, encode_outcome, encode_report, trial_id
from trials.rules import LOST, LOST_AGAIN, MOST_LOSSES
from trials.store import CHECKPOINT
from trials.trial import (
    FINISHED_STATES,
    Claim,
    Failure,
    FailureKind,
    Outcome,
    Report,
    TrialState,
)

Pipeline = list[dict[str, Any]]

NOW = "$$NOW"
FINISHED = sorted(state.value for state in FINISHED_STATES)
NO_CLAIM: Document = {"token": None, "lease_expires_at": None}
IS_WAITING: Document = {"$eq": ["$state", TrialState.WAITING.value]}
IS_CANCELLED: Document = {"$eq": ["$cancel", True]}


def literal(value: object) -> Document:
    """Keep MongoDB from reading a value as an expression."""
    return {"$literal": value}


def if_else(condition: object, then: object, otherwise: object) -> Document:
    """Choose between two expressions."""
    return {"$cond": [condition, then, otherwise]}


UNLESS_CANCELLED = if_else(IS_CANCELLED, TrialState.CANCELLED.value, TrialState.WAITING.value)
"""Where a trial that did not end goes."""


def appended(field: str, item: object) -> Document:
    """An array with one more item; anything else that stands there is replaced."""
    return {"$concatArrays": [if_else({"$isArray": f"${field}"}, f"${field}", []), [item]]}


def owned(claim: Claim) -> Document:
    """Filter: the trial, while it runs under this claim."""
    return {
        "_id": trial_id(claim.study, claim.number),
        "state": TrialState.RUNNING.value,
        "attempt": claim.attempt,
        "token": claim.token,
    }


def until(lease_s: float) -> Document:
    """Moment at which a lease granted now runs out."""
    return {"$add": [NOW, round(lease_s * 1000)]}


def open_to(worker: str, elsewhere_s: float) -> Document:
    """Filter: a waiting trial that this worker may take (`TrialStore.reserve`)."""
    waited = {"$subtract": [NOW, round(elsewhere_s * 1000)]}
    # Null, where there was no retry, sorts before every date.
    has_waited = {"$expr": {"$lte": ["$ended.requeued_at", waited]}}
    return {
        "state": TrialState.WAITING.value,
        "$or": [{"failures.worker": {"$ne": worker}}, has_waited],
    }


def reserve(worker: str, host: str, token: str, lease_s: float) -> Pipeline:
    """WAITING to RUNNING."""
    return [
        {
            "$set": {
                "state": TrialState.RUNNING.value,
                # A document made by hand may hold anything here; it is refused after the claim.
                "attempt": if_else({"$isNumber": "$attempt"}, {"$add": ["$attempt", 1]}, 1),
                "token": literal(token),
                "worker": literal(worker),
                "host": literal(host),
                "started_at": NOW,
                "lease_expires_at": until(lease_s),
                "cancel": False,
            }
        }
    ]


def give_back() -> Pipeline:
    """RUNNING to WAITING, as if it had not been reserved: the study's budget is given out."""
    undone = {"$subtract": ["$attempt", 1]}
    return [
        {
            "$set": {
                **NO_CLAIM,
                "state": UNLESS_CANCELLED,
                "attempt": undone,
                "started_at": if_else({"$eq": [undone, 0]}, None, "$started_at"),
            }
        },
        settle(),
    ]


def beat(lease_s: float) -> Pipeline:
    """A longer lease."""
    return [{"$set": {"lease_expires_at": until(lease_s)}}]


def report(reports: Sequence[Report], attempt: int) -> Pipeline:
    """One more entry a step; of one attempt the first counts, of several attempts the last."""
    # In one stage: MongoDB takes at most 1,000, and an outage may leave more reports to write.
    change: Document = {}
    for one in reports:
        told = f"reports.{one.step}"
        new = literal(encode_report(one, attempt))
        change.setdefault(told, if_else({"$eq": [f"${told}.attempt", attempt]}, f"${told}", new))
    return [{"$set": change}]


def finish(claim: Claim, outcome: Outcome) -> Pipeline:
    """RUNNING to how the attempt ended; back to the queue only if nobody cancelled it meanwhile."""
    encoded = encode_outcome(outcome)
    waits = outcome.state is TrialState.WAITING
    retries = waits and outcome.counts_as_retry
    change: Document = {
        **NO_CLAIM,
        "state": UNLESS_CANCELLED if waits else outcome.state.value,
        "loss": None if waits else encoded["loss"],
        "result": literal({} if waits else encoded["result"]),
        "ended": {
            "token": literal(claim.token),
            "attempt": claim.attempt,
            "state": outcome.state.value,
            "loss": encoded["loss"],
            "checkpoint": {"$ifNull": [f"$blobs.{CHECKPOINT}", None]},
            "requeued_at": NOW if retries else None,
            "losses": 0,
        },
    }
    if encoded["failure"] is not None:
        change["failures"] = appended("failures", literal(encoded["failure"]))
    if retries:
        change["retries"] = {"$add": ["$retries", 1]}
    return [{"$set": change}, settle()]


def settle() -> Document:
    """Stage after a change of state: what a finished trial has, and a waiting one has not."""
    is_finished = {"$in": ["$state", FINISHED]}
    return {
        "$set": {
            "finished_at": if_else(is_finished, NOW, None),
            "worker": if_else(IS_WAITING, None, "$worker"),
            "host": if_else(IS_WAITING, None, "$host"),
            f"blobs.{CHECKPOINT}": if_else(is_finished, "$$REMOVE", f"$blobs.{CHECKPOINT}"),
        }
    }


def release() -> Pipeline:
    """RUNNING to WAITING, CANCELLED where someone asked for it, or FAILED after `MOST_LOSSES`."""
    reports = if_else({"$eq": [{"$type": "$reports"}, "object"]}, "$reports", literal({}))
    attempts = {"$map": {"input": {"$objectToArray": reports}, "in": "$$this.v.attempt"}}
    known = if_else({"$isNumber": "$ended.losses"}, "$ended.losses", 0)
    losses = if_else({"$in": ["$attempt", attempts]}, 0, {"$add": [known, 1]})
    is_last = {"$and": [{"$gte": ["$ended.losses", MOST_LOSSES]}, {"$not": IS_CANCELLED}]}
    failure = encode_failure(Failure(FailureKind.LOST_WORKER, LOST, "", "", 0))
    told: Document = {name: f"${name}" for name in ("worker", "host", "attempt")}
    told["message"] = if_else(is_last, LOST_AGAIN, LOST)
    return [
        {"$set": {"ended.losses": losses}},
        {
            "$set": {
                **NO_CLAIM,
                "state": if_else(is_last, TrialState.FAILED.value, UNLESS_CANCELLED),
                "failures": appended("failures", {"$mergeObjects": [literal(failure), told]}),
            }
        },
        settle(),
    ]


def cancel() -> Pipeline:
    """WAITING to CANCELLED; RUNNING stays, and its worker is told."""
    state = if_else(IS_WAITING, TrialState.CANCELLED.value, "$state")
    return [{"$set": {"cancel": True, "state": state}}, settle()]


def retry() -> Pipeline:
    """FAILED or CANCELLED to WAITING, from the start; what went wrong stays on record."""
    return [
        {
            "$set": {
                "state": TrialState.WAITING.value,
                "retries": 0,
                "cancel": False,
                "loss": None,
                "result": literal({}),
                "reports": literal({}),
                "ended.losses": 0,
            }
        },
        settle(),
    ]
