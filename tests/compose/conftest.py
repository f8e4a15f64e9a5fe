from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.compose.stack import COMPOSE_COMMANDS, ROOT, Stack, answers, engine_problem


@pytest.fixture(scope="session", params=COMPOSE_COMMANDS, ids=" ".join)
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """All services, built and up; removed with their volumes afterwards."""
    if problem := engine_problem():
        pytest.skip(problem)
    if not answers([*request.param, "version"]):
        pytest.skip(f"this machine has no {' '.join(request.param)}")
    secrets = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run(["make", "secrets", f"SECRETS_DIR={secrets}"], cwd=ROOT, check=True)
    stack = Stack(request.param, secrets)
    try:
        stack.compose("build", timeout=1800)
        stack.compose("up", "-d")
        yield stack
        if request.session.testsfailed:
            capture = request.config.pluginmanager.get_plugin("capturemanager")
            with capture.global_and_fixture_disabled():
                print(stack.compose("logs", "--no-color", "--tail", "40"))
    finally:
        stack.compose("down", "-v", "--remove-orphans")
