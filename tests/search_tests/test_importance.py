import itertools

import numpy as np
import optuna
import pandas as pd
import pytest

from search import importance as module
from search.forest import Cells, grow
from search.importance import (
    FEW_TRIALS,
    importance,
    interactions,
    marginal_effects,
    pair_effect,
)
from search.parameter import Parameter
from search.plot_forest import (
    effects_figure,
    importance_figure,
    interactions_figure,
    setting_importance,
)
from search.space import Space

SPACE = Space(
    "made",
    (
        Parameter("learning_rate", "loguniform", 1e-4, 1e-1),
        Parameter("activation", "choice", choices=("none", "elu", "tanh")),
        Parameter("window_size", "int", 1, 40),
        Parameter("momentum", "uniform", 0.0, 1.0, when={"activation": "elu"}),
    ),
)


def made(count, noise=0.02, seed=0):
    """Trials whose loss hangs on the learning rate, a little on the activation, on nothing else."""
    draw = np.random.default_rng(seed)
    rate = 10 ** draw.uniform(-4, -1, count)
    activation = draw.choice(["none", "elu", "tanh"], count)
    loss = np.abs(np.log10(rate / 3e-3)) + 0.4 * (activation == "none")
    loss += draw.normal(0, noise, count)
    return pd.DataFrame(
        {
            "number": range(count),
            "state": "COMPLETE",
            "loss": loss,
            "least_loss": loss,
            "learning_rate": rate,
            "activation": activation,
            "window_size": draw.integers(1, 41, count),
            "momentum": np.where(activation == "elu", draw.uniform(0, 1, count), np.nan),
        }
    )


def words(figure):
    """All text of a figure, line breaks and all."""
    figure.draw_without_rendering()
    return " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))


def test_the_setting_that_decides_comes_first_and_is_clear():
    found = importance(made(70), SPACE)
    assert found.table["setting"][0] == "learning_rate"
    assert "learning_rate" in found.clear
    assert "window_size" not in found.clear
    assert (found.trials, found.pruned, found.warning) == (70, 0, "")
    assert (found.table["low"] <= found.table["share"]).all()
    assert (found.table["share"] <= found.table["high"]).all()


def test_a_conditional_setting_is_weighed_among_the_trials_that_have_it():
    frame = made(90)
    frame["loss"] += 4 * frame["momentum"].fillna(0.0)
    found = importance(frame, SPACE)
    given = int(frame["momentum"].notna().sum())
    assert dict(zip(found.table["setting"], found.table["trials"], strict=True)) == {
        "learning_rate": 90, "activation": 90, "window_size": 90, "momentum": given,
    }  # fmt: skip
    assert "momentum" in found.clear
    assert f"momentum (of {given})" in words(setting_importance(found))


def pruned_by_setting(count=80):
    """Every trial without activation is given up after a step, at a loss that is still high."""
    frame = made(count)
    given_up = frame["activation"] == "none"
    frame["least_loss"] = frame["loss"] + 3.0 * given_up
    frame.loc[given_up, "state"] = "PRUNED"
    frame.loc[given_up, "loss"] = 99.0  # the latest epoch's; the least one counts
    return frame


def test_settings_are_not_judged_by_the_trials_that_survived_pruning_alone():
    frame = pruned_by_setting()
    found = importance(frame, SPACE)
    assert found.table["setting"][0] == "activation"  # of complete trials it has but two values
    assert "activation" in found.clear
    pruned = int((frame["state"] == "PRUNED").sum())
    assert (found.trials, found.pruned) == (80, pruned)
    effect = marginal_effects(frame, SPACE).set_index("value")["loss"]
    assert effect["none"] > effect["elu"] + 1.0


@pytest.mark.parametrize("draw", [importance_figure, effects_figure, interactions_figure])
def test_figures_say_how_many_trials_were_pruned_and_what_that_means(draw):
    frame = pruned_by_setting()
    told = words(draw(frame, SPACE))
    pruned = int((frame["state"] == "PRUNED").sum())
    assert f"n = 80 trials; {pruned} pruned, at their least loss" in told
    if draw is not effects_figure:
        assert "settings that start slowly look worse" in told.replace("\n", " ")


def test_shares_of_fanova_are_parts_of_one_variance():
    frame = made(60).drop(columns="momentum")
    alone, pairs = importance(frame, SPACE).table, interactions(frame, SPACE).table
    assert 0.7 < alone["share"].sum() <= 1.0
    assert alone["share"].sum() + pairs["share"].sum() <= 1.0 + 1e-9


def test_nothing_is_clear_where_losses_are_noise():
    frame = made(60)
    frame["loss"] = np.random.default_rng(1).normal(1, 0.1, len(frame))
    assert importance(frame, SPACE).clear == []
    assert not interactions(frame, SPACE).table["clear"].any()


def test_one_diverged_trial_decides_nothing():
    frame = made(60)
    before = importance(frame, SPACE).table.set_index("setting")["share"]
    frame.loc[5, "loss"] = 1e6
    after = importance(frame, SPACE).table.set_index("setting")["share"]
    assert after["learning_rate"] > 0.5 * before["learning_rate"]


def test_equal_trials_give_equal_shares_and_grow_no_second_forest(monkeypatch):
    frame = made(41)
    module._grown.cache_clear()
    grown = []
    monkeypatch.setattr(module, "grow", lambda *a, **k: grown.append(1) or grow(*a, **k))
    once = importance(frame, SPACE).table
    count = len(grown)
    pd.testing.assert_frame_equal(once, importance(made(41), SPACE).table)
    marginal_effects(frame, SPACE)
    interactions(frame, SPACE)
    assert len(grown) == count > 0
    module._grown.cache_clear()
    pd.testing.assert_frame_equal(once, importance(frame, SPACE).table)


