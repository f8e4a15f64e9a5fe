"""What acceptance tests share with those of the queue."""

import pytest

from tests.trials_tests.conftest import mongo_store, mongo_uri, small_disk, state_dir

__all__ = ["mongo_store", "mongo_uri", "small_disk", "state_dir", "store"]


@pytest.fixture
def store(mongo_store):
    """A store in a database of its own, on the run's server."""
    return mongo_store
