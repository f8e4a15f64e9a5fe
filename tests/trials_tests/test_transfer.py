"""A study leaves one store as a file of JSON lines and comes back whole in another."""

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta

import pytest

from trials.errors import InvalidValueError, SchemaVersionError, StudyMismatchError
from trials.mongo_store import MongoStore
from trials.store import Outcome, TrialStore
from trials.study import Study, StudySpec, StudyState
from trials.transfer import dump, parse, renamed
from trials.trial import Failure, FailureKind, Report, Trial, TrialState

START = datetime(2026, 11, 22, 9, 0, 0, 123_000, tzinfo=UTC)
PARAMS = {"layers": 2, "rate": 2.0, "big": 2**62, "tiny": 5e-324, "on": True, "none": None}
STUDY = Study(
    StudySpec(
        "s",
        "module:function",
        space={"name": "own", "rows": [{"name": "rate", "low": 0.1, "high": math.inf}]},
        fixed={"layers": 2},
        until_loss=-math.inf,
        max_trials=9,
    ),
    StudyState.STOPPING,
    START,
    cutoffs={1: 0.5, 4: math.nan},
    message="stopped: «why»",
    test_looks=({"number": 0, "test_accuracy": 0.9, "test_loss": math.nan, "at": START},),
)


def trial(number: int, state: TrialState, **more: object) -> Trial:
    more = {"attempt": 2, "retries": 1, "worker": "w", "host": "h", "started_at": START} | more
    return Trial("s", number, state, PARAMS, number, START, **more)  # type: ignore[arg-type]  # a test's values


TRIALS = [
    trial(
        0,
        TrialState.COMPLETE,
        loss=0.1 + 0.2,
        finished_at=START + timedelta(seconds=3.5),
        result={"accuracy": 1, "share": 1.0, "confusion": [[1, 2], [3, 4]], "odd": math.inf},
        reports=(Report(1, math.nan, {"a": 0.25}, 1.5), Report(10, 0.5), Report(11, 0.25)),
        suggestion={"origin": "tpe", "draw": 2**31 - 2, "raw": {"rate": 0.1}},
    ),
    trial(1, TrialState.COMPLETE, loss=math.nan, finished_at=START),
    trial(2, TrialState.PRUNED, loss=0.5, finished_at=START, reports=(Report(3, 0.5),)),
    trial(
        3,
        TrialState.FAILED,
        finished_at=START,
        failures=(
            Failure(FailureKind.LOST_WORKER, "was lost", "w", "h", 1),
            Failure(FailureKind.OUT_OF_MEMORY, "too much", "w", "h", 2, "Traceback\n  here"),
        ),
    ),
    trial(4, TrialState.CANCELLED, finished_at=START, attempt=0, started_at=None),
    trial(5, TrialState.WAITING, attempt=0, retries=0, worker=None, host=None, started_at=None),
]
RUNNING = trial(6, TrialState.RUNNING, token="t", lease_expires_at=START)  # noqa: S106  # no password
AS_IT_RETURNS = dataclasses.replace(
    RUNNING, state=TrialState.WAITING, token=None, lease_expires_at=None, worker=None, host=None
)


def written(value: object) -> str:
    """With types, and NaN equal to NaN."""
    return repr(value)


def test_a_file_holds_all_of_a_study() -> None:
    lines = list(dump(STUDY, [*TRIALS, RUNNING]))
    for line in lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no strict JSON"))
    study, trials = parse(lines)
    assert written(study) == written(STUDY)
    assert written(trials) == written([*TRIALS, AS_IT_RETURNS])


def test_a_restored_study_is_the_same(store: TrialStore) -> None:
    restored = store.restore_study(STUDY, [*TRIALS, RUNNING])
    assert written(restored) == written(STUDY)
    assert written(store.get_study("s")) == written(STUDY)
    assert written(store.list_trials("s")) == written([*TRIALS, AS_IT_RETURNS])


def test_a_restored_study_goes_on(store: TrialStore) -> None:
    active = dataclasses.replace(STUDY, state=StudyState.ACTIVE)
    store.restore_study(active, [*TRIALS, RUNNING])
    taken = store.reserve("s", "w", "h", "token")
    assert taken is not None
    assert taken.number == 5
    assert store.finish(taken.claim, Outcome(TrialState.COMPLETE, -1.0)).loss == -1.0
    best = store.best_trial("s")
    assert best is not None
    assert best.number == 5


@pytest.mark.mongo
def test_a_trial_that_is_too_large_is_told_and_leaves_no_half_study(
    mongo_store: MongoStore,
) -> None:
    reports = tuple(Report(step, 0.5, {"x" * 3_900_000: 1.0}) for step in range(5))
    large = dataclasses.replace(TRIALS[1], reports=reports)
    with pytest.raises(InvalidValueError, match="may hold 16 MB"):
        mongo_store.restore_study(STUDY, [TRIALS[0], large])
    assert mongo_store.restore_study(STUDY, TRIALS)  # nothing stands in its way


def test_no_study_is_restored_over_another(store: TrialStore) -> None:
    store.create_study(dataclasses.replace(STUDY.spec, seed=3))
    with pytest.raises(StudyMismatchError, match="exists already"):
        store.restore_study(STUDY, TRIALS)
    assert store.list_trials("s") == []
    store.restore_study(*renamed(STUDY, TRIALS, "t"))
    assert [one.study for one in store.list_trials("t")] == ["t"] * len(TRIALS)


@pytest.mark.parametrize("numbers", [[1], [0, 2], [0, 0]])
def test_gaps_and_doubles_are_refused(store: TrialStore, numbers: list[int]) -> None:
    trials = [dataclasses.replace(TRIALS[0], number=number) for number in numbers]
    with pytest.raises(InvalidValueError, match="numbered from 0"):
        store.restore_study(STUDY, trials)
    assert store.list_studies() == []


HEAD, TRIAL = list(dump(STUDY, TRIALS[:1]))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "begins with a line for the study"),
        (["number,state\n"], "line 1 .* not JSON"),
        (["[1]\n"], "line 1 .* expected a JSON object"),
        (["[" * 100_000], "line 1 "),
        ([TRIAL], "line 1 "),
        ([HEAD, "{}\n"], "line 2 "),
        ([HEAD, TRIAL.replace('"COMPLETE"', '"DONE"')], "line 2 .*DONE"),
        ([HEAD, TRIAL.replace('"number": 0', '"number": 1')], "numbered from 0"),
        ([HEAD, TRIAL.replace('"layers"', '"$where"')], "line 2 "),
        ([HEAD, TRIAL.replace('"none": null', '"none": {"$code": "x"}')], "line 2 "),
        ([HEAD, TRIAL.replace('"COMPLETE"', '"RUNNING"')], "line 2 .*token"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(lines: list[str], words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        parse(lines)


def test_a_file_of_another_version_names_the_upgrade() -> None:
    with pytest.raises(SchemaVersionError, match="larnn-search upgrade"):
        parse([HEAD.replace('"schema": 1', '"schema": 2')])
