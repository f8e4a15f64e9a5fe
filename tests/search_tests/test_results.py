import dataclasses
import json
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

from search import results
from search.named_spaces import NAMED_SPACES
from tests.search_tests.sample_study import START, sample_study, sample_trials
from trials.trial import TrialState


def test_frame_has_one_row_a_trial_with_the_params_as_trained():
    trials = sample_trials(30, running=2)
    frame = results.trials_frame(trials[::-1], sample_study())
    assert list(frame["number"]) == list(range(30))
    for trial, (_, row) in zip(trials, frame.iterrows(), strict=True):
        assert row["state"] == trial.state
        assert row["learning_rate"] == trial.params["learning_rate"]
        assert row["norm"] == trial.params["norm"]
        assert row["data"] == "har"
    assert frame["window_size"].dtype == "int64"
    assert frame["loss"].dtype == float


def test_frame_orders_columns_core_searched_fixed_results():
    frame = results.trials_frame(sample_trials(10), sample_study())
    columns = list(frame.columns)
    assert tuple(columns[: len(results.TRIAL_COLUMNS)]) == results.TRIAL_COLUMNS
    assert columns.index("decay_factor") < columns.index("epochs")
    assert columns[-1] == "validation_accuracy"
    assert "confusion" not in columns


def test_frame_times_are_utc_and_durations_in_seconds():
    trial = sample_trials(1)[0]
    zone = timezone(timedelta(hours=2))
    trial = dataclasses.replace(
        trial,
        started_at=datetime(2026, 11, 22, 11, 0, 10, tzinfo=zone),
        finished_at=START + timedelta(seconds=72.5),
    )
    row = results.trials_frame([trial], sample_study()).iloc[0]
    assert row["started_at"].isoformat() == "2026-11-22T09:00:10+00:00"
    assert row["duration_s"] == 62.5
    assert row["finished_after_s"] == 72.5


def test_frame_keeps_whole_numbers_whole_where_some_trials_have_none():
    first, second = sample_trials(2)
    first = dataclasses.replace(first, params={"hidden_size": 96})
    second = dataclasses.replace(second, params={})
    frame = results.trials_frame([first, second], sample_study())
    assert frame["hidden_size"].dtype == "Int64"
    assert frame["hidden_size"].isna().tolist() == [False, True]
    huge = dataclasses.replace(first, params={"hidden_size": 2**60 + 1})
    frame = results.trials_frame([second, huge], sample_study())
    assert frame["hidden_size"][0] == 2**60 + 1


def test_frame_names_apart_what_would_collide():
    trial = dataclasses.replace(
        sample_trials(1)[0],
        params={"worker": "a bee", "epochs": 5},
        result={"epochs": 3, "loss": 1.0},
    )
    row = results.trials_frame([trial], sample_study()).iloc[0]
    assert row["param.worker"] == "a bee"
    assert (row["epochs"], row["result.epochs"]) == (5, 3)
    assert row["loss"] == trial.loss
    assert row["result.loss"] == 1.0


@pytest.mark.parametrize("space", ["paper-round-1", "paper-round-2"])
def test_frame_has_the_searched_settings_that_others_were_derived_from(space):
    space = NAMED_SPACES[space]
    study = sample_study()
    study = dataclasses.replace(
        study, spec=dataclasses.replace(study.spec, space=space.to_dict(), fixed={"data": "har"})
    )
    trials = [
        dataclasses.replace(trial, params={**params, "data": "har"})
        for trial, (_, params) in zip(sample_trials(12), space.corners(), strict=False)
    ]
    foreign = dataclasses.replace(trials[0], params={"data": "har"}, number=99)
    frame = results.trials_frame([*trials, foreign], study)
    low, high = space["hidden_size"].bounds
    trained = (frame["num_heads"] * frame["head_size"])[:-1].astype(float)
    assert list(frame["hidden_size"][:-1]) == list(trained.clip(low, high))
    assert math.isnan(frame["hidden_size"].iloc[-1])
    assert "hidden_size" not in results.searched_settings(study, trials[0])  # as it trained


def test_frames_of_no_trials_have_their_columns():
    frame = results.trials_frame([], sample_study())
    assert len(frame) == 0
    assert {"number", "loss", "window_size"} <= set(frame.columns)
    assert list(results.reports_frame([], sample_study()).columns) == list(results.REPORT_COLUMNS)


