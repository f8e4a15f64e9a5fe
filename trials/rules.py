"""What every store decides alike: about studies of the same name, and stale claims."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trials.documents import encode_spec
from trials.errors import (
    IllegalTransitionError,
    InvalidValueError,
    LeaseLostError,
    StudyChangedError,
    StudyMismatchError,
    StudyNotFoundError,
    TrialNotFoundError,
)
from trials.study import (
    IDENTITY_FIELDS,
    LEGAL_STUDY_TRANSITIONS,
    LIMIT_FIELDS,
    Counts,
    Study,
    StudySpec,
    StudyState,
    states_before,
    taken,
)
from trials.trial import BUDGET_STATES, Claim, Trial, TrialState
from trials.values import canonical

LOST = "the worker sent no heartbeat until its lease ran out: it was killed, paused or cut off"
"""Message of a LOST_WORKER failure."""
MOST_LOSSES = 5
"""In a row, each before the attempt's first report. Machines may well be taken away so often, but
hardly each time so soon; a trial that takes its worker down, as a container's end for want of
memory does, would be run again without end."""
LOST_AGAIN = (
    f"{LOST}; {MOST_LOSSES} times in a row, and no report in between: maybe it is the trial that "
    "takes its worker down, say for its memory (--memory-limit ends it alone); then retry it"
)
"""Message of the last one, which ends the trial."""
SHOWN = 80
"""Characters of a setting's value that fit into a message."""
MOST_SHOWN = 4
"""Settings that a message tells."""
MISSING = object()


def check_kind(kind: str) -> str:
    """Return ``kind`` when it can name a kind of blob.

    Raises:
        InvalidValueError: If it is not made of small letters: it becomes part of a key.
    """
    if not re.fullmatch("[a-z]{1,20}", kind):
        raise InvalidValueError(f"a kind of blob has 1 to 20 small letters, got {kind[:40]!r}")
    return kind


def study_not_found(name: str, existing: Iterable[str]) -> StudyNotFoundError:
    """Say which studies have a similar name, or what to do about a file's."""
    return StudyNotFoundError(f"no study is named {name[:64]!r}; {_hint(name, sorted(existing))}")


def _hint(name: str, existing: Sequence[str]) -> str:
    if name.endswith(".jsonl"):
        return (
            "this command takes one of the queue: "
            f"`larnn-search import {shlex.quote(name)}` brings an exported one in"
        )
    if set(name) & set("/."):  # as in paths, and in no `STUDY_NAME`
        return "names have neither '/' nor '.', and files of `larnn-search export` end in .jsonl"
    close = difflib.get_close_matches(name, existing, cutoff=0.5) or existing[:3]
    return f"there are {', '.join(close)}" if close else "there is none yet: `larnn-search launch`"


def trial_not_found(study: str, number: int) -> TrialNotFoundError:
    """Say which trial is missing."""
    return TrialNotFoundError(
        f"study {study!r} has no trial {number}; `larnn-search trials` lists what it has"
    )


def lease_lost(claim: Claim, found: str) -> LeaseLostError:
    """Say who has the trial now."""
    return LeaseLostError(
        f"trial {claim.number} of study {claim.study!r} is no longer attempt {claim.attempt} of "
        f"this worker: it is {found}; nothing was changed"
    )


def check_same_study(old: StudySpec, new: StudySpec) -> None:
    """Refuse to go on with a study under other settings.

    Raises:
        StudyMismatchError: If they differ in `IDENTITY_FIELDS`.
    """
    before, after = encode_spec(old), encode_spec(new)
    differing = [n for n in IDENTITY_FIELDS if canonical(before[n]) != canonical(after[n])]
    if differing:
        found = [one for n in differing for one in _differences(n, before[n], after[n])]
        told = "; ".join(found[:MOST_SHOWN])
        if len(found) > MOST_SHOWN:
            told += f"; and {len(found) - MOST_SHOWN} more"
        raise StudyMismatchError(
            f"study {old.name!r} exists with other settings: {told}. "
            f"Take another name, or `larnn-search export` it and `larnn-search delete {old.name}`"
        )


def study_exists(name: str) -> StudyMismatchError:
    """Say that a study cannot be restored over another one."""
    return StudyMismatchError(
        f"a study named {name!r} exists already: import under another name with --study, or "
        f"`larnn-search delete {name}` first"
    )


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    """What differs, in words: of mappings and of rows with names, entry by entry."""
    if name == "requirements.data_fingerprint":
        yield "its data are other ones"
        return
    before, after = _entries(old), _entries(new)
    if before is None or after is None:
        yield f"{name} is {_short(old)}, asked for {_short(new)}"
        return
    for key in {**before, **after}:
        sides = before.get(key, MISSING), after.get(key, MISSING)
        if MISSING in sides or canonical(sides[0]) != canonical(sides[1]):
            yield from _differences(f"{name}.{key}", *sides)


