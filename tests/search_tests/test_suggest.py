"""What is suggested: the same as Hyperopt's own fmin where it can be, and fit for many workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hyperopt import Trials, anneal, fmin, rand, tpe
from hyperopt.pyll.stochastic import sample
from hyperopt.tests.unit import test_domains as theirs

from benchmarks.search import problems
from search.history import HISTORY_BEST, HISTORY_LATEST, merit_of, shortened
from search.named_spaces import NAMED_SPACES
from search.parameter import Parameter
from search.space import Space
from search.suggest import PARALLEL_GAMMA, Suggester, encode, hyperopt_space
from trials.store import NewTrial
from trials.trial import Failure, FailureKind, Report, Trial, TrialState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LINE = Space("line", (Parameter("x", "uniform", -5.0, 5.0),))


def finished(number: int, new: NewTrial, loss: float) -> Trial:
    return Trial(
        "s", number, TrialState.COMPLETE, new.params, new.seed, NOW,
        loss=loss, suggestion=new.suggestion,
    )  # fmt: skip


def waiting(number: int, new: NewTrial) -> Trial:
    return Trial("s", number, TrialState.WAITING, new.params, new.seed, NOW)


def serial_search(
    space: Space,
    objective: Callable[[Mapping[str, Any]], float],
    count: int,
    *,
    algorithm: str = "tpe",
    seed: int = 3,
    restart_at: int | None = None,
) -> list[Trial]:
    suggester = Suggester(space, algorithm, seed)
    trials: list[Trial] = []
    for number in range(count):
        if number == restart_at:
            suggester = Suggester(space, algorithm, seed)
        (new,) = suggester.suggest(trials, 1)
        trials.append(finished(number, new, objective(new.params)))
    return trials


def hyperopt_search(expression: Any, objective: Any, count: int, algorithm: Any) -> list[Any]:
    trials = Trials()
    fmin(
        objective, expression, algorithm, count, trials=trials,
        rstate=np.random.default_rng(3), show_progressbar=False, verbose=False,
    )  # fmt: skip
    return [{k: v[0] for k, v in misc["vals"].items() if v} for misc in trials.miscs]


def quadratic(params: Mapping[str, Any]) -> float:
    return float((params["x"] - 3) ** 2)


def q1_choice(params: Mapping[str, Any]) -> float:
    if params["o_x"] == "neg":
        return float((-3 - params["x_neg"]) ** 2)
    return float((3 - params["x_pos"]) ** 2)


Q1_CHOICE = Space(
    "q1",
    (
        Parameter("o_x", "choice", choices=("neg", "pos")),
        Parameter("x_neg", "uniform", -5, 5, when={"o_x": "neg"}),
        Parameter("x_pos", "uniform", -5, 5, when={"o_x": "pos"}),
    ),
)
BRANIN = problems.load("branin").space
THEIRS = pytest.mark.parametrize(
    ("domain", "space", "objective"),
    [
        (theirs.quadratic1, LINE, quadratic),
        (theirs.q1_choice, Q1_CHOICE, q1_choice),
        (theirs.branin, BRANIN, problems.branin),
    ],
    ids=["quadratic1", "q1_choice", "branin"],
)


@THEIRS
@pytest.mark.parametrize("algorithm", ["tpe", "random", "anneal"])
def test_serial_suggestions_are_those_of_fmin_on_hyperopts_own_functions(
    domain: Any, space: Space, objective: Any, algorithm: str
) -> None:
    ask = {"tpe": tpe.suggest, "random": rand.suggest, "anneal": anneal.suggest}[algorithm]
    expected = hyperopt_search(domain().expr, lambda result: result, 40, ask)
    ours = serial_search(space, objective, 40, algorithm=algorithm)
    assert [encode(space, dict(trial.params)) for trial in ours] == expected


MIXED = Space(
    "mixed",
    (
        Parameter("size", "int", 2, 9),
        Parameter("window", "logint", 4, 64),
        Parameter("rate", "loguniform", 1e-4, 1e-1),
        Parameter("norm", "choice", choices=("layer", "none", True, 1)),
        Parameter("optimizer", "choice", choices=("sgd", "adam")),
        Parameter("momentum", "uniform", 0, 1, when={"optimizer": "sgd"}),
        Parameter("nesterov", "choice", choices=(True, False), when={"optimizer": "sgd"}),
        Parameter("strength", "int", 1, 3, when={"nesterov": True}),
    ),
    fixed={"epochs": 3},
)


def bowl(params: Mapping[str, Any]) -> float:
    return float(
        (params["size"] - 4) ** 2
        + abs(math.log(params["window"] / 20))
        + abs(math.log(params["rate"] / 1e-3))
        + (params["norm"] is not True)
        + params.get("momentum", 0.5)
    )


def test_plain_fmin_on_the_expression_is_given_the_params_that_the_service_stores() -> None:
    seen: list[dict[str, Any]] = []

    def objective(params: dict[str, Any]) -> float:
        seen.append(params)
        return bowl(params)

    hyperopt_search(hyperopt_space(MIXED), objective, 40, tpe.suggest)
    ours = [dict(trial.params) for trial in serial_search(MIXED, bowl, 40)]
    assert [sorted(params.items()) for params in seen] == [sorted(p.items()) for p in ours]
    assert all(type(params["window"]) is int for params in seen)
    assert {type(params["norm"]) for params in seen} == {str, bool, int}


def test_where_few_points_are_there_fmin_is_followed_until_one_comes_up_twice() -> None:
    space = Space("s", (Parameter("a", "int", 1, 6), Parameter("b", "int", 1, 6)))
    seen: list[dict[str, Any]] = []

    def objective(params: Mapping[str, Any]) -> float:
        seen.append(dict(params))
        return float(params["a"] * params["b"])

    hyperopt_search(hyperopt_space(space), objective, 30, tpe.suggest)
    theirs, seen = seen, []
    serial_search(space, objective, 30)
    twice = next(i for i, params in enumerate(theirs) if params in theirs[:i])
    assert 3 < twice < 20
    assert seen[:twice] == theirs[:twice]
    assert seen[twice] not in seen[:twice]


def test_a_restarted_search_goes_on_as_it_would_have() -> None:
    assert serial_search(LINE, quadratic, 30) == serial_search(LINE, quadratic, 30, restart_at=25)


def test_every_value_lies_in_its_range_and_both_ends_are_as_likely_as_the_middle() -> None:
    space = Space("s", (Parameter("k", "int", 1, 4), Parameter("w", "logint", 2, 5)))
    expression = hyperopt_space(space)
    rng = np.random.default_rng(0)
    drawn = [sample(expression, rng) for _ in range(2000)]
    counts = np.bincount([params["k"] for params in drawn])
    assert counts[0] == 0
    assert counts[1:] == pytest.approx([500] * 4, rel=0.15)
    assert {params["w"] for params in drawn} == {2, 3, 4, 5}


def test_encode_and_decode_are_inverse_and_keep_types() -> None:
    for trial in serial_search(MIXED, bowl, 30):
        sampled = MIXED.sampled(trial.params)
        assert sampled is not None
        raw = encode(MIXED, sampled)
        assert set(raw) == set(trial.params) - {"epochs"}
        assert isinstance(trial.params["window"], int)
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
        assert ("strength" in trial.params) == (trial.params.get("nesterov") is True)


def test_tpe_learns_from_what_was_drawn_where_params_are_derived() -> None:
    space = NAMED_SPACES["paper-round-1"]
    (new,) = Suggester(space).suggest([], 1)
    raw = new.suggestion["raw"]
    assert "hidden_size" not in new.params
    assert new.params["head_size"] == max(1, round(raw["hidden_size"] / new.params["num_heads"]))


def random_start(count: int) -> list[Trial]:
    return serial_search(LINE, quadratic, count)


def parallel_start() -> list[Trial]:
    """A history of 30 trials and one that runs far off, so that all is a parallel search."""
    return [*random_start(30), waiting(30, NewTrial({"x": -4.9}, 0))]


def without(trials: list[Trial]) -> list[Trial]:
    """Trials of the same numbers that teach nothing, so that the next draw is the same."""
    return [state_of(trial, TrialState.CANCELLED, FailureKind.CRASH) for trial in trials]


def test_trials_proposed_together_keep_further_apart_than_the_same_draws_alone() -> None:
    trials = parallel_start()
    for seed in range(6):
        together = Suggester(LINE, seed=seed).suggest(trials, 8)
        assert len({p.params["x"] for p in together}) == 8
        before = without([waiting(31 + i, NewTrial({"x": i / 10}, 0)) for i in range(8)])
        alone = [Suggester(LINE, seed=seed).suggest([*trials, *before[:i]], 1)[0] for i in range(8)]
        assert [p.suggestion for p in together] == [p.suggestion for p in alone]
        assert together[0].params == alone[0].params
        spread, spread_alone = (np.std([p.params["x"] for p in of]) for of in (together, alone))
        assert spread > 2 * spread_alone


def test_a_pending_trial_sends_the_next_one_elsewhere() -> None:
    trials = parallel_start()
    distances = []
    for seed in range(12):
        gap = without([waiting(31, NewTrial({"x": 0.0}, 0))])
        (alone,) = Suggester(LINE, seed=seed).suggest([*trials, *gap], 1)
        near = waiting(31, NewTrial({"x": alone.params["x"] + 0.01}, 0))
        (beside,) = Suggester(LINE, seed=seed).suggest([*trials, near], 1)
        assert beside.suggestion == alone.suggestion  # of the same draw
        distances.append(abs(beside.params["x"] - near.params["x"]))
    assert np.mean(distances) > 0.05  # a trial that taught nothing would leave 0.01


def test_hyperopts_own_settings_hold_where_a_search_is_serial_and_only_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials = random_start(30)
    beside = waiting(30, NewTrial({"x": 0.5}, 0))
    given_up = Trial("s", 30, TrialState.PRUNED, {"x": 0.5}, 0, NOW, reports=(Report(1, 9.0),))
    asked = tpe_settings(monkeypatch)
    for history in (trials, [*trials, beside], [*trials, given_up]):
        Suggester(LINE, seed=3).suggest(history, 1)
    Suggester(LINE, seed=3, others=trials[:1]).suggest(trials, 1)
    Suggester(LINE, seed=3).suggest(trials, 2)  # the second beside the first
    used = [settings["gamma"] for settings in asked]
    assert used == [0.25, *[PARALLEL_GAMMA] * 3, 0.25, PARALLEL_GAMMA]


def state_of(trial: Trial, state: TrialState, kind: FailureKind) -> Trial:
    failures = (Failure(kind, "m", "w", "h", 1),) if state is TrialState.FAILED else ()
    return Trial(
        "s", trial.number, state, trial.params, trial.seed, NOW, failures=failures,
        token="t" if state is TrialState.RUNNING else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "kind", "counts"),
    [
        (TrialState.RUNNING, FailureKind.CRASH, True),
        (TrialState.WAITING, FailureKind.CRASH, True),
        (TrialState.FAILED, FailureKind.NAN_LOSS, True),
        (TrialState.FAILED, FailureKind.EXCEPTION, False),
        (TrialState.FAILED, FailureKind.LOST_WORKER, False),
        (TrialState.CANCELLED, FailureKind.CRASH, False),
    ],
)
def test_what_a_trial_without_a_loss_teaches(
    state: TrialState, kind: FailureKind, counts: bool
) -> None:
    """The last 20 of 51 trials sit at the optimum: where they count as bad, TPE avoids it."""
    trials = serial_search(LINE, quadratic, 30, algorithm="random")
    trials.append(waiting(30, NewTrial({"x": -4.9}, 0)))  # so that all are parallel searches
    spots = [
        state_of(finished(len(trials) + i, NewTrial({"x": 2.5 + i / 20}, 0), 0.0), state, kind)
        for i in range(20)
    ]

    def mean_distance(history: list[Trial]) -> float:
        draws = [Suggester(LINE, seed=s).suggest(history, 1)[0].params["x"] for s in range(12)]
        return float(np.mean([abs(x - 3) for x in draws]))

    placeholders = [state_of(t, TrialState.CANCELLED, kind) for t in spots]
    changed = mean_distance(trials + spots) - mean_distance(trials + placeholders)
    assert (changed > 0.05) if counts else changed == 0


def test_pruned_trials_rank_behind_complete_ones_by_step_and_then_by_loss() -> None:
    def pruned(step: int, loss: float) -> Trial:
        reports = (Report(1, 9.0), Report(step - 1, loss), Report(step, loss + 1))
        return Trial("s", 0, TrialState.PRUNED, {"x": 0.0}, 0, NOW, reports=reports)

    in_order = [
        finished(0, NewTrial({"x": 0.0}, 0), 5.0),
        finished(0, NewTrial({"x": 0.0}, 0), 80.0),
        pruned(4, 7.0),
        pruned(4, 8.0),
        pruned(2, 0.1),
        state_of(finished(0, NewTrial({"x": 0.0}, 0), 0.0), TrialState.RUNNING, FailureKind.CRASH),
    ]
    merits = [merit_of(trial) for trial in in_order]
    assert None not in merits
    assert merits == sorted(merits, key=lambda merit: merit or ())
    assert merit_of(pruned(3, math.nan)) == merits[-1]


def test_the_random_start_is_twenty_trials_of_which_ten_must_have_ended() -> None:
    def origins(ended: int, pending: int) -> set[str]:
        trials = random_start(ended)
        trials += [waiting(ended + i, NewTrial({"x": i / 100}, 0)) for i in range(pending)]
        new = Suggester(LINE, seed=3).suggest(trials, 1)
        return {one.suggestion["origin"] for one in new}

    assert origins(ended=19, pending=0) == {"random"}
    assert origins(ended=20, pending=0) == {"tpe"}
    assert origins(ended=10, pending=9) == {"random"}
    assert origins(ended=10, pending=10) == {"tpe"}
    assert origins(ended=9, pending=30) == {"random"}


def test_a_point_that_was_tried_is_proposed_again_differently() -> None:
    small = Space("small", (Parameter("k", "int", 1, 6), Parameter("m", "int", 1, 6)))
    trials = serial_search(small, lambda p: abs(p["k"] - 3) + abs(p["m"] - 3), 25)
    assert len({(t.params["k"], t.params["m"]) for t in trials}) >= 23


def test_an_exhausted_space_still_gets_suggestions() -> None:
    coin = Space("coin", (Parameter("side", "choice", choices=("heads", "tails")),))
    assert len(serial_search(coin, lambda p: float(p["side"] == "heads"), 5)) == 5


def test_enqueued_trials_take_part_where_the_space_can_express_them() -> None:
    trials = random_start(25)
    good = finished(25, NewTrial({"x": 3.0, "note": "mine"}, 0, {"origin": "enqueued"}), 0.0)
    outside = finished(25, NewTrial({"x": 30.0}, 0, {"origin": "enqueued"}), 0.0)
    (with_good,) = Suggester(LINE, seed=1).suggest([*trials, good], 1)
    (with_outside,) = Suggester(LINE, seed=1).suggest([*trials, outside], 1)
    nothing = state_of(outside, TrialState.CANCELLED, FailureKind.CRASH)
    (without,) = Suggester(LINE, seed=1).suggest([*trials, nothing], 1)
    assert with_good.params != without.params
    assert with_outside.params == without.params


def test_fixed_params_are_in_every_trial() -> None:
    space = LINE.fix("seed", 7)
    (new,) = Suggester(space, fixed={"epochs": 4}).suggest([], 1)
    assert set(new.params) == {"x", "seed", "epochs"}
    assert (new.params["seed"], new.params["epochs"]) == (7, 4)


def tpe_settings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """With what TPE is asked from now on."""
    asked: list[dict[str, Any]] = []

    def suggest(*given: Any, **settings: Any) -> Any:
        asked.append(settings)
        return original(*given, **settings)

    original = tpe.suggest
    monkeypatch.setattr(tpe, "suggest", suggest)
    return asked


def test_long_histories_are_cut_to_the_best_and_the_latest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suggester = Suggester(LINE, seed=0)
    rng = np.random.default_rng(0)
    trials = [
        finished(n, NewTrial({"x": float(x)}, 0), float((x - 3) ** 2))
        for n, x in enumerate(rng.uniform(-5, 5, 10_000))
    ]
    kept, whole = shortened([suggester._entry(trial) for trial in trials])
    assert whole == 10_000
    assert len(kept) == HISTORY_BEST + HISTORY_LATEST
    assert [entry.number for entry in kept[-HISTORY_LATEST:]] == list(range(9_600, 10_000))
    best = sorted(trials[:-HISTORY_LATEST], key=lambda t: t.loss or 0)[:HISTORY_BEST]
    assert {e.number for e in kept[:HISTORY_BEST]} == {t.number for t in best}
    asked = tpe_settings(monkeypatch)
    suggester.suggest(trials, 1)
    assert asked[0]["gamma"] * math.sqrt(len(kept)) == pytest.approx(0.25 * math.sqrt(10_000))


def test_a_trial_is_encoded_once_however_often_is_suggested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = []

    def counted(space: Space, sampled: Mapping[str, Any]) -> dict[str, float]:
        encoded.append(sampled)
        return encode(space, sampled)

    monkeypatch.setattr("search.suggest.encode", counted)
    suggester = Suggester(LINE, seed=0)
    trials = [finished(n, NewTrial({"x": n / 100}, 0), float(n)) for n in range(300)]
    suggester.suggest(trials, 1)
    suggester.suggest(trials, 1)
    assert encoded == [trial.params for trial in trials]
    suggester.suggest([*trials, finished(300, NewTrial({"x": 3.5}, 0), 1.0)], 1)
    assert len(encoded) == 301


def test_unknown_algorithm_and_empty_space_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown algorithm 'tpee'; did you mean 'tpe'\?"):
        Suggester(LINE, "tpee")
    with pytest.raises(ValueError, match="searches nothing"):
        Suggester(LINE.fix("x", 1.0))
