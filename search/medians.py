"""Medians with bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000


def median_interval(values: Floats, *, seed: int = 0) -> tuple[float, float]:
    """The 90 % bootstrap interval of the median."""
    low, high = np.quantile(_medians(values, np.random.default_rng(seed)), [0.05, 0.95])
    return float(low), float(high)


def median_difference(
    first: pd.Series[float], second: pd.Series[float], *, seed: int = 0
) -> tuple[float, float, float]:
    """How much higher the median of ``first`` is, with its 95 % bootstrap interval."""
    draw = np.random.default_rng(seed)
    a, b = (np.asarray(one.dropna(), dtype=np.float64) for one in (first, second))
    low, high = np.quantile(_medians(a, draw) - _medians(b, draw), [0.025, 0.975])
    return float(np.median(a) - np.median(b)), float(low), float(high)


def _medians(values: Floats, draw: np.random.Generator) -> Floats:
    medians: Floats = np.median(draw.choice(values, (RESAMPLES, len(values))), axis=1)
    return medians
