"""Studies and trials as MongoDB documents, both ways. Nothing that is read is trusted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import bson

from trials.errors import (
    BrokenDocumentError,
    IllegalTransitionError,
    InvalidValueError,
    SchemaVersionError,
)
from trials.store import NewTrial, WorkerInfo
from trials.study import Study, StudySpec, StudyState
from trials.trial import Failure, FailureKind, Outcome, Report, Trial, TrialState

SCHEMA_VERSION = 1
MAX_DEPTH = 50
MAX_BYTES = 4 * 2**20
"""Largest params, result and so on: together with a trial's reports they stay below 16 MB."""
MAX_MESSAGE = 20_000
"""Characters kept of a failure's message, and of the end of its traceback."""

Document = dict[str, Any]


# -- plain values --------------------------------------------------------------------------------


def plain(value: object, where: str) -> Any:
    """Return ``value`` made of JSON's types only, as MongoDB gives it back.

    Tuples become lists, NumPy scalars the Python numbers they hold; NaN and infinities are kept.

    Args:
        value: Anything a caller passed, or a database held.
        where: What the value is, for the message.

    Raises:
        InvalidValueError: For another type, a name with ``.``, NUL or a leading ``$``, a whole
            number over 64 bits, text that is not Unicode, more than `MAX_DEPTH` levels or
            `MAX_BYTES`.
    """
    made = _plain(value, where, 0)
    size = len(bson.encode({"": made}))
    if size > MAX_BYTES:
        raise InvalidValueError(
            f"{where} may hold {MAX_BYTES / 2**20:.0f} MiB, got {size / 2**20:.1f} MiB: "
            "keep arrays with save_weights or save_checkpoint"
        )
    return made


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise InvalidValueError(f"{where} may nest {MAX_DEPTH} levels deep, found more")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and not isinstance(value, bson.Code):
        return _text(str(value), where)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidValueError(f"{where}: a whole number has at most 64 bits, got {value:e}")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {_name(key, where): _plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where, depth + 1) for item in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a NumPy or torch scalar
        return _plain(value.item(), where, depth + 1)
    raise InvalidValueError(
        f"{where} takes numbers, text, true, false, none, lists and mappings, "
        f"got {type(value).__name__}"
    )


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValueError(
            f"{where}: text must be valid Unicode, got {value[:40]!r}"
        ) from None
    return value


def _name(key: object, where: str) -> str:
    if not isinstance(key, str) or not key or key[0] == "$" or "." in key or "\0" in key:
        shown = repr(key)[:60]
        raise InvalidValueError(
            f"{where}: a name is text without '.', NUL or a leading '$', got {shown}: rename it"
        )
    return _text(str(key), where)


def canonical(value: object) -> str:
    """Text that is equal for equal plain values; tells 1, 1.0 and true apart, NaN equals NaN."""
    return json.dumps(value, sort_keys=True)


# -- writing -------------------------------------------------------------------------------------


def trial_id(study: str, number: int) -> str:
    """Primary key of a trial (a study's name has no ``/``)."""
    return f"{study}/{number}"


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


def legible(failure: Failure) -> Failure:
    """A failure cut to fit: what a program printed may be long and need not be Unicode."""

    def clean(text: str) -> str:
        return text.encode(errors="replace").decode()

    return dataclasses.replace(
        failure,
        message=clean(failure.message[:MAX_MESSAGE]),
        traceback=clean(failure.traceback[-MAX_MESSAGE:]),
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
            "host": worker.host,
            "pid": worker.pid,
            "slots": worker.slots,
            "version": worker.version,
            "message": worker.message,
        },
        f"worker {worker.name!r}",
    )
    return made


# -- reading -------------------------------------------------------------------------------------


