"""The shipped compose file, run as a user runs it, under a name, ports and secrets of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.ports import free_port
from trials.mongo_store import MongoStore

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_COMMANDS = (["docker", "compose"], ["docker-compose"])


def answers(command: Sequence[str]) -> bool:
    """Whether a program is here, and has something to say within half a minute."""
    if not shutil.which(command[0]):
        return False
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=30)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True


def engine_problem() -> str | None:
    """Why the compose file cannot be run here; None when it can."""
    if not shutil.which("docker"):
        return "no docker command on this machine"
    if not answers(["docker", "version"]):
        return f"no Docker engine answers at {os.environ.get('DOCKER_HOST', 'its usual place')}"
    return None


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Ask until ``condition`` gives something true; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.25)
    return found


class Stack:
    """One project of docker-compose.yml."""

    def __init__(self, compose: Sequence[str], secrets: Path) -> None:
        self.project = f"larnn-test-{os.getpid()}"
        self.secrets = secrets
        self.mongo_port, self.notebook_port = free_port(), free_port()
        self._compose = [*compose, "-p", self.project]
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("LARNN_")},
            "LARNN_IMAGE": "larnn-search-test",
            "SECRETS_DIR": str(secrets),
            "MONGO_PORT": str(self.mongo_port),
            "NOTEBOOK_PORT": str(self.notebook_port),
            "WORKERS": "2",
            "WORKER_CPUS": "1",
        }

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text(encoding="ascii")

    def compose(self, *arguments: str, timeout: float = 900) -> str:
        """Run a compose command and return what it printed."""
        return _run([*self._compose, *arguments], self._environment, timeout)

    def search(self, *arguments: str) -> str:
        """`docker compose run --rm search ...`."""
        return self.compose("run", "--rm", "-T", "search", *arguments)

    def docker(self, *arguments: str) -> str:
        return _run(["docker", *arguments], self._environment, 300)

    def containers(self, service: str, *, running: bool = True) -> list[str]:
        """Ids of a service's containers."""
        found = self.docker(
            "ps", "-q", "--no-trunc", *([] if running else ["-a"]),
            "--filter", f"label=com.docker.compose.project={self.project}",
            "--filter", f"label=com.docker.compose.service={service}",
        )  # fmt: skip
        return found.split()

    def inspect(self, container: str) -> dict[str, Any]:
        (found,) = json.loads(self.docker("inspect", container))
        return dict(found)

    def is_healthy(self, service: str, count: int = 1) -> bool:
        containers = self.containers(service)
        states = [self.inspect(one)["State"].get("Health", {}).get("Status") for one in containers]
        return states == ["healthy"] * count

    def store(self, user: str = "reader") -> MongoStore:
        """The queue, through the port that is published on this machine."""
        return MongoStore(
            f"mongodb://{user}@127.0.0.1:{self.mongo_port}/larnn_search",
            password=self.secret(f"{user}_password"),
        )


def _run(command: Sequence[str], environment: dict[str, str], timeout: float) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{said}"
    return done.stdout
