"""Trials as tables to compute with: pandas frames, rows of plain JSON, the best ones.

pandas is imported by the functions that need it, so that commands which only print stay fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from search.author_trials import OBJECTIVE as AUTHORS
from search.launch import DEFAULT_OBJECTIVE, JUDGING_OBJECTIVE
from search.space import Space
from trials.study import Study
from trials.trial import Report, Trial, TrialState, least_loss

if TYPE_CHECKING:
    import pandas as pd

TRIAL_COLUMNS = (
    "number",
    "state",
    "loss",
    "least_loss",
    "duration_s",
    "finished_after_s",
    "steps",
    "attempt",
    "retries",
    "worker",
    "host",
    "created_at",
    "started_at",
    "finished_at",
    "origin",
)
"""Columns of `trials_frame` that are there whatever was searched."""
REPORT_COLUMNS = ("number", "state", "trial_loss", "step", "loss", "seconds")
"""Columns of `reports_frame` that are there whatever was reported."""
CROSS_ENTROPIES = {
    DEFAULT_OBJECTIVE: "validation loss",
    JUDGING_OBJECTIVE: "judged people's loss",
    AUTHORS: "test people's loss",
}
"""What the loss of known objectives is; each in nats."""
REPORTED = CROSS_ENTROPIES | {JUDGING_OBJECTIVE: "training loss"}
"""What they report at each step: in a final nobody is judged before the end."""
_TIME_COLUMNS = ("created_at", "started_at", "finished_at")


def loss_name(study: Study) -> str:
    """What a study's loss is called; a user's objective has just a loss."""
    return CROSS_ENTROPIES.get(study.spec.objective, "loss")


def _loss_label(study: Study, names: Mapping[str, str]) -> str:
    known = names.get(study.spec.objective)
    return f"{known} (nats)" if known else "loss"


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The trials that settings are judged by: COMPLETE and PRUNED ones with a finite loss.

    To leave pruned trials out would be to choose trials by their outcome: settings that were given
    up would be judged by their lucky few.

    Args:
        frame: `trials_frame`.

    Returns:
        These rows; ``loss`` of a pruned one is the least loss that it reached.
    """
    done = frame[frame["state"].isin(["COMPLETE", "PRUNED"])]
    done = done.assign(loss=done["loss"].where(done["state"] == "COMPLETE", done["least_loss"]))
    return done[done["loss"].abs() < math.inf]


