"""A real mongod for the commands that need one."""

import uuid

import pytest

from search.cli import run_command
from tests.trials_tests.conftest import mongo_uri  # noqa: F401  # the fixture
from trials.mongo_store import MongoStore


@pytest.fixture
def database(mongo_uri, monkeypatch):  # noqa: F811  # the fixture
    """An empty database that commands of this process use; yields its store."""
    name = f"test_{uuid.uuid4().hex}"
    uri = f"{mongo_uri.rpartition('/')[0]}/{name}"
    monkeypatch.setenv("LARNN_MONGO_URI", uri)
    with MongoStore(uri, retry_for_s=2) as store:
        yield store
        store.database.client.drop_database(name)


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
