"""The service that chaos befalls: mongod, proxy, workers and feeders as users run them."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from tests.trials_tests.working import hears_sigterm

ROOT = Path(__file__).parents[2]
WORKERS, FEEDERS = 6, 2
LEASE_SECONDS, HEARTBEAT_SECONDS = 3.0, 0.5
IMPATIENCE = "socketTimeoutMS=1500&connectTimeoutMS=1000&serverSelectionTimeoutMS=1000"
WORKER = ["worker", "--slots", "1", "--device", "cpu", "--heartbeat", str(HEARTBEAT_SECONDS)]
ALLOW = ["--allow-objective", "tests.chaos.objective:known"]


class Service:
    """Starts everything, and starts again what died, as a service manager does."""

    def __init__(self, folder, mongod, proxy):
        self.log = folder / "service.log"
        self.mongod = mongod
        self.proxy = proxy
        self._mark = f"LARNN_CHAOS={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self._environment = {
            **os.environ,
            name: value,
            "PYTHONPATH": str(ROOT),
            "LARNN_MONGO_URI": self.proxy.uri(IMPATIENCE),
        }
        lease = ["--lease", str(LEASE_SECONDS)]
        self._commands = [[*WORKER, *ALLOW, *lease]] * WORKERS + [["feed", *lease]] * FEEDERS
        self._processes = [self._start(command) for command in self._commands]

    @property
    def workers(self):
        return self._processes[:WORKERS]

    @property
    def feeders(self):
        return self._processes[WORKERS:]

    def _start(self, command):
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "search", *command],
                cwd=ROOT, env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip

    def tend(self):
        """Start again what has ended."""
        for i, process in enumerate(self._processes):
            if process.poll() is not None:
                self._processes[i] = self._start(self._commands[i])

    def running(self):
        """Process ids of all that the service ever started and that has not ended."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark.encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:  # it ended meanwhile
                continue
        return found

    def hears(self):
        """Whether all that run have come so far that they leave in good order when told to."""
        return all(hears_sigterm(process.pid) for process in self._processes)

    def leave(self, seconds=60):
        """Tell all to leave; their exit statuses, None for one that does not."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        statuses = []
        for process in self._processes:
            try:
                statuses.append(process.wait(max(0.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                statuses.append(None)
        return statuses

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.kill()
            process.wait()
