import sys

import numpy as np
import pandas as pd
import pytest

from search.importance import FEW_TRIALS, importance
from search.parameter import Parameter
from search.plot_effects import setting_importance
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
    return pd.DataFrame(
        {
            "number": range(count),
            "state": "COMPLETE",
            "loss": loss + draw.normal(0, noise, count),
            "learning_rate": rate,
            "activation": activation,
            "window_size": draw.integers(1, 41, count),
            "momentum": np.where(activation == "elu", draw.uniform(0, 1, count), np.nan),
        }
    )


@pytest.mark.parametrize(("method", "count"), [("fanova", 70), ("ped-anova", 250)])
def test_the_setting_that_decides_comes_first_and_is_clear(method, count):
    found = importance(made(count), SPACE, method=method, resamples=8)
    assert found.table["setting"][0] == "learning_rate"
    assert "learning_rate" in found.clear
    assert "window_size" not in found.clear
    assert found.warning == ""
    assert (found.table["low"] <= found.table["share"]).all()
    assert (found.table["share"] <= found.table["high"]).all()


def test_shares_of_fanova_are_parts_of_one_variance_and_conditional_settings_are_left_out():
    found = importance(made(50), SPACE, resamples=2)
    assert 0.5 < found.table["share"].sum() <= 1.0
    assert list(found.table["setting"]) == ["learning_rate", "activation", "window_size"]


def test_nothing_is_clear_where_losses_are_noise():
    frame = made(60)
    frame["loss"] = np.random.default_rng(1).normal(1, 0.1, len(frame))
    assert importance(frame, SPACE, resamples=8).clear == []


def test_one_diverged_trial_decides_nothing():
    frame = made(60)
    before = importance(frame, SPACE, resamples=2).table.set_index("setting")["share"]
    frame.loc[5, "loss"] = 1e6
    after = importance(frame, SPACE, resamples=2).table.set_index("setting")["share"]
    assert after["learning_rate"] > 0.5 * before["learning_rate"]


def test_equal_seeds_give_equal_shares():
    once, again = (importance(made(40), SPACE, resamples=3).table for _ in range(2))
    pd.testing.assert_frame_equal(once, again)


def test_few_trials_are_warned_of_and_fewer_refused():
    found = importance(made(FEW_TRIALS - 1), SPACE, resamples=2)
    assert "too few to rank settings" in found.warning
    assert found.warning in [text.get_text() for text in setting_importance(found).texts]
    with pytest.raises(ValueError, match="at least 8 COMPLETE trials, found 7"):
        importance(made(7), SPACE)


def test_only_complete_trials_with_a_finite_loss_count():
    frame = made(40)
    frame.loc[:9, "state"] = "PRUNED"
    frame.loc[10, "loss"] = np.nan
    assert importance(frame, SPACE, resamples=2).trials == 29


def test_without_optuna_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"larnn-search\[analysis\]"):
        importance(made(20), SPACE)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="fanova, ped-anova, got 'guess'"):
        importance(made(20), SPACE, method="guess")
