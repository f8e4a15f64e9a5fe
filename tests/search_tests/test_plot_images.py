"""Figures against pictures that were looked at: tests/search_tests/baseline.

After a wanted change: pytest tests/search_tests/test_plot_images.py \
    --mpl-generate-path=tests/search_tests/baseline, then look at each.
"""

import numpy as np
import pandas as pd
import pytest

from search import plot_effects, plot_inside, plots
from search.figure_kinds import kinds_of
from search.importance import Importance
from search.source import StudyData
from search.space import Space
from tests.search_tests.sample_study import sample_study, sample_trials

SPACE = Space.from_dict(sample_study().spec.space)
compared = pytest.mark.mpl_image_compare(
    baseline_dir="baseline", style="default", savefig_kwargs={"dpi": 60}, tolerance=1
)


FORESTS = ("importance", "effects", "interactions")  # below, of tables: forests may grow otherwise


@compared
@pytest.mark.parametrize("kind", [kind for kind in kinds_of("search") if kind not in FORESTS])
def test_study(kind):
    return plots.draw(kind, StudyData(sample_study(), tuple(sample_trials(60, running=3))))


@compared
def test_again():
    columns = ("settings", "losses", "loss_interval", "ratio_mean", "ratio_interval")
    given = [
        ("as chosen", [0.12, 0.15], (0.11, 0.165), None, None),
        ("window_size=1", [0.13, 0.152], (0.115, 0.172), 1.05, (0.8, 1.3)),
        ("cell=lstm", [0.3, 0.31], (0.25, 0.37), 2.3, (1.7, 3.1)),
        ("norm=${layer", [0.07, 0.08], (0.06, 0.09), 0.55, (0.4, 0.8)),
    ]
    rows = [dict(zip(columns, row, strict=True)) for row in given]
    rows = [{**row, "loss_mean": np.mean(row["losses"]), "diverged": 0} for row in rows]
    lost = dict.fromkeys((*columns, "loss_mean"))
    lost |= {"settings": "attention_rate_factor=1", "losses": [0.21], "diverged": 1, "trainings": 2}
    return plots.settings_again([*rows, lost], "validation loss (nats)")


def weighed(names, warning=""):
    """Three settings, or pairs of settings, of which the first is clear."""
    columns = ["share", "low", "high", "trials", "clear"]
    rows = [(0.42, 0.31, 0.55, 61, True), (0.2, 0.08, 0.33, 61, False), (0.01, 0, 0.04, 24, False)]
    table = pd.concat([names, pd.DataFrame(rows, columns=columns)], axis=1)
    return Importance(table, 0.12, trials=61, pruned=9, warning=warning)


SETTINGS = pd.DataFrame({"setting": ["learning_rate", "norm", "decay_factor"]})


@compared
def test_importance():
    return plots.setting_importance(weighed(SETTINGS, "9 of 61 trials were pruned, say. " * 5))


@compared
def test_effects():
    rates, factors = np.geomspace(3e-4, 3e-2, 8), np.linspace(0.5, 0.95, 5)
    rows = [
        *(("learning_rate", rate, 0.3 + np.log10(rate / 4e-3) ** 2 / 3) for rate in rates),
        *(("norm", name, loss) for name, loss in [("layer", 0.4), ("batch", 0.45), ("none", 0.6)]),
        *(("decay_factor", factor, 0.45) for factor in factors),
    ]
    effects = pd.DataFrame(rows, columns=["setting", "value", "loss"])
    effects = effects.assign(low=effects["loss"] - 0.05, high=effects["loss"] + 0.08)
    return plots.marginal_effects(effects, weighed(SETTINGS), SPACE, "validation loss (nats)")


@compared
def test_interactions():
    pairs = pd.DataFrame(
        [("learning_rate", "norm"), ("norm", "mode"), ("decay_factor", "norm")],
        columns=["first", "second"],
    )
    surface = pd.DataFrame(
        np.linspace(0.3, 0.9, 24).reshape(8, 3) ** [1, 2, 3],
        index=pd.Index(np.geomspace(3e-4, 3e-2, 8), name="learning_rate"),
        columns=pd.Index(["layer", "batch", "none"], name="norm"),
    )
    return plots.setting_interactions(weighed(pairs), surface, SPACE, "validation loss (nats)")


def made_attention():
    """Two heads over 40 steps and 8 cells: one looks at the newest, one at the oldest."""
    weights = np.zeros((2, 40, 8))
    for step in range(40):
        filled = min(step + 1, 8)
        newest = 0.6 ** np.arange(filled)[::-1]
        weights[0, step, -filled:] = newest / newest.sum()
        weights[1, step, -filled:] = newest[::-1] / newest.sum()
    return weights


@compared
def test_attention_maps():
    signal = np.sin(np.arange(40) / 3)
    return plot_inside.attention_maps(made_attention(), signal, 0.04, "body-acc-x (g)")


@compared
def test_attention_by_age():
    return plot_inside.attention_by_age(made_attention()[None], 0.04)


GUESSES = pd.DataFrame(
    [
        (5, "walking", "walking"),
        (5, "sitting", "standing"),
        (5, "standing", "standing"),
        (5, "sitting", "sitting"),
        (5, "laying", "laying"),
        (7, "walking", "walking"),
        (7, "sitting", "sitting"),
        (7, "standing", "sitting"),
        (7, "laying", "laying"),
    ],
    columns=["person", "truth", "predicted"],
)


@compared
def test_confusion_matrix():
    return plot_inside.confusion_matrix(GUESSES)


@compared
def test_errors_by_person():
    return plot_inside.errors_by_person(GUESSES)


@compared
def test_window_ablation():
    ablation = pd.DataFrame({"window_size": [1, 2, 4, 7], "accuracy": [0.93, 0.931, 0.9304, 0.934]})
    ablation = ablation.assign(
        low=ablation["accuracy"] - 0.012, high=ablation["accuracy"] + 0.011, sequences=1767
    )
    return plot_inside.window_ablation_curve(ablation, 0.04)


@compared
def test_accuracy_by_group():
    draw = np.random.default_rng(0)
    spread = {"the author: round 1": (0.8, 0.05, 9), "ours": (0.93, 0.004, 60)}
    values = {name: draw.normal(at, by, n) for name, (at, by, n) in spread.items()}
    frame = pd.concat({k: pd.Series(v) for k, v in values.items()}, names=["source"])
    frame = frame.rename("accuracy").reset_index("source")
    return plot_effects.accuracy_by_group(frame, "source", "accuracy", "accuracy")