def _entries(value: Any) -> Mapping[str, Any] | None:
    """By name; None of what has none."""
    if isinstance(value, Mapping):
        return value
    rows = value if isinstance(value, list) else [None]
    named = [row for row in rows if isinstance(row, Mapping) and "name" in row]
    return {row["name"]: row for row in named} if len(named) == len(rows) else None


def _short(value: Any) -> str:
    if value is MISSING:
        return "absent"
    text = canonical(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def reopens(study: Study, spec: StudySpec, counts: Counts) -> bool:
    """Whether a study that ends or has ended goes on under a new spec."""
    finished = sum(counts[state] for state in BUDGET_STATES)
    if spec.max_trials is not None and spec.max_trials <= finished:
        return False
    # Who launches a study again that was told to stop follows it, unless he gives it more.
    return study.state is StudyState.COMPLETE or (
        study.state is StudyState.STOPPING
        and any(
            _limit(spec, name) > _limit(study.spec, name) for name in ("max_trials", "timeout_s")
        )
    )


def _limit(spec: StudySpec, name: str) -> float:
    limit: float | None = getattr(spec, name)
    return math.inf if limit is None else limit


def check_study_change(study: Study, state: StudyState, message: str, was: Study | None) -> None:
    """Refuse a change of a study's state that came too late, or is illegal.

    Raises:
        StudyChangedError: If the study is no longer as it ``was``.
        IllegalTransitionError: If `LEGAL_STUDY_TRANSITIONS` does not list the step.
    """
    if (study.state, study.message) == (state, message):
        return  # told twice
    if was is not None and _ending(study) != _ending(was):
        raise study_changed(study)
    if study.state not in states_before(state):
        allowed = " or ".join(sorted(LEGAL_STUDY_TRANSITIONS[study.state]))
        raise IllegalTransitionError(
            f"study {study.name!r} is {study.state} and cannot become {state}: "
            + (f"it can become {allowed}" if allowed else "launch another one")
        )


def _ending(study: Study) -> tuple[object, ...]:
    return study.state, *(getattr(study.spec, name) for name in LIMIT_FIELDS)


def study_changed(study: Study) -> StudyChangedError:
    """Say that somebody was faster."""
    return StudyChangedError(
        f"study {study.name!r} was changed meanwhile, it is {study.state}: read it again"
    )


def feeder_lost(study: str) -> LeaseLostError:
    """Say that another feeder has taken over."""
    return LeaseLostError(
        f"another feeder has taken over study {study!r}: this one's lease ran out, nothing changed"
    )


def numbers_taken(study: str, number: int) -> LeaseLostError:
    """Say that another feeder's trials came first, or that some are missing before these."""
    return LeaseLostError(
        f"study {study!r} has other trials from number {number} on, or lacks the one before: "
        "read its trials again"
    )


def check_cancel(number: int, state: TrialState) -> None:
    """Refuse to cancel what has a result.

    Raises:
        IllegalTransitionError: If the trial is COMPLETE, PRUNED or FAILED.
    """
    if state not in (TrialState.WAITING, TrialState.RUNNING, TrialState.CANCELLED):
        raise IllegalTransitionError(
            f"only a WAITING or RUNNING trial can be cancelled, trial {number} is {state}"
        )


def check_retry(study: Study, trial: Trial, counts: Counts) -> None:
    """Refuse to run again what runs or has a result, or would not be run; WAITING ones will be.

    Raises:
        IllegalTransitionError: As `TrialStore.retry_trial`.
    """
    name, number, state = study.name, trial.number, trial.state
    if state not in (TrialState.WAITING, TrialState.FAILED, TrialState.CANCELLED):
        raise IllegalTransitionError(
            f"only a FAILED or CANCELLED trial can be run again, trial {number} is {state}"
        )
    if study.state in (StudyState.STOPPING, StudyState.CANCELLED):
        is_final = not LEGAL_STUDY_TRANSITIONS[study.state]
        hint = "launch another one" if is_final else f"`larnn-search resume {name}` first"
        raise IllegalTransitionError(
            f"study {name!r} is {study.state} and starts no more trials, trial {number} neither: "
            + hint
        )
    others = taken(counts) - (state in BUDGET_STATES)
    budget = study.spec.max_trials
    if state is not TrialState.WAITING and budget is not None and others >= budget:
        raise IllegalTransitionError(
            f"study {name!r} has {others} other trials that run or have finished, all of its "
            f"budget: launch it again with a --max-trials above {others}, then retry trial {number}"
        )
