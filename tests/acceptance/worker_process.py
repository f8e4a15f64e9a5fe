"""Commands as processes of their own.

Run by itself, a worker with a short lease: ``URI DATABASE SETTINGS-AS-JSON``.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import uuid
from pathlib import Path

from tests.trials_tests.objectives import HERE
from tests.trials_tests.working import ALLOWED
from trials.mongo_store import MongoStore
from trials.worker import WorkerSettings, run_worker

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def started_worker(uri, database, folder, *, variables=None, **settings):
    """A worker that runs while the block does; ``log()`` is what it said.

    ``variables`` are put into its environment.
    """
    path = folder / f"worker-{uuid.uuid4().hex}.log"
    command = [sys.executable, "-m", __name__, uri, database, json.dumps(settings)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
    with path.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    process.log = path.read_text
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def search_process(uri, folder, *arguments):
    """The command line on a server, in a folder of its own; killed in the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LARNN_MONGO_URI": uri}
    with (folder / "said").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "search", *arguments],
            cwd=folder, env=environment, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def own_objective(name, folder):
    """Arguments of a search by one of the tests' objectives."""
    (folder / "line.toml").write_text('[x]\ntype = "uniform"\nlow = 0.0\nhigh = 1.0\n')
    return ["--objective", f"{HERE}:{name}", "--space", str(folder / "line.toml")]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    uri, database, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    with MongoStore(uri, database, retry_for_s=settings.pop("retry_for_s", 5)) as store:
        received = run_worker(store, WorkerSettings(objectives=ALLOWED, **settings))
    print("left after", received)