def test_few_trials_are_warned_of_and_fewer_refused():
    found = importance(made(FEW_TRIALS - 1), SPACE)
    assert "too few to rank settings" in found.warning
    assert "too few to rank settings" in words(setting_importance(found))
    with pytest.raises(ValueError, match="at least 8 COMPLETE or PRUNED trials, found 7"):
        importance(made(7), SPACE)


def test_only_trials_with_a_finite_loss_count():
    frame = made(40)
    frame.loc[:9, "state"] = "FAILED"
    frame.loc[10, "loss"] = np.nan
    assert importance(frame, SPACE).trials == 29


def test_marginal_effects_are_those_of_the_function_behind_the_losses():
    effects = marginal_effects(made(300), SPACE)
    assert list(effects.columns) == ["setting", "value", "loss", "low", "high", "trials"]
    rates = effects[effects["setting"] == "learning_rate"]
    assert rates["value"][rates["loss"].idxmin()] == pytest.approx(3e-3, rel=0.6)
    choice = effects[effects["setting"] == "activation"].set_index("value")
    assert choice["loss"]["none"] - choice["loss"]["elu"] == pytest.approx(0.4, abs=0.1)
    assert choice["high"]["elu"] < choice["low"]["none"]
    assert choice["trials"].sum() == 300
    for _, own in effects[effects["setting"] != "momentum"].groupby("setting"):
        assert own["trials"].sum() == 300


def test_settings_that_matter_only_together_are_found():
    frame = made(300)
    even = frame["window_size"] > 20
    frame["loss"] = np.where(even == (frame["activation"] == "elu"), 1.0, 2.0)
    frame["loss"] += np.random.default_rng(3).normal(0, 0.05, len(frame))
    table = interactions(frame, SPACE).table
    assert (table["first"][0], table["second"][0]) == ("activation", "window_size")
    assert table["clear"][0]
    assert not table["clear"][1:].any()
    surface = pair_effect(frame, SPACE, "activation", "window_size")
    assert list(surface.index) == ["none", "elu", "tanh"]
    assert surface.loc["elu"].iloc[-1] < surface.loc["elu"].iloc[0] - 0.5
    with pytest.raises(ValueError, match="no trials of this study vary learning_rate and norm"):
        pair_effect(frame, SPACE, "learning_rate", "norm")


def test_a_forest_taken_apart_is_its_average_over_every_point_of_the_grid():
    rows = [Parameter("a", "choice", choices=("x", "y", "z")), Parameter("b", "int", 1, 5),
            Parameter("c", "logint", 1, 4)]  # fmt: skip
    cells, draw = Cells(rows), np.random.default_rng(0)
    every = pd.DataFrame(itertools.product("xyz", range(1, 6), range(1, 5)), columns=list("abc"))
    seen = every.sample(40, random_state=1)
    losses = draw.normal(size=len(seen))
    found = grow(cells, cells.encode(seen), losses, trees=1, seed=0)

    from sklearn.tree import DecisionTreeRegressor

    pick = np.random.default_rng(0).integers(40, size=40)
    tree = DecisionTreeRegressor(max_depth=6, random_state=0)
    tree.fit(cells.encode(seen)[pick], losses[pick])
    every["loss"] = tree.predict(cells.encode(every))
    width = {k: np.log((k + 0.5) / (k - 0.5)) for k in range(1, 5)}
    every["weight"] = every["c"].map(width)

    def mean(part):
        return np.average(part["loss"], weights=part["weight"])

    curves = [every.groupby(name, sort=False)[["loss", "weight"]].apply(mean) for name in "abc"]
    np.testing.assert_allclose(found.curve, np.concatenate(curves))
    total = np.average((every["loss"] - mean(every)) ** 2, weights=every["weight"])
    shares = np.array([1 / 3] * 3), np.array([0.2] * 5), np.array([*width.values()]) / np.log(9)
    alone = [w @ (c - mean(every)) ** 2 / total for w, c in zip(shares, curves, strict=True)]
    np.testing.assert_allclose(found.alone, alone)
    whole = found.alone.sum() + found.together[np.triu_indices(3, 1)].sum()
    assert 0.5 < whole < 1.0 - 1e-3  # the rest is all three together


def test_shares_are_near_those_of_optunas_fanova():
    rows = [Parameter(name, "uniform", 0.0, 1.0) for name in "abc"]
    frame = pd.DataFrame(np.random.default_rng(2).uniform(size=(300, 3)), columns=list("abc"))
    frame["loss"] = (frame["a"] - 0.3) ** 2 * 4 + 0.5 * frame["b"] + frame["a"] * frame["c"]
    frame = frame.assign(state="COMPLETE", least_loss=frame["loss"])
    study = optuna.create_study()
    ranges = dict.fromkeys("abc", optuna.distributions.FloatDistribution(0.0, 1.0))
    study.add_trials(
        [
            optuna.create_trial(params=dict(row[list("abc")]), distributions=ranges, value=row.loss)
            for _, row in frame[["a", "b", "c", "loss"]].iterrows()
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(max_depth=6, seed=0)
    theirs = evaluator.evaluate(study)
    table = importance(frame, Space("numbers", tuple(rows))).table.set_index("setting")["share"]
    for name in "abc":
        assert table[name] == pytest.approx(theirs[name], abs=0.05)