def param_values(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    """A parameter's values in a `trials_frame`, missing where a trial has none."""
    import pandas as pd

    column = _param_column(name)
    return frame[column] if column in frame else pd.Series(math.nan, frame.index)


def _param_column(name: str) -> str:
    return f"param.{name}" if name in TRIAL_COLUMNS else name


def duration_s(trial: Trial) -> float | None:
    """Seconds of the latest attempt, None while it has not both started and finished.

    None also of a trial that was cancelled as it waited to go on: when it stopped is not known.
    """
    if trial.started_at is None or trial.finished_at is None:
        return None
    if trial.state is TrialState.CANCELLED and trial.worker is None:
        return None
    return (trial.finished_at - trial.started_at).total_seconds()


def spent_s(trial: Trial) -> float | None:
    """Seconds that a trial ran, all attempts together as far as they are known; None: not at all.

    A resumed trial's training and reports count earlier attempts too, its latest attempt does not.
    """
    trained = trial.result.get("seconds")
    known = [duration_s(trial), trained, *(report.seconds for report in trial.reports[-1:])]
    return max((float(told) for told in known if isinstance(told, (int, float))), default=None)


def core_hours(study: Study, trials: Iterable[Trial]) -> float:
    """What trials (with their reports) cost: hours that they ran, times the threads of each."""
    return sum(spent_s(trial) or 0.0 for trial in trials) * study.spec.threads / 3600


def shared_settings(study: Study) -> dict[str, Any]:
    """What all trials of a study have in common: the space's fixed settings, and the study's."""
    return {**study.spec.space.get("fixed", {}), **study.spec.fixed}


def searched_settings(study: Study, trial: Trial) -> dict[str, Any]:
    """The searched part of a trial's params; where a space derives its own names, all not fixed."""
    searched = [row["name"] for row in study.spec.space.get("rows", ())]
    if study.spec.space.get("derive"):
        fixed = shared_settings(study)
        searched = [name for name in trial.params if name not in fixed]
    return {name: trial.params[name] for name in searched if name in trial.params}


def trials_frame(trials: Sequence[Trial], study: Study) -> pd.DataFrame:
    """One row a trial, by number.

    Columns are `TRIAL_COLUMNS` (times UTC; ``least_loss`` is the least that was reported,
    ``duration_s`` is the latest attempt's seconds, ``finished_after_s`` counts from the study's
    creation, ``steps`` is the number of reports), then each parameter as it trained, searched ones
    first (also those that others were derived from), then each number, text or truth value of the
    objective's result. A parameter whose name is taken is called ``param.NAME`` (`param_values`
    knows), a result likewise ``result.NAME``. Parameters that a trial has no use for are missing
    values; whole numbers stay whole (nullable ``Int64`` where some are missing).
    ``frame.attrs["loss"]`` names the loss for axes.

    Args:
        trials: Trials of one study.
        study: Their study: its space gives the order of columns, its creation the zero of time.
    """
    import pandas as pd

    searched = [row["name"] for row in study.spec.space.get("rows", ())]
    given = list(dict.fromkeys(name for trial in trials for name in trial.params))
    params = {name: _param_column(name) for name in dict.fromkeys([*searched, *given])}
    taken = {*TRIAL_COLUMNS, *params.values()}
    scalars, sampled = [_scalars(trial.result) for trial in trials], _sampled(study)
    results = {
        name: f"result.{name}" if name in taken else name
        for name in dict.fromkeys(name for row in scalars for name in row)
    }
    rows = [
        _core(trial, study)
        | {params[name]: value for name, value in {**sampled(trial), **trial.params}.items()}
        | {results[name]: value for name, value in scalar.items()}
        for trial, scalar in zip(trials, scalars, strict=True)
    ]
    columns = [*TRIAL_COLUMNS, *params.values(), *results.values()]
    rows.sort(key=lambda row: row["number"])
    frame = pd.DataFrame(rows, columns=columns)
    for name in _TIME_COLUMNS:
        frame[name] = pd.to_datetime(frame[name], utc=True)
    for name in ("loss", "least_loss", "duration_s", "finished_after_s"):
        frame[name] = frame[name].astype(float)
    for name in (*params.values(), *results.values()):
        values = [row.get(name) for row in rows]
        present = [value for value in values if value is not None]
        if present and all(type(value) is int for value in present):
            # Of the rows themselves: beside a missing value pandas has made floats of them.
            whole = pd.array(values, dtype="Int64" if len(present) < len(rows) else "int64")
            frame[name] = whole
    frame.attrs["loss"] = _loss_label(study, CROSS_ENTROPIES)
    return frame


def _sampled(study: Study) -> Callable[[Trial], Mapping[str, Any]]:
    """What was searched for a trial's params to be derived from, where a space derives some."""
    if not study.spec.space.get("derive"):
        return lambda trial: {}
    space = Space.from_dict(study.spec.space)
    return lambda trial: space.sampled(trial.params) or {}


def reports_frame(trials: Sequence[Trial], study: Study) -> pd.DataFrame:
    """One row a report, by trial and step: `REPORT_COLUMNS`, then each reported metric.

    ``state`` and ``trial_loss`` are the trial's (a loss may be of its best step, of its last, or of
    other people than those it reports about); ``seconds`` count the trial's running time, all
    attempts together; ``frame.attrs["loss"]`` names the reported loss for axes.

    Args:
        trials: Trials of one study.
        study: Their study.
    """
    import pandas as pd

    rows = [
        {
            **_metrics(report),
            "number": trial.number,
            "state": str(trial.state),
            "trial_loss": trial.loss,
            "step": report.step,
            "loss": report.loss,
            "seconds": report.seconds,
        }
        for trial in trials
        for report in trial.reports
    ]
    metrics = dict.fromkeys(name for row in rows for name in row if name not in REPORT_COLUMNS)
    frame = pd.DataFrame(rows, columns=[*REPORT_COLUMNS, *metrics])
    # Also where there is no report.
    frame = frame.astype({"trial_loss": float, "loss": float, "seconds": float})
    frame.attrs["loss"] = _loss_label(study, REPORTED)
    return frame.sort_values(["number", "step"], ignore_index=True)


def to_json_rows(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Trials as ``larnn-search trials --json`` prints them.

    Times are ISO 8601 in UTC; numbers that JSON cannot say (NaN, infinities) are None.
    """
    return [to_json_row(trial) for trial in trials]


def to_json_row(trial: Trial, *, with_reports: bool = False) -> dict[str, Any]:
    """One trial as plain JSON values, with its learning curve on demand (``show --json``)."""
    row: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state,
        "params": trial.params,
        "loss": trial.loss,
        "attempt": trial.attempt,
        "retries": trial.retries,
        "worker": trial.worker,
        "host": trial.host,
        "created_at": trial.created_at,
        "started_at": trial.started_at,
        "finished_at": trial.finished_at,
        "duration_s": duration_s(trial),
        "seed": trial.seed,
        "origin": trial.suggestion.get("origin"),
        "result": trial.result,
        "failures": [
            {"kind": f.kind, "message": f.message, "worker": f.worker, "attempt": f.attempt}
            for f in trial.failures
        ],
    }
    if with_reports:
        row["reports"] = [
            {**_metrics(r), "step": r.step, "loss": r.loss, "seconds": r.seconds}
            for r in trial.reports
        ]
    plain: dict[str, Any] = to_plain(row)
    return plain


def to_plain(value: Any) -> Any:
    """``value`` in what `json` writes as strict JSON: NaN and infinities become None, times text.

    Raises:
        TypeError: For a value that has no plain form.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str(value)  # an enum member becomes its text
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    raise TypeError(f"JSON holds numbers, text, lists and mappings, got {type(value).__name__}")


def _core(trial: Trial, study: Study) -> dict[str, Any]:
    finished = trial.finished_at
    return {
        "number": trial.number,
        "state": str(trial.state),
        "loss": trial.loss,
        "least_loss": least_loss(trial.reports) if trial.reports else None,
        "duration_s": duration_s(trial),
        "finished_after_s": finished and (finished - study.created_at).total_seconds(),
        "steps": len(trial.reports),
        "attempt": trial.attempt,
        "retries": trial.retries,
        "worker": trial.worker,
        "host": trial.host,
        "created_at": trial.created_at,
        "started_at": trial.started_at,
        "finished_at": finished,
        "origin": trial.suggestion.get("origin"),
    }


def _scalars(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a result that fits into a cell; confusion matrices and the like do not."""
    return {name: value for name, value in result.items() if isinstance(value, (int, float, str))}


def _metrics(report: Report) -> dict[str, float]:
    return {
        f"metric.{name}" if name in REPORT_COLUMNS else name: value
        for name, value in report.metrics.items()
    }
