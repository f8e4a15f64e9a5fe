"""A worker as a process of its own, with a short lease: ``URI DATABASE SETTINGS-AS-JSON``."""

import json
import logging
import sys

from tests.trials_tests.working import ALLOWED
from trials.mongo_store import MongoStore
from trials.worker import run_worker

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    uri, database, settings = sys.argv[1:]
    with MongoStore(uri, database, retry_for_s=5) as store:
        received = run_worker(store, objectives=ALLOWED, **json.loads(settings))
    print("left after", received)
