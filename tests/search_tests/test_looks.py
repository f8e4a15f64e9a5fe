"""Looks at the test people: none is missing, none is there twice."""

import dataclasses
import resource
import shutil
from pathlib import Path

import pytest

from search.cli import run_command
from search.final import PAST_RANKINGS, final_spec
from search.looks import COLUMNS, append, looks
from search.source import StudyData, from_store
from search.space import Space
from search.suggest import Suggester
from tests.search_tests.sample_study import START, sample_study, sample_trials
from trials.memory_store import MemoryStore
from trials.transfer import dump
from trials.trial import Failure, FailureKind, Outcome, TrialState

STUDY = sample_study()
SEARCH = StudyData(STUDY, tuple(sample_trials()))
BEST = SEARCH.best
LOG = Path(__file__).parents[2] / "results" / "har" / "test_log.csv"
DIVERGED = Failure(FailureKind.NAN_LOSS, "the loss is nan", "worker", "host", 1)
SHIPPED = Path(__file__).parents[2] / "results" / "shipped" / "study.jsonl"


@pytest.fixture
def judged():
    """A final that was cut off: two trainings judged, one diverged, two wait."""
    store = MemoryStore()
    spec = final_spec(SEARCH, BEST, seeds=5, folds=None)
    store.create_study(spec)
    proposed = Suggester(Space.from_dict(spec.space), "grid", fixed=spec.fixed).suggest([], 5)
    store.add_trials(spec.name, None, 0, proposed)
    for accuracy in (0.9, 0.8, None):
        trial = store.reserve(spec.name, "worker", "host", f"token {accuracy}")
        result = {"judged": "test", "seed": trial.params["seed"]}
        if accuracy:
            result |= {"accuracy": accuracy, "sequences": 7}
            store.finish(trial.claim, Outcome(TrialState.COMPLETE, 0.1, result))
        else:
            store.finish(trial.claim, Outcome(TrialState.FAILED, None, result, DIVERGED))
    return from_store(store, spec.name)


def test_each_judged_training_is_a_look_whoever_carried_it_out(judged, tmp_path):
    rows = looks([judged])
    assert [(row["seed"], row["accuracy"], row["sequences"]) for row in rows] == [
        (PAST_RANKINGS, 0.9, 7),
        (PAST_RANKINGS + 1, 0.8, 7),
    ]
    # and travels with an export
    path = tmp_path / "quick-test.jsonl"
    path.write_text("".join(dump(judged.study, judged.trials)))
    log = tmp_path / "log.csv"
    assert run_command(["looks", str(path), str(path), "--append", str(log)]) == 0
    assert log.read_text().count("quick-test") == 2


def test_a_search_tells_its_logged_look_first_come_first():
    look = {"number": 3, "test_accuracy": 0.9, "test_sequences": 10, "at": START}
    study = dataclasses.replace(STUDY, test_looks=(look,))
    (row,) = looks([StudyData(study, ())])
    assert tuple(sorted(row)) == tuple(sorted(COLUMNS))
    assert (row["at"], row["study"], row["judged"]) == ("2026-11-22T09:00:00.000Z", "quick", "test")


def test_a_log_keeps_its_rows_and_gets_each_look_once(judged, tmp_path):
    log = tmp_path / "log.csv"
    shutil.copy(LOG, log)
    before = log.read_text()
    assert append(log, looks([judged])) == 2
    assert append(log, looks([judged])) == 0
    after = log.read_text()
    assert after.startswith(before)
    assert after.removeprefix(before).count("\n") == 2


@pytest.fixture
def limit_of_files():
    """Sets how large a file this process may make; undone afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_log_that_cannot_be_written_keeps_what_it_had(judged, tmp_path, limit_of_files):
    log = tmp_path / "log.csv"
    shutil.copy(LOG, log)
    before = log.read_text()
    limit_of_files(log.stat().st_size // 2)
    with pytest.raises(ValueError, match="File too large"):
        append(log, looks([judged]))
    assert log.read_text() == before


def test_the_log_has_the_look_of_the_shipped_study(tmp_path, capsys):
    log = tmp_path / "log.csv"
    shutil.copy(LOG, log)
    assert run_command(["looks", str(SHIPPED), "--append", str(log)]) == 0
    assert capsys.readouterr().out == f"{log}: 0 looks added, of 1\n"
    assert log.read_text() == LOG.read_text()


def test_another_table_is_no_log(tmp_path, judged):
    log = tmp_path / "log.csv"
    log.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="a log of looks has columns at, study"):
        append(log, looks([judged]))
    assert log.read_text() == "a,b\n1,2\n"
