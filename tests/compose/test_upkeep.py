"""What docs/deploy.md tells to do now and then: backup, restore, upgrade, other passwords."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.documents import command_lines
from tests.compose.stack import ROOT, Stack
from trials.errors import StoreUnavailableError
from trials.mongo_store import MongoStore

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]


def told(*words: str) -> Iterator[list[str]]:
    """Arguments of the document's `docker compose run` lines that have these words."""
    for line in command_lines(ROOT / "docs" / "deploy.md"):
        if line[:3] == ["docker", "compose", "run"] and set(words) <= set(line):
            yield ["run", "-T", *line[3:]]


def test_a_backup_is_restored_into_an_empty_volume(stack: Stack, tmp_path: Path) -> None:
    save, restore = (
        [word.replace("$PWD", str(tmp_path)) for word in line] for line in told("tar", "mongo")
    )
    stack.search("launch", "--study", "kept", "--data", "har", "--max-trials", "1", "--no-wait")
    stack.compose("stop")
    stack.compose(*save)
    stack.compose("down", "-v")
    stack.compose(*restore)
    stack.compose("up", "-d")
    studies = {study["study"] for study in json.loads(stack.search("studies", "--json"))}
    assert "kept" in studies
    stack.search("cancel", "kept", "--yes")


def test_the_database_is_upgraded(stack: Stack) -> None:
    (upgrade,) = told("mongo-init", "upgrade")
    stack.compose("stop", "worker", "feeder")
    assert "schema" in stack.compose(*upgrade)
    stack.compose("up", "-d")


def test_a_password_is_changed(stack: Stack) -> None:
    former = stack.secret("worker_password")
    (stack.secrets / "worker_password").unlink()
    subprocess.run(["make", "secrets", f"SECRETS_DIR={stack.secrets}"], cwd=ROOT, check=True)
    stack.compose("up", "-d", "--force-recreate")
    with stack.store("worker") as store:
        assert isinstance(store.list_studies(), list)
    with pytest.raises(StoreUnavailableError):
        MongoStore(f"mongodb://worker@127.0.0.1:{stack.mongo_port}/larnn_search", password=former)
