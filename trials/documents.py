"""Studies and trials on their way into MongoDB: what is written, as documents."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

from trials.store import NewTrial, WorkerInfo
from trials.study import StudySpec, StudyState
from trials.trial import Failure, Outcome, Report, TrialState
from trials.values import plain

SCHEMA_VERSION = 1
MAX_MESSAGE = 20_000
"""Characters kept of a failure's message, and of the end of its traceback."""

Document = dict[str, Any]


def schema_message(where: str, version: object) -> str:
    """What to say about something that another version of this project wrote."""
    return (
        f"{where} has schema version {version}, this program reads {SCHEMA_VERSION}: install the "
        "newest larnn-search everywhere, then run `larnn-search upgrade`"
    )


def trial_id(study: str, number: int) -> str:
    """Primary key of a trial (a study's name has no ``/``)."""
    return f"{study}/{number}"


def below(prefix: str) -> Document:
    """Condition for the primary keys that begin with this; it ends with ``/``."""
    return {"$gte": prefix, "$lt": prefix[:-1] + chr(ord("/") + 1)}


def encode_spec(spec: StudySpec) -> Document:
    """A study's settings as plain values."""
    made: Document = plain(dataclasses.asdict(spec), f"study {spec.name!r}")
    return made


def encode_study(spec: StudySpec, created_at: datetime) -> Document:
    """A new study."""
    return {
        "_id": spec.name,
        "schema": SCHEMA_VERSION,
        "spec": encode_spec(spec),
        "state": StudyState.ACTIVE.value,
        "message": "",
        "created_at": created_at,
        "cutoffs": {},
        "test_looks": [],
        "feeder": None,
    }


def encode_trial(study: str, number: int, new: NewTrial, created_at: datetime) -> Document:
    """A WAITING trial."""
    where = f"trial {number} of study {study!r}"
    return {
        "_id": trial_id(study, number),
        "schema": SCHEMA_VERSION,
        "study": study,
        "number": number,
        "state": TrialState.WAITING.value,
        "params": plain(new.params, f"params of {where}"),
        "seed": plain(new.seed, f"seed of {where}"),
        "suggestion": plain(new.suggestion, f"suggestion of {where}"),
        "created_at": created_at,
        "attempt": 0,
        "retries": 0,
        "token": None,
        "worker": None,
        "host": None,
        "started_at": None,
        "finished_at": None,
        "lease_expires_at": None,
        "loss": None,
        "result": {},
        "reports": {},
        "failures": [],
        "blobs": {},
        "cancel": False,
        "ended": None,
    }


def _clean(text: str) -> str:
    """Text as the database takes it: what a program printed need not be Unicode."""
    return text.encode(errors="replace").decode()


def legible(failure: Failure) -> Failure:
    """A failure cut to fit: what a program printed may be long."""
    return dataclasses.replace(
        failure,
        message=_clean(failure.message[:MAX_MESSAGE]),
        traceback=_clean(failure.traceback[-MAX_MESSAGE:]),
    )


def encode_failure(failure: Failure) -> Document:
    """A failure, `legible`."""
    return {**dataclasses.asdict(legible(failure)), "kind": failure.kind.value}


def encode_outcome(outcome: Outcome) -> Document:
    """What `finish` writes: loss, result and failure as plain values."""
    return {
        "loss": plain(outcome.loss, "loss"),
        "result": plain(outcome.result, "result"),
        "failure": None if outcome.failure is None else encode_failure(outcome.failure),
    }


def encode_report(report: Report, attempt: int) -> Document:
    """A report, under its step in the trial's ``reports``."""
    return {
        "loss": plain(report.loss, "a reported loss"),
        "metrics": plain(report.metrics, "reported metrics"),
        "seconds": plain(report.seconds, "reported seconds"),
        "attempt": attempt,
    }


def encode_worker(worker: WorkerInfo) -> Document:
    """A worker, without the time, which is the database's to say."""
    made: Document = plain(
        {
            "schema": SCHEMA_VERSION,
            "host": worker.host,
            "pid": worker.pid,
            "slots": worker.slots,
            "version": worker.version,
            "message": _clean(worker.message[:MAX_MESSAGE]),
            "studies": worker.studies,
        },
        f"worker {worker.name!r}",
    )
    return made
