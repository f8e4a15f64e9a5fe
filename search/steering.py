"""What a person asks of a study that may be over: to go on, or to try a trial again."""

from __future__ import annotations

from search.ending import reason_to_end
from search.study_view import ended_at
from trials.errors import IllegalTransitionError
from trials.store import TrialStore
from trials.study import Study, StudyState
from trials.trial import BUDGET_STATES, Trial


def retry(store: TrialStore, name: str, number: int) -> Trial:
    """Put a FAILED or CANCELLED trial back into a study's queue; a COMPLETE study goes on with it.

    Raises:
        ValueError: If the study would end at once all the same.
        IllegalTransitionError: As `TrialStore.retry_trial`.
        StudyNotFoundError: If there is no such study.
        TrialNotFoundError: If there is no such trial.
    """
    study = store.get_study(name)
    if why := _would_end_again(store, study, but=number):
        raise ValueError(
            f"study {name} would end again at once ({why}): launch it again with larger limits, "
            f"then retry trial {number}"
        )
    return store.retry_trial(name, number)


def resume(store: TrialStore, name: str, message: str) -> Study:
    """Let a study go on, a COMPLETE one too where its limits leave it something to do.

    Raises:
        IllegalTransitionError: If its state does not allow it, or it would end again at once.
        StudyNotFoundError: If there is no such study.
    """
    study = store.get_study(name)
    if why := _would_end_again(store, study):
        raise IllegalTransitionError(
            f"study {name} would end again at once ({why}); give it a larger budget first: the "
            "command that launched it, with a higher --max-trials, say"
        )
    return store.set_study_state(name, StudyState.ACTIVE, message)


def _would_end_again(store: TrialStore, study: Study, but: int | None = None) -> str | None:
    """Why a COMPLETE study has nothing to do, trial ``but`` left aside; None where it has."""
    if study.state is not StudyState.COMPLETE:
        return None
    listed = store.list_trials(study.name, sorted(BUDGET_STATES), with_reports=False)
    finished = sorted((trial for trial in listed if trial.number != but), key=ended_at)
    return reason_to_end(study, finished, store.now)
