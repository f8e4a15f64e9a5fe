"""When a study has had enough: budget, time, a good loss, no progress, or nothing but failures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from trials.study import Study
from trials.trial import Trial, TrialState

FIRST_FAILURES = 5
"""A study whose first trials all failed is stopped after this many."""


def loss_of(trial: Trial) -> float:
    """The loss of a COMPLETE trial; infinite for others and for NaN."""
    if trial.state is not TrialState.COMPLETE or trial.loss is None or math.isnan(trial.loss):
        return math.inf
    return trial.loss


def last_failure(trial: Trial) -> str:
    """What a trial failed with at last, in one line; empty if it never did."""
    if not trial.failures:
        return ""
    return f"{trial.failures[-1].kind}: {trial.failures[-1].message}".splitlines()[0]


def reason_to_end(
    study: Study, finished: Sequence[Trial], now: Callable[[], datetime]
) -> str | None:
    """Why no further trial should start, for people; None while there is no reason.

    Args:
        study: The study; its spec has the rules.
        finished: Its trials that count towards the budget, in the order in which they ended.
        now: The store's clock; asked only where time matters.
    """
    spec = study.spec
    if spec.max_trials is not None and len(finished) >= spec.max_trials:
        return f"all {spec.max_trials} trials have finished"
    limit_s = spec.timeout_s
    if limit_s is not None and (now() - study.created_at).total_seconds() >= limit_s:
        return f"stopped {limit_s:g} s after it was created, its --timeout; a larger one goes on"
    if spec.until_loss is None and spec.patience is None:
        return None
    losses = [loss_of(trial) for trial in finished]
    best = min(losses, default=math.inf)
    if spec.until_loss is not None and best <= spec.until_loss:
        return f"stopped: loss {best:g} has reached {spec.until_loss:g}"
    if spec.patience is not None and len(losses) > spec.patience:
        before = min(losses[: -spec.patience])
        if math.isfinite(before) and min(losses[-spec.patience :]) >= before:
            return f"stopped: no better loss in {spec.patience} trials"
    return None


def all_failed(study: str, finished: Sequence[Trial], active: Sequence[Trial]) -> str | None:
    """What to say when everything fails, with the commonest failure; else None.

    Not while a worker on which none has failed is at one: the others may be at fault.

    Args:
        study: The study's name.
        finished: Its first trials that ended.
        active: Those that wait or run.
    """
    if len(finished) < FIRST_FAILURES or any(t.state is not TrialState.FAILED for t in finished):
        return None
    if {t.worker for t in active if t.worker} - {trial.worker for trial in finished}:
        return None
    return (
        f"stopped: the first {len(finished)} trials all failed{commonest_failure(study, finished)}"
    )


def commonest_failure(study: str, trials: Iterable[Trial]) -> str:
    """The end of a sentence about a study's trials that failed; empty if none did."""
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    if not failed:
        return ""
    told = Counter(reason for trial in failed if (reason := last_failure(trial)))
    commonest, times = told.most_common(1)[0] if told else ("no message", len(failed))
    number = next((t.number for t in failed if last_failure(t) == commonest), failed[0].number)
    return f", {times} of them with {commonest}; see `larnn-search show {study} {number}`"
