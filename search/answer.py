"""What a finished study has to say: the winner, its one look at the test people, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search import results
from search.ending import commonest_failure
from search.launch import DEFAULT_OBJECTIVE
from search.purpose import Purpose, purpose_of
from search.ranking import Ranked, ranked
from search.space import Space
from trials.store import WEIGHTS, TrialStore
from trials.study import Study, StudyState
from trials.trial import Trial


@dataclass(frozen=True)
class Answer:
    """The end of a search, ready to be shown or written as JSON."""

    study: Study
    ranked: tuple[Ranked, ...]
    """The best five, the winner first."""
    counts: Mapping[str, int]
    figures: tuple[Path, ...] = ()
    test: Mapping[str, Any] | None = None
    """The logged look at the test people for the chosen trial; None: not looked."""
    untested: str = ""
    """Why nobody looked."""
    undrawn: str = ""
    """Why there are no figures, if they could not be written."""
    failure: str = ""
    """Of trials that failed, the commonest reason, as the end of a sentence."""

    @property
    def best(self) -> Trial | None:
        """The winner; None where no trial is COMPLETE."""
        return self.ranked[0].trial if self.ranked else None

    def to_json(self) -> dict[str, Any]:
        """The line with which ``run --json`` ends."""
        best = None
        if self.best is not None:
            best = {
                "number": self.best.number,
                "params": dict(self.best.params),
                "loss": self.best.loss,
                "validation_accuracy": self.best.result.get("validation_accuracy"),
                "test_accuracy": self.test["test_accuracy"] if self.test else None,
            }
        plain: dict[str, Any] = results.to_plain(
            {
                "study": self.study.name,
                "best": best,
                "counts": dict(self.counts),
                "figures": [str(path) for path in self.figures],
            }
        )
        return plain


def answer(store: TrialStore, name: str, folder: Path, *, look_at_test: bool) -> Answer:
    """For a finished search, look at the test people once; draw the figures.

    Args:
        store: Where the study is kept.
        name: The study's name.
        folder: Where figures are written, made when missing.
        look_at_test: Whether the chosen trial may be tested, if the study is COMPLETE: one that was
            cancelled may have been meant to go on.
    """
    study = store.get_study(name)
    trials = store.list_trials(name)  # figures judge a pruned trial by its reports
    best = tuple(ranked(study, trials)[:5])
    look: Mapping[str, Any] | None = None
    figures: tuple[Path, ...] = ()
    untested = undrawn = ""
    if best and purpose_of(study) is Purpose.SEARCH:
        try:
            look, untested = test_look(store, study, best[0].trial, may_look=look_at_test)
        except ValueError as error:  # data that are gone or other ones since it was trained
            untested = str(error)
        try:
            figures = draw_figures(study, trials, folder)
        except OSError as error:  # a full disk does not hide the winner of a long search
            undrawn = f"no figures, {folder} cannot be written: {error.strerror or error}"
    return Answer(
        study=store.get_study(name),
        ranked=best,
        counts={str(state): count for state, count in store.counts(name).items()},
        figures=figures,
        undrawn=undrawn,
        test=look,
        untested=untested,
        failure=commonest_failure(name, trials),
    )


def test_look(
    store: TrialStore, study: Study, trial: Trial, *, may_look: bool
) -> tuple[Mapping[str, Any] | None, str]:
    """Test the chosen trial's own kept weights; a trial that was looked at is not tested again.

    Returns:
        ``{"number", "test_accuracy", ...}`` as logged in the study, or None and why not.

    Raises:
        ValueError: If the data cannot be read, or the weights are of something else.
    """
    if study.spec.objective != DEFAULT_OBJECTIVE:
        return None, "only the LARNN objective has test people"
    if not may_look:
        return None, "--no-test"
    if study.state is not StudyState.COMPLETE:
        return None, f"the study is {study.state}"
    if (look := study.look_at(trial.number)) is not None:
        return look, ""
    weights = store.load_blob(study.name, trial.number, WEIGHTS)
    if weights is None:
        return None, "its weights were not kept"
    from search.objective import test_metrics

    look = {"number": trial.number, **test_metrics(trial.params, weights)}
    return store.record_test_look(study.name, look).look_at(trial.number), ""


def draw_figures(study: Study, trials: Sequence[Trial], folder: Path) -> tuple[Path, ...]:
    """Write the two figures that every search ends with."""
    from search import plots

    frame = results.trials_frame(trials, study)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        "best_loss.png": plots.best_loss_over_trials(frame),
        "settings.png": plots.loss_against_settings(frame, Space.from_dict(study.spec.space)),
    }
    for file, figure in drawn.items():
        plots.save_figure(figure, folder / file)
    return tuple(folder / file for file in drawn)
