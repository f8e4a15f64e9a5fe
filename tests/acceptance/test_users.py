"""`larnn-search mongo users` again, and with bad passwords; test_security.py: who may do what."""

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

ROOT_PASSWORD = "the administrator's"  # noqa: S105  # of a server that lives for this test

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
