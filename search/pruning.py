"""Which running trials are hopeless: cut-offs per step, from what all trials reported there.

A worker gives a trial up when its least loss so far is above the cut-off of the step that it
reports: a trial's loss is its best step's, and one bad epoch must not end it. No rule has a cut-off
at the last step (the trial is done by then), before enough trials have reported, or below what the
trial of the least loss had at that step: one that does as well as the best did is never given up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.parameter import did_you_mean
from trials.objective import StopRule

Curve = Mapping[int, float]
"""One trial's losses by step."""


def _least_so_far(curve: Curve) -> Curve:
    """The least loss up to each step; a NaN counts as infinite."""
    steps = sorted(curve)
    losses = (math.inf if math.isnan(curve[step]) else curve[step] for step in steps)
    return dict(zip(steps, itertools.accumulate(losses, min), strict=True))


def _by_step(curves: list[Curve]) -> dict[int, list[float]]:
    """All losses of each step, ascending. The last step is left out."""
    steps: dict[int, list[float]] = {}
    for curve in curves:
        for step, loss in curve.items():
            steps.setdefault(step, []).append(loss)
    if steps:
        del steps[max(steps)]
    return {step: sorted(losses) for step, losses in sorted(steps.items())}


def _best_curve(curves: list[Curve]) -> Curve:
    """The curve with the least loss at its end among the longest ones."""
    last = max((max(curve) for curve in curves if curve), default=0)
    ended = [curve for curve in curves if last in curve]
    return min(ended, key=lambda curve: curve[last], default={})


def _allow(cutoff: float, best: Curve, step: int) -> float:
    """A cut-off that spares what the best trial had."""
    return max(cutoff, best.get(step, -math.inf))


@dataclass(frozen=True)
class NoPruning:
    """Every trial runs to its end."""

    def cutoffs(self, curves: list[Curve]) -> Curve:
        """No cut-off at any step."""
        return {}


@dataclass(frozen=True)
class SuccessiveHalving:
    """Asynchronous successive halving (ASHA, Li et al. 2020, algorithm 2, in its stopping form).

    At the rungs ``min_step * reduction_factor ** k`` only the best ``1 / reduction_factor`` of the
    trials that got there go on. Nobody waits for a rung to fill. By default the better half: on
    recorded trainings a third lost more winners (`docs/decisions.md`).
    """

    reduction_factor: int = 2
    min_step: int = 1
    warmup_trials: int = 5
    """Trials that must have reported at a rung before it cuts."""

    def __post_init__(self) -> None:
        _check(self, reduction_factor=2, min_step=1, warmup_trials=1)

    def cutoffs(self, curves: list[Curve]) -> Curve:
        """The loss of the worst trial that still goes on, at each rung."""
        curves = [_least_so_far(curve) for curve in curves]
        best = _best_curve(curves)
        made = {}
        for step, losses in _by_step(curves).items():
            if self._is_rung(step) and len(losses) >= self.warmup_trials:
                goes_on = math.ceil(len(losses) / self.reduction_factor)
                made[step] = _allow(losses[goes_on - 1], best, step)
        return made

    def _is_rung(self, step: int) -> bool:
        rung = self.min_step
        while rung < step:
            rung *= self.reduction_factor
        return rung == step


@dataclass(frozen=True)
class Median:
    """A trial must be at least as good as the median trial was at the same step."""

    warmup_trials: int = 5
    """Trials that must have reported at a step before it cuts."""
    warmup_steps: int = 1
    """Steps that no trial is judged by."""

    def __post_init__(self) -> None:
        _check(self, warmup_trials=1, warmup_steps=0)

    def cutoffs(self, curves: list[Curve]) -> Curve:
        """The median loss at each step; of two middle ones the higher."""
        curves = [_least_so_far(curve) for curve in curves]
        best = _best_curve(curves)
        return {
            step: _allow(losses[len(losses) // 2], best, step)
            for step, losses in _by_step(curves).items()
            if step > self.warmup_steps and len(losses) >= self.warmup_trials
        }


def _check(rule: Any, **least: int) -> None:
    for name, bound in least.items():
        value = getattr(rule, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < bound:
            raise ValueError(f"{name} of a pruner must be a whole number >= {bound}, got {value!r}")


RULES: Mapping[str, type[NoPruning] | type[SuccessiveHalving] | type[Median]] = {
    "asha": SuccessiveHalving,
    "median": Median,
    "none": NoPruning,
}


def make_rule(spec: Mapping[str, Any]) -> StopRule:
    """The rule that ``{"name": "asha", **settings}`` stands for (`StudySpec.pruner`).

    Raises:
        ValueError: For an unknown name or setting, or a setting out of range.
    """
    settings = dict(spec)
    name = str(settings.pop("name", None))
    if name not in RULES:
        raise ValueError(f"unknown pruner {name!r}; {did_you_mean(name, tuple(RULES))}")
    known = tuple(RULES[name].__dataclass_fields__)
    for setting in settings:
        if setting not in known:
            raise ValueError(
                f"pruner {name!r} has no setting {setting!r}; {did_you_mean(setting, known)}"
            )
    return RULES[name](**settings)
