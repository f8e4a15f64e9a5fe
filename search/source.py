"""A study to look at, wherever it is kept: in MongoDB, or in a file that `export` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from model.config import ModelConfig
from search import results
from search.launch import DEFAULT_OBJECTIVE
from search.purpose import Purpose, purpose_of
from search.ranking import Ranked, ranked
from search.space import Space
from trials.errors import InvalidValueError
from trials.store import TrialStore
from trials.study import Study
from trials.trial import BUDGET_STATES, Trial

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StudyData:
    """One study with all its trials, and the tables that figures are drawn from."""

    study: Study
    trials: tuple[Trial, ...]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a trial (`search.results.trials_frame`)."""
        return results.trials_frame(self.trials, self.study)

    @cached_property
    def reports(self) -> pd.DataFrame:
        """One row a report (`search.results.reports_frame`)."""
        return results.reports_frame(self.trials, self.study)

    @cached_property
    def space(self) -> Space:
        """What was searched."""
        return Space.from_dict(self.study.spec.space)

    @property
    def purpose(self) -> Purpose:
        """What the study is for (`search.purpose`)."""
        return purpose_of(self.study)

    @property
    def finished(self) -> int:
        """How many trials count towards the budget."""
        return sum(trial.state in BUDGET_STATES for trial in self.trials)

    @cached_property
    def ranked(self) -> list[Ranked]:
        """All settings that came to an end, the best first (`search.ranking.ranked`)."""
        return ranked(self.study, self.trials)

    @property
    def best(self) -> Trial | None:
        """The first trial of the best settings."""
        return self.ranked[0].trial if self.ranked else None

    @property
    def cell(self) -> str | None:
        """The cell of the best trial, or of all; None where nothing names one."""
        best = self.best
        settings = {**results.shared_settings(self.study), **(best.params if best else {})}
        has_default = best is not None and self.study.spec.objective == DEFAULT_OBJECTIVE
        cell: str | None = settings.get("cell", ModelConfig.cell if has_default else None)
        return cell


def is_file(study: str) -> bool:
    """Whether ``study`` means an exported file: names of studies have no dot."""
    return study.endswith(".jsonl")


def read_study(study: str, mongo: str | None = None) -> StudyData:
    """Read a study for a notebook or a program.

    Args:
        study: Its name, or the path of a ``.jsonl`` file of ``larnn-search export``.
        mongo: The database's address; None: ``LARNN_MONGO_URI``, else this machine's own server.

    Raises:
        InvalidValueError: If the file is missing or damaged.
        StudyNotFoundError: If no study has this name.
    """
    if is_file(study):
        return from_file(Path(study))
    from trials.connect import connect

    with connect(mongo) as store:
        return from_store(store, study)


def from_store(store: TrialStore, name: str) -> StudyData:
    """Read a study from an open store."""
    return StudyData(store.get_study(name), tuple(store.list_trials(name)))


def store_of_file(path: Path) -> tuple[TrialStore, str]:
    """A store in memory with an exported study, and the study's name.

    Raises:
        InvalidValueError: If the file is missing or damaged.
    """
    from trials.memory_store import MemoryStore

    data = from_file(path)
    store = MemoryStore()
    store.restore_study(data.study, data.trials)
    return store, data.study.name


def from_file(path: Path) -> StudyData:
    """Read an exported study.

    Raises:
        InvalidValueError: If the file is missing or damaged.
    """
    from trials.transfer import parse

    try:
        with path.open(encoding="utf-8") as lines:
            study, trials = parse(lines)
        Space.from_dict(study.spec.space)
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise InvalidValueError(f"{path} is no exported study: {told}") from error
    return StudyData(study, tuple(trials))
