from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.stack import ROOT, Stack, available_composes, engine_problem


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services, built and up; removed with their volumes afterwards."""
    if problem := engine_problem():
        pytest.skip(problem)
    secrets: Path = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run(["make", "secrets", f"SECRETS_DIR={secrets}"], cwd=ROOT, check=True)
    stack = Stack(available_composes()[0], secrets)
    try:
        stack.compose("build", timeout=1800)
        stack.compose("up", "-d")
        yield stack
    finally:
        print(stack.compose("logs", "--no-color", "--tail", "40"))
        stack.compose("down", "-v", "--remove-orphans")
