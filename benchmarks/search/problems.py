"""What the contenders search: surrogates of recorded trainings, and functions with known minima."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor

from benchmarks.search.record import EPOCHS, LOSSES, SETS, SETTINGS, SPACE_FILE, TABLE
from search.named_spaces import resolve
from search.parameter import Parameter
from search.space import Space

Params = Mapping[str, Any]
TREES = 64
WORST = 4.0
"""Losses are cut here: nearly twice that of guessing among nine classes."""


@dataclass(frozen=True)
class Problem:
    """A space, and what a trial of it would report."""

    name: str
    space: Space
    curve: Callable[[Params], list[float]]
    """The losses by epoch, deterministic; a function without epochs has one."""
    seconds: Callable[[Params], float]
    """How long a trial takes, beside chance."""
    epochs: int = 1


class Surrogate:
    """Learning curves for settings that were never trained: trees fitted to those that were.

    Extremely randomised trees on the logarithms of losses and seconds; ranges enter as they are
    sampled (logarithms of log ranges), choices one-hot. Deterministic.
    """

    def __init__(self, data: str) -> None:
        table = pd.read_csv(TABLE)
        table = table[table["data"] == data]
        self._space = resolve(str(SPACE_FILE))
        recorded = cast("list[Params]", table[[*SETTINGS]].to_dict("records"))
        features = np.array([self._features(params) for params in recorded])
        losses = table[[*LOSSES]].to_numpy()
        # Diverged is diverged: how far must not bend the trees where losses are good.
        losses = np.minimum(np.nan_to_num(losses, nan=np.inf), WORST)
        targets = np.log(np.column_stack([losses, table["seconds"]]))
        self.features, self.targets = features, targets
        self._trees = self.regressor().fit(features, targets)
        self._known: dict[tuple[float, ...], np.ndarray] = {}

    @staticmethod
    def regressor() -> ExtraTreesRegressor:
        """The regressor, not fitted."""
        return ExtraTreesRegressor(TREES, min_samples_leaf=2, random_state=0)

    def _features(self, params: Params) -> list[float]:
        made: list[float] = []
        for row in self._space.rows:
            value = params[row.name]
            if row.kind == "choice":
                made += [float(value == choice) for choice in row.choices]
            else:
                made.append(math.log(value) if row.is_log else float(value))
        return made

    def _predict(self, params: Params) -> np.ndarray:
        key = tuple(self._features(params))
        if key not in self._known:
            self._known[key] = np.exp(self._trees.predict([key])[0])
        return self._known[key]

    def curve(self, params: Params) -> list[float]:
        """Validation loss after each epoch."""
        return [float(loss) for loss in self._predict(params)[:-1]]

    def seconds(self, params: Params) -> float:
        """Seconds of the whole training, scaled to a training of about ten minutes."""
        return float(self._predict(params)[-1]) * 300


def branin(params: Params) -> float:
    """Three equal minima of 0.397887."""
    x, y, pi = params["x"], params["y"], math.pi
    valley = (y - (5.1 / (4 * pi**2)) * x**2 + 5 * x / pi - 6) ** 2
    return float(valley + 10 * (1 - 1 / (8 * pi)) * math.cos(x) + 10)


_HARTMANN_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
_HARTMANN_WEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])


def hartmann6(params: Params) -> float:
    """Six minima, the lowest -3.32237."""
    x = np.array([params[f"x{i}"] for i in range(6)])
    inner = (_HARTMANN_A * (x - _HARTMANN_P) ** 2).sum(axis=1)
    return float(-(_HARTMANN_WEIGHTS * np.exp(-inner)).sum())


def tree(params: Params) -> float:
    """A tree of conditions (Jenatton et al. 2017, section 4.1); its minimum is 0.1."""
    if params["x1"] == 0:
        leaf, offset = ("x4", 0.1) if params["x2"] == 0 else ("x5", 0.2)
        return float(params[leaf] ** 2 + offset + params["r8"])
    leaf, offset = ("x6", 0.3) if params["x3"] == 0 else ("x7", 0.4)
    return float(params[leaf] ** 2 + offset + params["r9"])


def _flip(name: str, **when: int) -> Parameter:
    return Parameter(name, "choice", choices=(0, 1), when=when)


_BRANIN = Space("branin", (Parameter("x", "uniform", -5, 10), Parameter("y", "uniform", 0, 15)))
_HARTMANN = Space("hartmann6", tuple(Parameter(f"x{i}", "uniform", 0, 1) for i in range(6)))
_TREE = Space(
    "tree",
    (
        _flip("x1"),
        _flip("x2", x1=0),
        _flip("x3", x1=1),
        Parameter("x4", "uniform", -1, 1, when={"x2": 0}),
        Parameter("x5", "uniform", -1, 1, when={"x2": 1}),
        Parameter("x6", "uniform", -1, 1, when={"x3": 0}),
        Parameter("x7", "uniform", -1, 1, when={"x3": 1}),
        Parameter("r8", "uniform", 0, 1, when={"x1": 0}),
        Parameter("r9", "uniform", 0, 1, when={"x1": 1}),
    ),
)
_FUNCTIONS = {
    "branin": (_BRANIN, branin),
    "hartmann6": (_HARTMANN, hartmann6),
    "tree": (_TREE, tree),
}
MINIMA = {"branin": 0.397887, "hartmann6": -3.32237, "tree": 0.1}
NAMES = (*SETS, *_FUNCTIONS)


@functools.cache
def load(name: str) -> Problem:
    """The problem of one of `NAMES`."""
    if name in SETS:
        surrogate = Surrogate(name)
        space = resolve(str(SPACE_FILE))
        return Problem(name, space, surrogate.curve, surrogate.seconds, EPOCHS)
    space, function = _FUNCTIONS[name]
    return Problem(name, space, lambda params: [function(params)], lambda _: 600.0)
