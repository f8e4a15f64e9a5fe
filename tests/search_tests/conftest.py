"""A real mongod for the commands that need one."""

import pytest

from search.cli import run_command
from tests.trials_tests.conftest import mongo_store, mongo_uri

__all__ = ["database", "larnn", "mongo_store", "mongo_uri"]


@pytest.fixture
def database(mongo_uri, mongo_store, monkeypatch):
    """An empty database that commands of this process use: its store."""
    uri = mongo_uri.replace("larnn_search", mongo_store.database.name)
    monkeypatch.setenv("LARNN_MONGO_URI", uri)
    return mongo_store


@pytest.fixture
def larnn(capsys, monkeypatch):
    """Run a command line in this process; returns what it printed, and complained."""
    monkeypatch.setenv("LARNN_BACKEND", "")  # --backend sets it for good: undone with the test
    monkeypatch.delenv("LARNN_BACKEND")

    def run(*arguments, status=0):
        found = run_command([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert found == status, said.err
        return said.out if status == 0 else said.err

    return run
