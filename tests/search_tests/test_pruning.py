"""Cut-offs: who goes on, who is given up, and what is never cut."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.feeder import Feeder
from search.parameter import Parameter
from search.pruning import Curve, Median, NoPruning, Standings, SuccessiveHalving, make_rule
from search.space import Space
from trials.errors import TrialsError
from trials.memory_store import MemoryStore
from trials.objective import StopRule
from trials.store import NewTrial
from trials.study import StudySpec
from trials.trial import Failure, FailureKind, Outcome, Report, Trial, TrialState


def cutoffs_of(rule: StopRule, curves: Iterable[Curve]) -> Curve:
    standings = Standings(rule)
    for number, curve in enumerate(curves):
        standings.update(number, curve)
    return standings.cutoffs()


def plain_cutoffs(rule: StopRule, curves: Iterable[Curve]) -> Curve:
    """The same, obviously: all curves looked at anew."""
    told = []
    for curve in curves:
        steps = sorted(curve)
        losses = (math.inf if math.isnan(curve[s]) else curve[s] for s in steps)
        told.append(dict(zip(steps, itertools.accumulate(losses, min), strict=True)))
    last = max((max(curve) for curve in told if curve), default=0)
    best = min((c for c in told if last in c), key=lambda c: c[last], default={})
    made = {}
    for step in sorted({step for curve in told for step in curve} - {last}):
        cutoff = rule.cutoff(sorted(c[step] for c in told if step in c))
        if rule.judges(step) and cutoff is not None:
            made[step] = max(cutoff, best.get(step, -math.inf))
    return made


def curves(*ends: float, steps: int = 9) -> list[Curve]:
    """One curve per end: it falls in equal steps of 0.1 to its end."""
    return [{s: end + (steps - s) / 10 for s in range(1, steps + 1)} for end in ends]


def test_successive_halving_cuts_at_rungs_and_lets_the_best_third_go_on() -> None:
    nine = curves(*range(1, 10))
    cutoffs = cutoffs_of(SuccessiveHalving(reduction_factor=3), nine)
    assert list(cutoffs) == [1, 3]  # 9 is the last step: nothing is left to save
    for step, cutoff in cutoffs.items():
        assert [curve[step] > cutoff for curve in nine] == [False] * 3 + [True] * 6


def test_rungs_start_at_min_step_and_grow_by_the_reduction_factor() -> None:
    many = curves(*range(1, 9), steps=40)
    assert list(cutoffs_of(SuccessiveHalving(reduction_factor=4, min_step=2), many)) == [2, 8, 32]


def test_median_cuts_the_worse_half_after_its_warm_up() -> None:
    five = curves(1, 2, 3, 4, 5)
    cutoffs = cutoffs_of(Median(warmup_steps=2), five)
    assert list(cutoffs) == [3, 4, 5, 6, 7, 8]
    assert [curve[4] > cutoffs[4] for curve in five] == [False, False, False, True, True]


@pytest.mark.parametrize("rule", [SuccessiveHalving(warmup_trials=5), Median(warmup_trials=5)])
def test_no_cut_before_enough_trials_have_reported_at_the_step(
    rule: SuccessiveHalving | Median,
) -> None:
    assert cutoffs_of(rule, []) == {}
    assert cutoffs_of(rule, [{}, {}]) == {}
    assert cutoffs_of(rule, curves(1, 2, 3, 4)) == {}
    short = [{1: 1.0, 2: 1.0, 3: 1.0} for _ in range(4)]
    assert 3 not in cutoffs_of(rule, [*short[:3], *curves(1)])


@pytest.mark.parametrize("rule", [SuccessiveHalving(), Median(warmup_steps=0)])
def test_a_trial_as_good_as_the_best_one_was_is_never_given_up(
    rule: SuccessiveHalving | Median,
) -> None:
    slow_starter = {s: 100.0 if s < 5 else 0.0 for s in range(1, 10)}
    cutoffs = cutoffs_of(rule, [*curves(1, 2, 3, 4, 5, 6, 7, 8), slow_starter])
    assert cutoffs
    assert all(slow_starter[step] <= cutoff for step, cutoff in cutoffs.items())


@pytest.mark.parametrize("rule", [SuccessiveHalving(), Median(warmup_steps=0)])
def test_trials_are_judged_by_their_best_step_so_far(rule: SuccessiveHalving | Median) -> None:
    falling = curves(*range(1, 10))
    shaken = [{**curve, 4: 50.0} for curve in falling]
    held = [{**curve, 4: curve[3]} for curve in falling]
    assert cutoffs_of(rule, shaken)[4] == cutoffs_of(rule, held)[4] < 50.0


@pytest.mark.parametrize("rule", [SuccessiveHalving(), Median(warmup_steps=0)])
def test_nan_counts_as_the_worst_and_makes_no_cut_off_nan(rule: SuccessiveHalving | Median) -> None:
    diverged = [{1: math.nan, 2: math.nan} for _ in range(3)]
    cutoffs = cutoffs_of(rule, [*curves(1, 2, 3, 4, 5, 6), *diverged])
    assert not any(math.isnan(cutoff) for cutoff in cutoffs.values())
    assert math.isfinite(cutoffs[1])


def test_make_rule_reads_settings_and_refuses_typos() -> None:
    assert make_rule({"name": "none"}) == NoPruning()
    assert cutoffs_of(make_rule({"name": "none"}), curves(*range(9))) == {}
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


# -- only what changed is looked at ----------------------------------------------------------------

RULES = [SuccessiveHalving(warmup_trials=2), SuccessiveHalving(3, 2, 1), Median(2, 0), Median(1, 2)]
losses = st.sampled_from([0.0, 0.5, 1.0, 2.0, math.inf, -math.inf, math.nan])


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.dictionaries(st.integers(1, 9), losses)), max_size=40)
)
def test_standings_give_the_cutoffs_of_all_curves_looked_at_anew(
    rule: StopRule, told: list[tuple[int, Curve]]
) -> None:
    standings, known = Standings(rule), {}
    for number, curve in told:
        standings.update(number, curve)
        known[number] = curve
        assert standings.cutoffs() == plain_cutoffs(rule, (known[n] for n in sorted(known)))


events = st.sampled_from(["reserve", "report", "complete", "fail", "requeue", "retry", "forget"])
BROKE = Failure(FailureKind.CRASH, "broke", "w", "h", 1)
SPACE = Space("line", (Parameter("x", "uniform", -5.0, 5.0),))


def act(store: MemoryStore, event: str, trial: Trial, loss: float, token: str) -> None:
    match event:
        case "reserve":
            store.reserve("s", "w", "h", token)
        case "report":
            store.report(trial.claim, [Report(len(trial.reports) + 1, loss)])
        case "complete":
            store.finish(trial.claim, Outcome(TrialState.COMPLETE, loss))
        case "fail":
            store.finish(trial.claim, Outcome(TrialState.FAILED, failure=BROKE))
        case "requeue":
            store.finish(trial.claim, Outcome(TrialState.WAITING))
        case "retry":
            store.retry_trial("s", trial.number)


@settings(max_examples=40)
@given(st.lists(st.tuples(events, st.integers(0, 5), losses), max_size=60))
def test_a_feeder_publishes_the_cutoffs_of_all_curves(told: list[tuple[str, int, float]]) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    store, rule = MemoryStore(lambda: now), Median(2, 0)
    pruner = {"name": "median", "warmup_trials": 2, "warmup_steps": 0}
    store.create_study(StudySpec("s", "m:f", SPACE.to_dict(), pruner=pruner))
    store.add_trials("s", None, 0, [NewTrial({"x": float(n)}, n) for n in range(6)])
    feeder = Feeder(store, "s", ahead=0, clock=lambda: 0.0)
    for turn, (event, number, loss) in enumerate(told):
        if event == "forget":
            feeder._view.forget()
        else:
            with contextlib.suppress(TrialsError):  # what cannot be done now is left
                act(store, event, store.get_trial("s", number), loss, f"t{turn}")
        feeder._timers.pop("cutoffs", None)
        feeder.step()
        curves = [{r.step: r.loss for r in t.reports} for t in store.list_trials("s")]
        assert store.get_study("s").cutoffs == plain_cutoffs(rule, curves)