class _Reader:
    """Takes fields out of a document and refuses what has another type than was written."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, Mapping):
            raise BrokenDocumentError(f"{where} should be a mapping, found {_kind(document)}")
        self.document = document
        self.where = where

    def get(self, name: str, *kinds: type) -> Any:
        if name not in self.document:
            raise BrokenDocumentError(f"{self.where} lacks {name!r}")
        value = self.document[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__.replace("NoneType", "none") for kind in kinds)
            raise BrokenDocumentError(
                f"{self.where}: {name} should be {wanted}, found {_kind(value)}"
            )
        return value if isinstance(value, datetime) else self._plain(name, value)

    def _plain(self, name: str, value: object) -> Any:
        try:
            return _plain(value, f"{self.where}: {name}", 0)
        except InvalidValueError as error:
            raise BrokenDocumentError(str(error)) from None

    def only(self, names: set[str]) -> None:
        if unknown := sorted(set(self.document) - names):
            raise BrokenDocumentError(f"{self.where} has unknown fields {', '.join(unknown)[:200]}")

    def schema(self, error: type[SchemaVersionError] | type[BrokenDocumentError]) -> None:
        version = self.get("schema", int)
        if version != SCHEMA_VERSION:
            raise error(schema_message(self.where, version))


def _kind(value: object) -> str:
    return "none" if value is None else type(value).__name__


def schema_message(where: str, version: object) -> str:
    """What to say about something that another version of this project wrote."""
    return (
        f"{where} has schema version {version}, this program reads {SCHEMA_VERSION}: install the "
        "newest larnn-search everywhere, then run `larnn-search upgrade`"
    )


def decode_spec(document: Mapping[str, Any]) -> StudySpec:
    """A study's settings.

    Raises:
        TypeError: If a field is unknown or lacking.
        InvalidValueError: If one breaks its rule.
    """
    return StudySpec(**document)


def decode_study(document: object) -> Study:
    """Read a study.

    Raises:
        SchemaVersionError: If another version of this project wrote it.
        BrokenDocumentError: If it does not fit.
    """
    read = _Reader(document, "a study")
    read.where = f"study {read.get('_id', str)[:64]!r}"
    read.schema(SchemaVersionError)
    try:
        looks = read.document["test_looks"]
        return Study(
            spec=decode_spec(read.get("spec", dict)),
            state=StudyState(read.get("state", str)),
            created_at=read.get("created_at", datetime),
            cutoffs={int(step): float(loss) for step, loss in read.get("cutoffs", dict).items()},
            message=read.get("message", str),
            test_looks=tuple(_decode_look(look, read.where) for look in looks),
        )
    except (TypeError, ValueError, KeyError) as error:
        raise BrokenDocumentError(f"{read.where} cannot be read: {str(error)[:200]}") from None


def _decode_look(document: object, where: str) -> Mapping[str, Any]:
    read = _Reader(document, f"{where}: a look at the test people")
    rest = {name: read.get(name, object) for name in read.document if name not in ("at", "id")}
    return {**rest, "at": read.get("at", datetime)}


TRIAL_FIELDS = set(encode_trial("", 0, NewTrial({}, 0), datetime.min))


def decode_trial(document: object) -> Trial:
    """Read a trial; ``reports`` may be left out.

    Raises:
        BrokenDocumentError: If it does not fit, or another version of this project wrote it.
    """
    read = _Reader(document, "a trial")
    read.where = f"trial {str(read.document.get('_id'))[:100]}"
    read.schema(BrokenDocumentError)
    read.only(TRIAL_FIELDS)
    none = type(None)
    try:
        return Trial(
            study=read.get("study", str),
            number=read.get("number", int),
            state=TrialState(read.get("state", str)),
            params=read.get("params", dict),
            seed=read.get("seed", int),
            created_at=read.get("created_at", datetime),
            attempt=read.get("attempt", int),
            retries=read.get("retries", int),
            token=read.get("token", str, none),
            worker=read.get("worker", str, none),
            host=read.get("host", str, none),
            started_at=read.get("started_at", datetime, none),
            finished_at=read.get("finished_at", datetime, none),
            lease_expires_at=read.get("lease_expires_at", datetime, none),
            loss=read.get("loss", float, int, none),
            result=read.get("result", dict),
            reports=_decode_reports(read),
            failures=tuple(_decode_failure(f, read.where) for f in read.get("failures", list)),
            suggestion=read.get("suggestion", dict),
        )
    except (ValueError, IllegalTransitionError) as error:
        raise BrokenDocumentError(f"{read.where} cannot be read: {str(error)[:200]}") from None


def decode_reserved(document: Mapping[str, Any]) -> Trial:
    """Read a trial that is about to run; its params are held to the size of those we write.

    Raises:
        BrokenDocumentError: If it does not fit.
    """
    trial = decode_trial(document)
    try:
        plain(trial.params, f"trial {str(document['_id'])[:100]}: params")
    except InvalidValueError as error:
        raise BrokenDocumentError(str(error)) from None
    return trial


def _decode_reports(read: _Reader) -> tuple[Report, ...]:
    if "reports" not in read.document:
        return ()
    made = []
    for step, report in read.get("reports", dict).items():
        one = _Reader(report, f"{read.where}: report {step[:20]}")
        made.append(
            Report(
                step=int(step),
                loss=one.get("loss", float, int),
                metrics=one.get("metrics", dict),
                seconds=one.get("seconds", float, int),
            )
        )
    return tuple(sorted(made, key=lambda report: report.step))


def _decode_failure(document: object, where: str) -> Failure:
    read = _Reader(document, f"{where}: a failure")
    return Failure(
        kind=FailureKind(read.get("kind", str)),
        message=read.get("message", str),
        worker=read.get("worker", str),
        host=read.get("host", str),
        attempt=read.get("attempt", int),
        traceback=read.get("traceback", str),
    )


def stand_in(document: Mapping[str, Any], problem: BrokenDocumentError) -> Trial:
    """A FAILED trial shown in place of a document that does not fit, saying why."""
    study, number = str(document.get("study"))[:64], document.get("number")
    created_at = document.get("created_at")
    return Trial(
        study=study,
        number=number if isinstance(number, int) else -1,
        state=TrialState.FAILED,
        params={},
        seed=0,
        created_at=created_at if isinstance(created_at, datetime) else datetime.min,
        failures=(refusal(problem),),
    )


def refusal(problem: BrokenDocumentError, worker: str = "", host: str = "") -> Failure:
    """The failure recorded with a document that does not fit."""
    return Failure(FailureKind.EXCEPTION, f"refused: {problem}", worker, host, attempt=0)


def read_trial(document: Mapping[str, Any]) -> Trial:
    """Read a trial; one that does not fit comes as its `stand_in`."""
    try:
        return decode_trial(document)
    except BrokenDocumentError as problem:
        return stand_in(document, problem)


def decode_worker(document: object) -> WorkerInfo:
    """Read a worker.

    Raises:
        BrokenDocumentError: If it does not fit.
    """
    read = _Reader(document, "a worker")
    return WorkerInfo(
        name=read.get("_id", str),
        host=read.get("host", str),
        pid=read.get("pid", int),
        slots=tuple(read.get("slots", list)),
        version=read.get("version", str),
        message=read.get("message", str),
        last_seen_at=read.get("last_seen_at", datetime),
    )
