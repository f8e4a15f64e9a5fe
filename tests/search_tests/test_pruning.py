"""Cut-offs: who goes on, who is given up, and what is never cut."""

from __future__ import annotations

import math

import pytest

from search.pruning import Curve, Median, NoPruning, SuccessiveHalving, make_rule


def curves(*ends: float, steps: int = 9) -> list[Curve]:
    """One curve per end: it falls in equal steps of 0.1 to its end."""
    return [{s: end + (steps - s) / 10 for s in range(1, steps + 1)} for end in ends]


def test_successive_halving_cuts_at_rungs_and_lets_the_best_third_go_on() -> None:
    nine = curves(*range(1, 10))
    cutoffs = SuccessiveHalving(reduction_factor=3).cutoffs(nine)
    assert list(cutoffs) == [1, 3]  # 9 is the last step: nothing is left to save
    for step, cutoff in cutoffs.items():
        assert [curve[step] > cutoff for curve in nine] == [False] * 3 + [True] * 6


def test_rungs_start_at_min_step_and_grow_by_the_reduction_factor() -> None:
    many = curves(*range(1, 9), steps=40)
    assert list(SuccessiveHalving(reduction_factor=4, min_step=2).cutoffs(many)) == [2, 8, 32]


def test_median_cuts_the_worse_half_after_its_warm_up() -> None:
    five = curves(1, 2, 3, 4, 5)
    cutoffs = Median(warmup_steps=2).cutoffs(five)
    assert list(cutoffs) == [3, 4, 5, 6, 7, 8]
    assert [curve[4] > cutoffs[4] for curve in five] == [False, False, False, True, True]


@pytest.mark.parametrize("rule", [SuccessiveHalving(warmup_trials=5), Median(warmup_trials=5)])
def test_no_cut_before_enough_trials_have_reported_at_the_step(
    rule: SuccessiveHalving | Median,
) -> None:
    assert rule.cutoffs([]) == {}
    assert rule.cutoffs([{}, {}]) == {}
    assert rule.cutoffs(curves(1, 2, 3, 4)) == {}
    short = [{1: 1.0, 2: 1.0, 3: 1.0} for _ in range(4)]
    assert 3 not in rule.cutoffs([*short[:3], *curves(1)])


@pytest.mark.parametrize("rule", [SuccessiveHalving(), Median(warmup_steps=0)])
def test_a_trial_as_good_as_the_best_one_was_is_never_given_up(
    rule: SuccessiveHalving | Median,
) -> None:
    slow_starter = {s: 100.0 if s < 5 else 0.0 for s in range(1, 10)}
    cutoffs = rule.cutoffs([*curves(1, 2, 3, 4, 5, 6, 7, 8), slow_starter])
    assert cutoffs
    assert all(slow_starter[step] <= cutoff for step, cutoff in cutoffs.items())


@pytest.mark.parametrize("rule", [SuccessiveHalving(), Median(warmup_steps=0)])
def test_trials_are_judged_by_their_best_step_so_far(rule: SuccessiveHalving | Median) -> None:
    falling = curves(*range(1, 10))
    shaken = [{**curve, 4: 50.0} for curve in falling]
    held = [{**curve, 4: curve[3]} for curve in falling]
    assert rule.cutoffs(shaken)[4] == rule.cutoffs(held)[4] < 50.0


@pytest.mark.parametrize("rule", [SuccessiveHalving(), Median(warmup_steps=0)])
def test_nan_counts_as_the_worst_and_makes_no_cut_off_nan(rule: SuccessiveHalving | Median) -> None:
    diverged = [{1: math.nan, 2: math.nan} for _ in range(3)]
    cutoffs = rule.cutoffs([*curves(1, 2, 3, 4, 5, 6), *diverged])
    assert not any(math.isnan(cutoff) for cutoff in cutoffs.values())
    assert math.isfinite(cutoffs[1])


def test_make_rule_reads_settings_and_refuses_typos() -> None:
    assert make_rule({"name": "none"}) == NoPruning()
    assert make_rule({"name": "none"}).cutoffs(curves(*range(9))) == {}
    assert make_rule({"name": "asha", "min_step": 2}) == SuccessiveHalving(min_step=2)
    assert make_rule({"name": "median"}) == Median()
    with pytest.raises(ValueError, match=r"unknown pruner 'ahsa'; did you mean 'asha'\?"):
        make_rule({"name": "ahsa"})
    with pytest.raises(ValueError, match=r"'asha' has no setting 'eta'; known ones: reduction"):
        make_rule({"name": "asha", "eta": 3})
    with pytest.raises(
        ValueError, match="reduction_factor of a pruner must be a whole number >= 2"
    ):
        make_rule({"name": "asha", "reduction_factor": 1})
