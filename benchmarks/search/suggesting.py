"""What a suggestion costs: ``python -m benchmarks.search.suggesting [TRIALS ...]``.

Random finished trials of the `card` space, of which each was read once before, as in a feeder.
Milliseconds of processor time, the median of nine suggestions.
"""

from __future__ import annotations

import statistics
import sys
import time
from datetime import UTC, datetime

import numpy as np
from hyperopt.pyll.stochastic import sample

from search.named_spaces import NAMED_SPACES
from search.suggest import Suggester, hyperopt_space
from trials.trial import Trial, TrialState

SIZES = (100, 1_000, 10_000)
SPACE = NAMED_SPACES["card"]


def milliseconds(count: int) -> float:
    """Of one suggestion after ``count`` finished trials."""
    now, rng = datetime.now(UTC), np.random.default_rng(0)
    draws = [sample(hyperopt_space(SPACE), rng) for _ in range(200)]
    trials = [
        Trial(
            "s", n, TrialState.COMPLETE, {**draws[n % 200], "dropout": n / (2 * count)}, 0, now,
            loss=float(rng.random()),
        )
        for n in range(count)
    ]  # fmt: skip
    suggester = Suggester(SPACE)
    suggester.suggest(trials, 1)
    times = []
    for _ in range(9):
        started = time.process_time()
        suggester.suggest(trials, 1)
        times.append(1e3 * (time.process_time() - started))
    return statistics.median(times)


def main() -> None:
    """Print a line for each size."""
    for count in [int(size) for size in sys.argv[1:]] or SIZES:
        print(f"{count:>7} trials: {milliseconds(count):.0f} ms")


if __name__ == "__main__":
    main()
