"""After a search: its winner trained again, judged on people it never used.

A final is a study of its own, a grid over seeds or folds with all else fixed, so that the queue
carries it out like any other: on all workers, resumed after a stop, exported with its trials.
"""

from __future__ import annotations

from search.launch import DEFAULT_OBJECTIVE, JUDGING_OBJECTIVE
from search.parameter import Parameter
from search.purpose import Purpose
from search.ranking import fresh_seeds, settings_of
from search.source import StudyData
from search.space import Space
from trials.study import StudySpec, StudyState
from trials.trial import Trial, TrialState

TEST = Purpose.TEST.value
FOLD = "fold {number} of {folds}"
SOURCE = "settings_of"
"""The param of a final that tells where its settings come from: study and trial."""
PAST_RANKINGS = 1000
"""Where seeds of what follows a search itself begin: before it are those of its rankings."""
RANK = "-rank"
"""End of the name of a study that trains a search's best settings again."""


def search_name(study: str) -> str:
    """The search that a study or its ranking belongs to."""
    return study.removesuffix(RANK)


def final_name(study: str, folds: int | None) -> str:
    """Name of the final of a search or its ranking, unless the user gives another."""
    return f"{search_name(study)}-{'test' if folds is None else 'folds'}"


def seeds_after(data: StudyData, count: int) -> tuple[int, ...]:
    """Seeds for what follows a choice, other than those that any choice on the way was made by.

    A ranking's begin at 0, and all that follows one has seeds beyond it.
    """
    again = data.purpose is Purpose.AGAIN
    first = max((int(t.params["seed"]) for t in data.trials), default=0) if again else PAST_RANKINGS
    return fresh_seeds(data.trials, count, first=first)


def check_finished(data: StudyData) -> None:
    """Refuse a search that goes on: its winner, and what is chosen by it, could still change.

    Raises:
        ValueError: If trials may yet start, or some run.
    """
    state, name = data.study.state, data.study.name
    runs = any(trial.state is TrialState.RUNNING for trial in data.trials)
    if state.is_over:
        return
    if state is not StudyState.STOPPING:
        raise ValueError(
            f"only a finished search is judged, study {name} is {state}: carry it on, or end it "
            f"with `larnn-search stop {name}`"
        )
    if runs:
        raise ValueError(f"study {name} is stopping, and some of its trials still run: wait")


def winner(data: StudyData, number: int | None = None) -> Trial:
    """The trial that a final is about: the given one, or the first of the best settings.

    Raises:
        ValueError: If there is no such trial, or no trial is complete.
    """
    if number is not None:
        for trial in data.trials:
            if trial.number == number:
                return trial
        raise ValueError(f"study {data.study.name} has no trial {number}")
    if data.best is None:
        raise ValueError(
            f"study {data.study.name} has no complete trial yet: nothing to train again"
        )
    return data.best


def final_spec(data: StudyData, trial: Trial, *, seeds: int, folds: int | None) -> StudySpec:
    """The study that judges a trial's settings.

    Args:
        data: The search.
        trial: Its winner.
        seeds: How many trainings, each with a seed of its own; with ``folds``, of each fold.
        folds: Cross-validate over all people in that many folds; None: train on training and
            validation people, judge on the test people.

    Raises:
        ValueError: If the search had another objective, or there is only one training to do.
    """
    study = data.study
    if study.spec.objective != DEFAULT_OBJECTIVE:
        raise ValueError(
            f"a final trains the LARNN objective, study {study.name} minimises "
            f"{study.spec.objective}"
        )
    # Nobody validates in a final: nothing could tell when to stop early, or which epoch to keep.
    fixed = settings_of(trial) | {"patience": 0, "keep": "last"}
    fixed[SOURCE] = f"{study.name} {trial.number}"
    rows = []
    if folds is None:
        fixed["judged"] = TEST
    else:
        names = tuple(FOLD.format(number=i + 1, folds=folds) for i in range(folds))
        rows.append(Parameter("judged", "choice", choices=names))
    fresh = seeds_after(data, seeds)
    if seeds > 1:
        rows.append(Parameter("seed", "choice", choices=fresh))
    else:
        fixed["seed"] = fresh[0]
    if not rows:
        raise ValueError("a final needs at least 2 trainings: ask for more --seeds, or --folds")
    return StudySpec(
        name=final_name(study.name, folds),
        objective=JUDGING_OBJECTIVE,
        space=Space("final", tuple(rows)).to_dict(),
        fixed=fixed,
        algorithm="grid",
        max_trials=seeds * (folds or 1),
        threads=study.spec.threads,
        requirements=study.spec.requirements,
    )
