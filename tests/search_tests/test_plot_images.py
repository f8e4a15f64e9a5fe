"""Figures against pictures that were looked at: tests/search_tests/baseline.

After a wanted change: pytest tests/search_tests/test_plot_images.py \
    --mpl-generate-path=tests/search_tests/baseline, then look at each.
"""

import numpy as np
import pandas as pd
import pytest

from search import plot_inside, plots, results
from search.importance import Importance
from search.space import Space
from tests.search_tests.sample_study import sample_study, sample_trials

SPACE = Space.from_dict(sample_study().spec.space)
compared = pytest.mark.mpl_image_compare(
    baseline_dir="baseline", style="default", savefig_kwargs={"dpi": 60}, tolerance=1
)


@compared
@pytest.mark.parametrize("kind", [kind for kind in plots.KINDS if kind != "importance"])
def test_study(kind):
    trials = sample_trials(60, running=3)
    frame = results.trials_frame(trials, sample_study())
    return plots.KINDS[kind].draw(frame, results.reports_frame(trials), SPACE)


@compared
def test_importance():
    table = pd.DataFrame(
        [("learning_rate", 0.42, 0.31, 0.55), ("norm", 0.2, 0.08, 0.33), ("mode", 0.01, 0.0, 0.04)],
        columns=["setting", "share", "low", "high"],
    )
    return plots.setting_importance(
        Importance(table, 0.12, "fanova", 61, "61 trials are too few, say")
    )


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
    return plot_inside.attention_maps(made_attention(), signal, 0.04, "body-acc-x")


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
    ablation = pd.DataFrame({"window_size": [1, 2, 4, 7], "accuracy": [0.81, 0.84, 0.9, 0.91]})
    return plot_inside.window_ablation_curve(ablation, 0.04)
