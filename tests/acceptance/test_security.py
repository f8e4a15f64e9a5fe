"""A database that asks for TLS and a login: who may do what, and where a password never shows."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bson import json_util
from pymongo.errors import OperationFailure

from tests.acceptance.servers import Mongod
from tests.trials_tests.conftest import server_folder
from tests.trials_tests.working import add_study, eventually, finished
from trials.connect import connect
from trials.errors import StoreUnavailableError
from trials.mongo_store import MongoStore
from trials.trial import TrialState

pytestmark = pytest.mark.mongo
ROOT = Path(__file__).parents[2]
PASSWORDS = {
    "root": "correct-horse-root",
    "worker": "battery-staple-worker",
    "reader": "look-but-do-not-touch",
}
LOCAL = "127.0.0.1"
SOON = "serverSelectionTimeoutMS=500"
SQUARE = "tests.trials_tests.objectives:square"


@pytest.fixture(scope="module")
def folder():
    with server_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def certificate(folder):
    """A key with its self-signed certificate for this machine, both in one file."""
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=larnn-test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return SimpleNamespace(ca=cert, server=both)


@pytest.fixture(scope="module")
def login(folder, certificate):
    """Gives the environment of a user; the server is guarded, its users are made by the command."""
    files = {}
    for user, password in PASSWORDS.items():
        files[user] = folder / f"{user}.password"
        files[user].write_text(password + "\n")
    # As in deploy/docker-compose.tls.yml.
    flags = ["--auth", "--tlsMode", "requireTLS", "--tlsCertificateKeyFile", certificate.server]
    flags += ["--tlsCAFile", certificate.ca, "--tlsAllowConnectionsWithoutCertificates"]
    with Mongod(folder / "db", *flags) as mongod:
        options = {"tls": True, "tlsCAFile": str(certificate.ca)}
        with mongod.client(**options) as client:  # the first user is made from this machine
            client.admin.command("createUser", "root", pwd=PASSWORDS["root"], roles=["root"])

        def login(user):
            source = "&authSource=admin" if user == "root" else ""
            query = f"tls=true&tlsCAFile={certificate.ca}{source}"
            return {
                "LARNN_MONGO_URI": f"mongodb://{user}@{mongod.address}/larnn_search?{query}",
                "LARNN_MONGO_PASSWORD_FILE": str(files[user]),
            }

        login.mongod = mongod
        arguments = [f"--{user}-password-file={files[user]}" for user in ("worker", "reader")]
        for _ in range(2):  # a second time it gives the same users the same passwords
            done = command(login("root"), "mongo", "users", *arguments)
            assert (done.returncode, done.stdout) == (0, "users worker and reader are ready\n")
        yield login


@pytest.fixture
def as_user(login, monkeypatch):
    """Opens the store as a user."""

    def as_user(user):
        for name, value in login(user).items():
            monkeypatch.setenv(name, value)
        return connect(retry_for_s=2)

    return as_user


def command(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "search", *arguments], capture_output=True, text=True, timeout=60,
        cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip


# -- TLS and login -------------------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_is_refused(login):
    uri = login("worker")["LARNN_MONGO_URI"].partition("&tlsCAFile")[0]
    with pytest.raises(StoreUnavailableError, match="certificate verify failed"):
        MongoStore(f"{uri}&{SOON}", password=PASSWORDS["worker"])


def test_a_server_that_asks_for_tls_does_not_talk_without(login):
    with pytest.raises(StoreUnavailableError, match="cannot reach MongoDB"):
        MongoStore(f"mongodb://{login.mongod.address}/larnn_search?{SOON}")


def test_a_wrong_password_is_told_from_an_unreachable_server(login):
    with pytest.raises(StoreUnavailableError, match="refuses the login") as told:
        MongoStore(login("worker")["LARNN_MONGO_URI"], password="wrong")  # noqa: S106  # it is
    assert "wrong" not in str(told.value)


# -- rights --------------------------------------------------------------------------------------


def test_the_worker_may_do_all_that_a_search_needs_and_no_more(as_user):
    with as_user("worker") as store:
        add_study(store, "square", [{"x": 1}], name="rights")
        trial = store.reserve("rights", "w", "h", "t")
        store.beat(trial.claim)
        store.save_blob(trial.claim, "checkpoint", b"data")
        store.sweep_blobs()
        store.delete_study("rights")
        database = store.database
        for forbidden in (
            lambda: database.command("dropDatabase"),
            lambda: database.drop_collection("trials"),
            lambda: database["system.js"].insert_one({"_id": "f", "value": "code"}),
            lambda: database.command("createRole", "x", privileges=[], roles=[]),
            lambda: database.command("updateUser", "reader", pwd="mine-mine-mine"),  # noqa: S106  # never set
            lambda: database.client["elsewhere"]["things"].find_one(),
            lambda: database.client.admin.command("shutdown"),
        ):
            with pytest.raises(OperationFailure, match="not authorized"):
                forbidden()


def test_the_reader_looks_and_changes_nothing(login, as_user):
    with as_user("worker") as store:
        add_study(store, "square", [{"x": 1}], name="seen")
    assert json.loads(command(login("reader"), "trials", "seen", "--json").stdout)
    assert command(login("reader"), "status", "seen").returncode == 0
    done = command(login("reader"), "pause", "seen")
    assert done.returncode == 1
    assert "does not allow this user" in done.stderr
    assert "larnn-search mongo users" in done.stderr
    told = command(login("reader"), "doctor").stdout
    assert "user reader may only read" in told


# -- where a password never shows ----------------------------------------------------------------


def test_no_password_in_logs_command_lines_documents_or_repr(login, as_user, folder):
    log = folder / "worker.log"
    arguments = ["--debug", "worker", "--slots", "1", "--study", "s"]
    arguments += ["--allow-objective", SQUARE, "--device", "cpu"]
    with as_user("worker") as store, log.open("w") as output:
        add_study(store, "square", [{"x": x} for x in range(3)])
        process = subprocess.Popen(
            [sys.executable, "-m", "search", *arguments],
            cwd=ROOT, env={**os.environ, **login("worker")}, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            trials = eventually(lambda: finished(store))
            shown = command_lines()
            doctor = command(login("worker"), "doctor", "--json").stdout
        finally:
            process.terminate()
            assert process.wait(timeout=30) == 0
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
        shown += repr(store) + repr(vars(store)) + repr(trials)
        for name in store.database.list_collection_names():
            shown += json_util.dumps(store.database[name].find())
    problems = [f["check"] for f in json.loads(doctor) if f["level"] == "problem"]
    # No feeder (nor a worker, for another test's study); a worker's rights let it look everywhere.
    assert set(problems) - {"study seen"} == {"study s"}
    shown += doctor + log.read_text() + login.mongod.log.read_text()
    assert "trial 2 of s (attempt 1) ends COMPLETE" in shown
    assert [name for name, password in PASSWORDS.items() if password in shown] == []


def command_lines():
    shown = ""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            shown += path.read_text(errors="replace")
        except OSError:  # it ended meanwhile
            continue
    assert "allow-objective" in shown
    return shown


# -- mongodb+srv ---------------------------------------------------------------------------------


def test_an_srv_address_names_the_hosts(monkeypatch, folder):
    asked, look_up = [], socket.getaddrinfo
    with Mongod(folder / "srv") as mongod:

        def resolve(name, kind, **_):
            asked.append((str(name), kind))
            if kind == "TXT":
                return []
            target = SimpleNamespace(to_text=lambda **_: "one.queue.example.org")
            answer = SimpleNamespace(target=target, port=mongod.port)
            return type("Answer", (list,), {"rrset": SimpleNamespace(ttl=60)})([answer])

        monkeypatch.setattr("pymongo.synchronous.srv_resolver._resolve", resolve)
        monkeypatch.setattr("socket.getaddrinfo", lambda host, *a, **k: look_up(LOCAL, *a, **k))
        with MongoStore("mongodb+srv://queue.example.org/larnn_search?tls=false") as store:
            assert store.where == "queue.example.org"
            add_study(store, "square", [{"x": 1}])
            assert store.reserve("s", "w", "h", "t").number == 0
    assert ("_mongodb._tcp.queue.example.org", "SRV") in asked


def test_a_name_that_nobody_knows_is_told(monkeypatch):
    def resolve(name, kind, **_):
        raise RuntimeError(f"The DNS query name does not exist: {name}.")

    monkeypatch.setattr("pymongo.synchronous.srv_resolver._resolve", resolve)
    with pytest.raises(StoreUnavailableError, match=r"knows no MongoDB at queue\.example"):
        MongoStore("mongodb+srv://queue.example.org/larnn_search")