def test_reports_frame_has_one_row_a_report():
    trials = sample_trials(12, running=1)
    frame = results.reports_frame(trials, sample_study())
    assert len(frame) == sum(len(trial.reports) for trial in trials)
    last = frame[frame["number"] == 11].iloc[-1]
    assert (last["step"], last["loss"]) == (
        trials[11].reports[-1].step,
        trials[11].reports[-1].loss,
    )
    assert last["state"] == "RUNNING"
    ended = frame.drop_duplicates("number").set_index("number")["trial_loss"]
    losses = {t.number: math.nan if t.loss is None else t.loss for t in trials if t.reports}
    assert ended.to_dict() == pytest.approx(losses, nan_ok=True)
    assert last["validation_accuracy"] == trials[11].reports[-1].metrics["validation_accuracy"]


def test_json_rows_are_strict_json_with_utc_times():
    trial = dataclasses.replace(
        sample_trials(1)[0], loss=math.nan, result={"per_class": [1.0, math.inf]}
    )
    text = json.dumps(results.to_json_rows([trial]), allow_nan=False)
    (row,) = json.loads(text)
    assert row["loss"] is None
    assert row["result"]["per_class"] == [1.0, None]
    assert row["state"] == "COMPLETE"
    assert row["started_at"] == "2026-11-22T09:00:00.000Z"
    assert datetime.fromisoformat(row["finished_at"]).tzinfo == UTC
    assert {"number", "params", "attempt", "worker"} <= set(row)
    assert "reports" not in row


def test_json_row_brings_the_curve_on_demand():
    trial = sample_trials(1)[0]
    curve = results.to_json_row(trial, with_reports=True)["reports"]
    assert [point["step"] for point in curve] == [report.step for report in trial.reports]
    assert curve[0]["validation_accuracy"] == trial.reports[0].metrics["validation_accuracy"]


def test_a_value_without_plain_form_is_named():
    with pytest.raises(TypeError, match="got set"):
        results.to_plain({"a": {1, 2}})


def test_importing_results_text_and_live_loads_no_heavy_package():
    code = (
        "import sys, search.results, search.text, search.live\n"
        "heavy = {'pandas', 'numpy', 'matplotlib', 'torch', 'hyperopt', 'pymongo'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_core_hours_count_all_attempts_and_every_thread():
    trial = next(trial for trial in sample_trials() if trial.reports)
    started = trial.started_at
    latest = {"started_at": started, "finished_at": started + timedelta(seconds=60)}
    resumed = dataclasses.replace(trial, **latest, result={"seconds": 600.0}, reports=())
    pruned = dataclasses.replace(
        resumed, result={}, reports=(dataclasses.replace(trial.reports[0], seconds=1800.0),)
    )
    unreported = dataclasses.replace(resumed, result={})
    waiting = dataclasses.replace(unreported, started_at=None, finished_at=None)
    # interrupted in the evening, cancelled in the morning: the night is no computing
    given_up = dataclasses.replace(
        pruned,
        state=TrialState.CANCELLED,
        worker=None,
        finished_at=started + timedelta(hours=15),
    )
    trials = [resumed, pruned, unreported, waiting, given_up]
    assert [results.spent_s(trial) for trial in trials] == [600, 1800, 60, None, 1800]
    assert results.duration_s(given_up) is None
    spec = dataclasses.replace(sample_study().spec, threads=2)
    study = dataclasses.replace(sample_study(), spec=spec)
    assert results.core_hours(study, trials) == pytest.approx(2 * 4260 / 3600)


def test_settings_are_judged_by_complete_and_pruned_trials_at_their_least_loss():
    trials = sample_trials(60, running=3)
    pruned = next(trial for trial in trials if trial.state == "PRUNED")
    at = trials.index(pruned)
    worse = dataclasses.replace(pruned.reports[-1], step=9, loss=50.0)
    trials[at] = dataclasses.replace(pruned, loss=50.0, reports=(*pruned.reports, worse))
    done = results.judged(results.trials_frame(trials, sample_study()))
    assert set(done["state"]) == {"COMPLETE", "PRUNED"}
    losses = done.set_index("number")["loss"]
    assert losses[pruned.number] == min(report.loss for report in pruned.reports)
    complete = next(trial for trial in trials if trial.state == "COMPLETE")
    assert losses[complete.number] == complete.loss
