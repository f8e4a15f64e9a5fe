"""What acceptance tests share with those of the queue."""

from tests.trials_tests.conftest import mongo_uri, small_disk, state_dir

__all__ = ["mongo_uri", "small_disk", "state_dir"]
