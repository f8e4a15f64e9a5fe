"""Studies and trials on their way out of MongoDB. Nothing that is read is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from trials.documents import SCHEMA_VERSION, encode_trial, schema_message, trial_id
from trials.errors import (
    BrokenDocumentError,
    IllegalTransitionError,
    InvalidValueError,
    SchemaVersionError,
)
from trials.store import NewTrial, WorkerInfo
from trials.study import Study, StudySpec, StudyState
from trials.trial import Failure, FailureKind, Report, Trial, TrialState
from trials.values import plain, plain_of_any_size


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
            return plain_of_any_size(value, f"{self.where}: {name}")
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
    number, at = read.get("number", int), read.get("at", datetime)
    return {**read.document, "number": number, "at": at}


NO_TIME = datetime.fromtimestamp(0, UTC)
"""Stands in for a time that cannot be read."""
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
    study, number = read.get("study", str), read.get("number", int)
    if number < 0 or read.document.get("_id") not in (None, trial_id(study, number)):
        raise BrokenDocumentError(f"{read.where} says that it is {study[:64]!r}/{number}")
    if "blobs" in read.document:
        read.get("blobs", dict)
    try:
        return Trial(
            study=study,
            number=number,
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
    number = str(document.get("_id")).rpartition("/")[2]
    created_at = document.get("created_at")
    return Trial(
        study=str(document.get("study"))[:64],
        number=int(number) if number.isdecimal() else -1,
        state=TrialState.FAILED,
        params={},
        seed=0,
        created_at=created_at if isinstance(created_at, datetime) else NO_TIME,
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
    studies = read.get("studies", list, type(None))
    return WorkerInfo(
        name=read.get("_id", str),
        host=read.get("host", str),
        pid=read.get("pid", int),
        slots=tuple(read.get("slots", list)),
        version=read.get("version", str),
        message=read.get("message", str),
        studies=None if studies is None else tuple(map(str, studies)),
        last_seen_at=read.get("last_seen_at", datetime),
    )
