"""What tests of workers share: studies to run, a worker in a thread, waiting with a deadline."""

import contextlib
import os
import re
import signal
import threading
import time
from pathlib import Path

from tests.trials_tests import objectives
from trials.settings import Stop, WorkerSettings
from trials.store import NewTrial
from trials.study import StudySpec
from trials.worker import Worker

ALLOWED = [
    f"{objectives.HERE}:{name}"
    for name in (
        "square",
        "sleepy",
        "misbehave",
        "steps",
        "look_around",
        "meets",
        "spawns",
        "needs_health",
    )
]


def eventually(condition, timeout_s=90.0):
    """Wait until ``condition()`` is truthy and return it; fail when it takes too long.

    The time is for a machine that is busy with other things; nothing waits it out.
    """
    deadline, pause_s = time.monotonic() + timeout_s, 0.005
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(pause_s)
        pause_s = min(1.3 * pause_s, 0.05)  # asking takes the core from those who are waited for
    return found


def promised(seconds):
    """Within how many seconds we promise to obey; more on a machine that is busier than it can be.

    The promise is for a worker that gets a core when it needs one.
    """
    lately, _, _, now, _ = Path("/proc/loadavg").read_text().split()
    return seconds * max(1.0, max(float(lately), int(now.partition("/")[0])) / os.cpu_count())


def is_alive(pid):
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children(pid):
    """Process ids of its children, all threads'; empty once it has ended."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in path.read_text().split()]
    return found


def hears_sigterm(pid):
    """Whether a process has come so far that it ends by itself when told to."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def add_study(store, objective, params, name="s", **settings):
    """Create a study of one of our objectives with a WAITING trial for each of ``params``."""
    spec = StudySpec(
        name=name,
        objective=objective if ":" in objective else f"{objectives.HERE}:{objective}",
        space={"name": "test", "rows": []},
        **settings,
    )
    study = store.create_study(spec)
    store.add_trials(name, None, 0, [NewTrial(p, seed=i) for i, p in enumerate(params)])
    return study


def finished(store, name="s"):
    """The study's trials once all of them have finished, else None."""
    trials = store.list_trials(name)
    return trials if all(trial.state.is_finished for trial in trials) else None


class RunningWorker:
    """A worker in a thread, stopped when the block ends."""

    def __init__(self, store, clock=time.monotonic, **settings):
        settings = {"objectives": ALLOWED, "lease_s": 30.0, "heartbeat_s": 0.05} | settings
        self.worker = Worker(store, WorkerSettings(**settings), clock)
        self.error = None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.worker.run()
        except Exception as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.worker.stop(Stop.AT_ONCE)
        self.thread.join(20)
        assert not self.thread.is_alive()
