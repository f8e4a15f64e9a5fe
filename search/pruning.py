"""Which running trials are hopeless: cut-offs per step, from what all trials reported there.

A worker gives a trial up when its least loss so far is above the cut-off of the step that it
reports: one bad epoch must not end it, whether its best or its last is to count. No rule has a
cut-off at the last step (the trial is done by then), before enough trials have reported, or below
what the trial of the least loss had at that step: one that does as well as the best did is never
given up.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from model.words import did_you_mean
from trials.objective import StopRule

Curve = Mapping[int, float]
"""One trial's losses by step."""
Ordered = TypeVar("Ordered", float, tuple[float, int])


@dataclass(frozen=True)
class _Standing:
    """What is remembered of one trial's curve; losses are the least so far, a NaN is infinite."""

    last: int
    """The last step that was reported."""
    least: float
    """The loss at that step."""
    judged: Curve
    """By step, of those by which the rule judges."""


class Standings:
    """How all trials stand at the steps by which a rule judges, in order.

    Only what changed is taken in, so that cut-offs cost the same however many trials there are.

    Args:
        rule: Which steps count, and who goes on there.
    """

    def __init__(self, rule: StopRule) -> None:
        self.rule = rule
        self._of: dict[int, _Standing] = {}
        self._losses: dict[int, list[float]] = {}
        """By judged step, ascending."""
        self._ends: dict[int, list[tuple[float, int]]] = {}
        """By last step: least loss and number of the trials that end there, ascending."""

    def update(self, number: int, curve: Curve) -> None:
        """Take in what a trial has reported by now; ``{}`` for one that reported nothing."""
        old, new = self._of.pop(number, None), self._stand(curve)
        if new is not None:
            self._of[number] = new
        if old == new:
            return
        if old is not None:
            _remove(self._ends, old.last, (old.least, number))
            for step, loss in old.judged.items():
                _remove(self._losses, step, loss)
        if new is not None:
            bisect.insort(self._ends.setdefault(new.last, []), (new.least, number))
            for step, loss in new.judged.items():
                bisect.insort(self._losses.setdefault(step, []), loss)

    def _stand(self, curve: Curve) -> _Standing | None:
        if not curve:
            return None
        steps = sorted(curve)
        losses = (math.inf if math.isnan(curve[step]) else curve[step] for step in steps)
        least = dict(zip(steps, itertools.accumulate(losses, min), strict=True))
        judged = {step: loss for step, loss in least.items() if self.rule.judges(step)}
        return _Standing(steps[-1], least[steps[-1]], judged)

    def cutoffs(self) -> Curve:
        """The highest loss still allowed, by step."""
        if not self._ends:
            return {}
        last = max(self._ends)
        best = self._of[self._ends[last][0][1]].judged
        made = {}
        for step, losses in sorted(self._losses.items()):
            cutoff = self.rule.cutoff(losses) if step < last else None
            if cutoff is not None:
                made[step] = max(cutoff, best.get(step, -math.inf))
        return made


def _remove(lists: dict[int, list[Ordered]], key: int, item: Ordered) -> None:
    """Take an item out of a sorted list; an empty list is not kept."""
    ordered = lists[key]
    del ordered[bisect.bisect_left(ordered, item)]
    if not ordered:
        del lists[key]


@dataclass(frozen=True)
class NoPruning:
    """Every trial runs to its end."""

    def judges(self, step: int) -> bool:
        """By no step."""
        return False

    def cutoff(self, losses: Sequence[float]) -> float | None:
        """None."""
        return None


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

    def cutoff(self, losses: Sequence[float]) -> float | None:
        """The loss of the worst trial that still goes on."""
        if len(losses) < self.warmup_trials:
            return None
        return losses[math.ceil(len(losses) / self.reduction_factor) - 1]

    def judges(self, step: int) -> bool:
        """By the rungs."""
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

    def judges(self, step: int) -> bool:
        """By all steps after the warm-up."""
        return step > self.warmup_steps

    def cutoff(self, losses: Sequence[float]) -> float | None:
        """The median loss; of two middle ones the higher."""
        return losses[len(losses) // 2] if len(losses) >= self.warmup_trials else None


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
