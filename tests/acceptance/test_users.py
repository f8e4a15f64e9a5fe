"""`larnn-search mongo users` on a server that asks for a login: who may do what afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient

from tests.acceptance.servers import Mongod
from trials.errors import StoreUnavailableError
from trials.mongo_store import MongoStore
from trials.store import NewTrial
from trials.study import StudySpec
from trials.trial import Outcome, TrialState

ROOT_PASSWORD = "the administrator's"  # noqa: S105  # of a server that lives for this test
SPEC = StudySpec("s", "objectives:fine", {"name": "x", "rows": []})

pytestmark = pytest.mark.mongo


class Server:
    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder
        self.passwords = {"worker": "a long enough one", "reader": "another long one"}

    def make_users(self) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        for name, password in {"root": ROOT_PASSWORD, **self.passwords}.items():
            (self.folder / name).write_text(password + "\n")
            key = "LARNN_MONGO" if name == "root" else f"LARNN_{name.upper()}"
            environment[f"{key}_PASSWORD_FILE"] = str(self.folder / name)
        uri = f"mongodb://root@{self.address}/larnn_search?authSource=admin"
        return subprocess.run(
            [sys.executable, "-m", "search", "mongo", "users"],
            env=environment | {"LARNN_MONGO_URI": uri},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def store(self, user: str) -> MongoStore:
        uri = f"mongodb://{user}@{self.address}/larnn_search"
        return MongoStore(uri, password=self.passwords[user], retry_for_s=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("users")
    with Mongod(folder / "db", "--auth") as mongod:
        with MongoClient(mongod.address) as client:
            # The first user may be made without a login, from this machine.
            client.admin.command("createUser", "root", pwd=ROOT_PASSWORD, roles=["root"])
        server = Server(mongod.address, folder)
        done = server.make_users()
        assert (done.returncode, done.stderr) == (0, "")
        yield server


def test_the_worker_has_what_the_queue_needs(server: Server) -> None:
    with server.store("worker") as store:
        store.create_study(SPEC)
        assert store.acquire_feeder("s", "f")
        store.add_trials("s", "f", 0, [NewTrial({"x": 1.0}, seed=0)])
        trial = store.reserve("s", "w", "h", "token")
        assert trial is not None
        store.beat(trial.claim)
        store.save_blob(trial.claim, "checkpoint", b"bytes")
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, loss=0.5))
        assert store.counts("s")[TrialState.COMPLETE] == 1
        store.delete_study("s")


def test_the_reader_reads_and_changes_nothing(server: Server) -> None:
    with server.store("worker") as store:
        store.create_study(SPEC)
    with server.store("reader") as store:
        assert [study.name for study in store.list_studies()] == ["s"]
        assert store.list_trials("s") == []
        assert store.unfed_studies() == ["s"]
        with pytest.raises(StoreUnavailableError, match="does not allow this user"):
            store.acquire_feeder("s", "f")


@pytest.mark.parametrize("user", ["worker", "reader"])
def test_neither_goes_beyond_the_queue(server: Server, user: str) -> None:
    with server.store(user) as store:
        for change in (
            lambda: store.database.client["elsewhere"]["things"].insert_one({}),
            lambda: store.database["trials"].drop(),
            lambda: store.database.command("createRole", "x", privileges=[], roles=[]),
        ):
            with pytest.raises(Exception, match="not authorized"):
                change()


def test_made_again_they_have_their_new_passwords(server: Server) -> None:
    old = dict(server.passwords)
    server.passwords["worker"] = "yet another long one"
    assert server.make_users().stdout == "users worker and reader are ready\n"
    server.store("worker").close()
    server.passwords, new = old, server.passwords
    with pytest.raises(StoreUnavailableError, match="refuses the login"):
        server.store("worker")
    server.passwords = new


@pytest.mark.parametrize(
    ("password", "rule"),
    [("short", "at least 12 characters"), ("another long one", "of their own")],
)
def test_weak_passwords_are_refused(server: Server, password: str, rule: str) -> None:
    good = server.passwords["worker"]
    server.passwords["worker"] = password
    done = server.make_users()
    server.passwords["worker"] = good
    assert done.returncode == 2
    assert rule in done.stderr
    assert password not in done.stderr
