"""Which settings of a study are best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from search.ending import loss_of
from trials.study import Study
from trials.trial import Trial, TrialState


@dataclass(frozen=True)
class Ranked:
    """Settings, and the trials that trained them: one, or one a seed."""

    trials: tuple[Trial, ...]

    @property
    def trial(self) -> Trial:
        """The first of them; its number names the settings."""
        return self.trials[0]

    @property
    def loss(self) -> float:
        """Their mean loss; infinite where one of them failed or diverged."""
        return sum(map(loss_of, self.trials)) / len(self.trials)

    @property
    def validation_accuracy(self) -> float | None:
        """Their mean; None where the objective tells none."""
        told = [trial.result.get("validation_accuracy") for trial in self.trials]
        known = [value for value in told if isinstance(value, float)]
        return sum(known) / len(known) if len(known) == len(told) else None

    @property
    def seeds(self) -> int:
        """With how many seeds the settings were trained."""
        return len({trial.params.get("seed") for trial in self.trials})


def settings_of(trial: Trial) -> dict[str, object]:
    """A trial's params but for its seed."""
    return {name: value for name, value in trial.params.items() if name != "seed"}


def ranked(study: Study, trials: Iterable[Trial]) -> list[Ranked]:
    """All settings that came to an end, the best first; ties by number.

    Where a study varies the seed, settings count by their mean loss: the best of all trials is
    partly the luckiest. Left out are settings one of whose trainings failed or diverged, and of a
    grid those with fewer seeds than others, as in a ranking that was stopped early.
    """
    found = _by_settings(trials)
    is_grid = study.spec.algorithm == "grid"
    least = max((one.seeds for one in found), default=0) if is_grid else 0
    whole = (one for one in found if one.seeds >= least and math.isfinite(one.loss))
    return sorted(whole, key=lambda one: (one.loss, one.trial.number))


def candidates(study: Study, trials: Iterable[Trial], count: int, *, is_over: bool) -> list[Trial]:
    """The trials that `ranked` names first, or may name first once the study is over.

    While a grid trains settings with one seed after the other, their means change: any may win.
    """
    in_order = sorted(trials, key=lambda trial: trial.number)
    seeded = any("seed" in trial.params for trial in in_order)
    if seeded and study.spec.algorithm == "grid" and not is_over:
        return [one.trial for one in _by_settings(in_order)]
    return [one.trial for one in ranked(study, in_order)[:count]]


def _by_settings(trials: Iterable[Trial]) -> list[Ranked]:
    """Trials that came to an end, those together which differ in the seed alone."""
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.FAILED):
            seeded = "seed" in trial.params
            key = repr(sorted(settings_of(trial).items())) if seeded else str(trial.number)
            alike.setdefault(key, []).append(trial)
    return [Ranked(tuple(group)) for group in alike.values()]


def fresh_seeds(trials: Iterable[Trial], count: int, *, first: int = 0) -> tuple[int, ...]:
    """The least seeds from ``first`` on that none of these trials had.

    What follows a choice by some takes others: with those that chose it, the winner alone would be
    trained by its own luck.
    """
    used = {trial.params.get("seed", trial.seed) for trial in trials}
    fresh = (seed for seed in itertools.count(first) if seed not in used)
    return tuple(itertools.islice(fresh, count))
