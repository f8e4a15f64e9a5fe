"""A whole study as one file of JSON lines, and as the documents that a store takes back.

The first line is the study, each further one a trial with its reports and failures. Blobs
(checkpoints, weights, logs) stay behind. Numbers that JSON cannot say and times are written as
MongoDB's Extended JSON does: ``{"$numberDouble": "NaN"}``, ``{"$date": "2026-11-22T09:00:00Z"}``;
times are kept to the millisecond, as in MongoDB.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any

from bson import json_util

from trials.documents import Document, encode_failure, encode_report, encode_study, encode_trial
from trials.errors import BrokenDocumentError, InvalidValueError
from trials.reading import decode_study, decode_trial
from trials.store import NewTrial
from trials.study import Study
from trials.trial import Trial, TrialState
from trials.values import plain

_JSON = json_util.RELAXED_JSON_OPTIONS.with_options(tz_aware=True, tzinfo=UTC)
_OF_THE_STORE = ("_id", "token", "lease_expires_at", "blobs", "cancel", "ended")
"""Fields of a trial's document that mean something in one database only."""


def study_document(study: Study) -> Document:
    """A study as it is, without its feeder."""
    looks = [
        {**plain({k: v for k, v in look.items() if k != "at"}, "a test look"), "at": look["at"]}
        for look in study.test_looks
    ]
    cutoffs = {str(step): loss for step, loss in study.cutoffs.items()}
    return {
        **encode_study(study.spec, study.created_at),
        "state": study.state.value,
        "message": study.message,
        "cutoffs": plain(cutoffs, "cut-offs"),
        "test_looks": looks,
    }


def trial_document(trial: Trial) -> Document:
    """A trial as it is; one that runs waits again, since its worker knows another store."""
    new = NewTrial(trial.params, trial.seed, trial.suggestion)
    runs = trial.state is TrialState.RUNNING
    return {
        **encode_trial(trial.study, trial.number, new, trial.created_at),
        "state": (TrialState.WAITING if runs else trial.state).value,
        "attempt": trial.attempt,
        "retries": trial.retries,
        "worker": None if runs else trial.worker,
        "host": None if runs else trial.host,
        "started_at": trial.started_at,
        "finished_at": trial.finished_at,
        "loss": plain(trial.loss, "loss"),
        "result": plain(trial.result, "result"),
        "reports": {str(one.step): encode_report(one, trial.attempt) for one in trial.reports},
        "failures": [encode_failure(failure) for failure in trial.failures],
    }


def check_whole(study: Study, trials: Sequence[Trial]) -> None:
    """Refuse trials that do not make up the study.

    Raises:
        InvalidValueError: If one is of another study, or the numbers are not 0, 1, 2, ...
    """
    for number, trial in enumerate(trials):
        if (trial.study, trial.number) != (study.name, number):
            raise InvalidValueError(
                f"a study's trials are numbered from 0 without gaps; in place of trial {number} of "
                f"study {study.name!r} found trial {trial.number} of {trial.study!r}"
            )


def renamed(study: Study, trials: Iterable[Trial], name: str) -> tuple[Study, list[Trial]]:
    """The same study and trials under another name."""
    spec = dataclasses.replace(study.spec, name=name)
    moved = [dataclasses.replace(trial, study=name) for trial in trials]
    return dataclasses.replace(study, spec=spec), moved


def dump(study: Study, trials: Iterable[Trial]) -> Iterator[str]:
    """The lines of a study's file, each with its line feed."""
    yield json_util.dumps(study_document(study), json_options=_JSON) + "\n"
    for trial in trials:
        document = trial_document(trial)
        kept = {name: value for name, value in document.items() if name not in _OF_THE_STORE}
        yield json_util.dumps(kept, json_options=_JSON) + "\n"


def parse(lines: Iterable[str]) -> tuple[Study, list[Trial]]:
    """Read what `dump` wrote. Nothing in it is trusted.

    Raises:
        InvalidValueError: If a line does not fit; says which.
        SchemaVersionError: If another version of this project wrote the file.
    """
    study: Study | None = None
    trials: list[Trial] = []
    for number, line in enumerate(lines, start=1):
        try:
            document = _loads(line)
            if study is None:
                study = decode_study(document)
            else:
                trials.append(decode_trial(_completed(document)))
        except BrokenDocumentError as error:
            raise InvalidValueError(f"line {number} does not read: {error}") from error
    if study is None:
        raise InvalidValueError("an exported study begins with a line for the study, found none")
    check_whole(study, trials)
    return study, trials


def _loads(line: str) -> Mapping[str, Any]:
    try:
        document = json_util.loads(line, json_options=_JSON)
    except Exception as error:  # whatever a damaged line makes the parser raise
        told = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise BrokenDocumentError(f"not JSON as `larnn-search export` writes it ({told})") from None
    if not isinstance(document, Mapping):
        raise BrokenDocumentError(f"expected a JSON object, found {str(document)[:40]!r}")
    return document


def _completed(document: Mapping[str, Any]) -> Document:
    """A trial's document with what belongs to a store, as of a trial that nobody owns."""
    fresh = encode_trial("", 0, NewTrial({}, 0), created_at=document.get("created_at"))  # type: ignore[arg-type]  # decoding checks it
    key = f"{document.get('study')}/{document.get('number')}"
    return {**document, **{name: fresh[name] for name in _OF_THE_STORE}, "_id": key}
