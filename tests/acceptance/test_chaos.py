"""A short storm; ``make chaos`` blows for ten minutes."""

import random

import pytest

from tests.chaos.storm import DECK, run
from tests.trials_tests.conftest import server_folder
from trials.trial import FailureKind

SECONDS = 60


@pytest.mark.mongo
@pytest.mark.timeout(480)
def test_nothing_is_lost_done_twice_or_left_running_whatever_breaks():
    seed = random.randrange(10**6)
    print(f"python -m tests.chaos {SECONDS} {seed}")  # shown when it fails
    with server_folder() as folder:
        told = run(folder, SECONDS, max_trials=40, seed=seed)
    # It was a storm: trials finished all the same, though workers, children and more were killed.
    assert sum(told["torments"].values()) >= 8
    assert set(told["torments"]) == set(DECK)
    # The fences were needed: leases ran out, and those who came back too late were refused.
    assert told["failures"].get(FailureKind.LOST_WORKER)
    assert told["refused results"]
