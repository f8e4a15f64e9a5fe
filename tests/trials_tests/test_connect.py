"""From a URI and the environment to a store; outages, refusals, and no password anywhere."""

import functools
import os
import signal
import subprocess
import time
import traceback
import uuid
from pathlib import Path
from unittest import mock
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.errors import (
    AutoReconnect,
    InvalidURI,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from tests.ports import free_port
from tests.trials_tests.working import promised
from trials import embedded
from trials.address import address, has_password
from trials.connect import connect, password_for
from trials.errors import InvalidValueError, StoreUnavailableError
from trials.mongo_store import MongoStore
from trials.mongod import find_mongod
from trials.patience import patience
from trials.retrying import Retrying
from trials.store import CHECKPOINT, NewTrial
from trials.study import StudySpec, StudyState
from trials.trial import Outcome, Report, TrialState

pytestmark = pytest.mark.mongo

SECRET = "s3cr3t"  # noqa: S105  # looked for in every message


@pytest.fixture
def closed_port() -> int:
    return free_port()


# -- the address ---------------------------------------------------------------------------------


def test_the_environment_names_the_server(mongo_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARNN_MONGO_URI", mongo_uri.replace("larnn_search", "another"))
    with connect() as store:
        assert store._database.name == "another"
    with connect(mongo_uri) as store:
        assert store._database.name == "larnn_search"
    with connect(mongo_uri.removesuffix("/larnn_search")) as store:
        assert store._database.name == "larnn_search"


@pytest.mark.parametrize(
    "uri",
    [
        f"mongodb://me:{SECRET}@host/db",
        f"mongodb+srv://me:{SECRET}@host/db",
        f"mongodb://me:{SECRET}/x@host",
        f"mongodb://host/?tls=true&tlsCertificateKeyFilePassword={SECRET}",
    ],
)
def test_a_password_on_the_command_line_is_refused(uri: str) -> None:
    with pytest.raises(InvalidValueError, match=r"LARNN_MONGO_URI.*LARNN_MONGO_PASSWORD_FILE") as e:
        connect(uri).__enter__()
    assert SECRET not in str(e.value)
    assert SECRET not in address(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://host/db",
        "mongodb://me@host/db",
        "mongodb://a:1,b:2/",
        "mongodb://me@host:27017/db?tlsCAFile=/a@b.pem",
        "mongodb://host:27017/?tlsCAFile=/a@b.pem",
    ],
)
def test_what_has_no_password_is_not_refused(uri: str) -> None:
    assert not has_password(uri)


def test_a_file_that_the_uri_names_and_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidValueError, match=r"a file that the MongoDB URI .*/nowhere/ca") as e:
        MongoStore(f"mongodb://me:{SECRET}@host/db?tls=true&tlsCAFile=/nowhere/ca.pem")
    assert SECRET not in f"{e.value!r} {e.value.__cause__!r}"


@pytest.mark.parametrize(
    "uri", [f"mongodb://me:{SECRET}:x@host:port/db", f"http://me:{SECRET}@host", "", "host:27017"]
)
def test_a_broken_uri_is_refused_without_showing_it(uri: str) -> None:
    with pytest.raises(InvalidValueError, match="the MongoDB URI cannot be used: expected") as e:
        MongoStore(uri)
    assert SECRET not in f"{e.value!r} {e.value.__cause__!r}"


@given(
    before=st.text(st.sampled_from("ab1@:/?#[]%&;.,"), max_size=4),
    after=st.text(st.sampled_from("ab1@:/?#[]%&;.,"), max_size=4),
    rest=st.sampled_from(["h:port/db", "h", "h:1/db?tls=no@h", "h/db?x", "[h]/db", ""]),
    scheme=st.sampled_from(["mongodb", "mongodb+srv"]),
)
def test_no_password_is_ever_shown(before: str, after: str, rest: str, scheme: str) -> None:
    uri = f"{scheme}://me:{before}{SECRET}{after}@{rest}"
    assert SECRET not in address(uri)
    with pytest.raises(InvalidValueError, match="a password in --mongo") as on_command_line:
        connect(uri).__enter__()
    shown = [traceback.format_exception(on_command_line.value)]
    with (
        mock.patch("trials.mongo_base.MongoClient", side_effect=InvalidURI(uri)),
        pytest.raises(InvalidValueError, match="the MongoDB URI cannot be used") as refused,
    ):
        MongoStore(uri)
    shown.append(traceback.format_exception(refused.value))
    assert SECRET not in str(shown)


def test_a_host_is_told_though_an_option_looks_like_one() -> None:
    uri = f"mongodb://me@h:1/db?tls=true&tlsCertificateKeyFilePassword=a@{SECRET}"
    assert address(uri) == "h:1"
    assert address("mongodb://me@%2Ftmp%2Fa.sock,[::1]:27017/db") == "/tmp/a.sock,[::1]:27017"  # noqa: S108  # only named


def test_the_password_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    monkeypatch.delenv("LARNN_MONGO_PASSWORD_FILE", raising=False)
    assert password_for("mongodb://me@host/") is None
    monkeypatch.setenv("LARNN_MONGO_PASSWORD_FILE", str(file))
    with pytest.raises(InvalidValueError, match="cannot be read"):
        password_for("mongodb://me@host/")
    file.write_text("\n")
    with pytest.raises(InvalidValueError, match="is empty"):
        password_for("mongodb://me@host/")
    file.write_bytes(b"\xff" + SECRET.encode())
    with pytest.raises(InvalidValueError, match=r"cannot be read.*UnicodeDecodeError"):
        password_for("mongodb://me@host/")
    file.write_text(f"{SECRET} \n")
    assert password_for("mongodb://me@host/") == f"{SECRET} "
    with pytest.raises(InvalidValueError, match="keep one"):
        password_for("mongodb://me:x@host/")
    with pytest.raises(InvalidValueError, match="names no user"):
        password_for("mongodb://host/?a=b@c")


@pytest.fixture
def guarded(state_dir: Path) -> str:
    """A server that asks for a login: its address, with a place for user and password."""
    for folder in (state_dir, state_dir / "db"):
        folder.mkdir()
    sock = state_dir / "guarded.sock"
    files: list[str | Path] = ["--dbpath", state_dir / "db", "--logpath", state_dir / "log"]
    listen: list[str | Path] = ["--bind_ip", sock, "--nounixsocket", "--auth", "--fork", "--quiet"]
    subprocess.run([find_mongod(), *files, *listen], check=True, capture_output=True)
    host = f"{quote_plus(str(sock))}/larnn_search"
    roles = [{"role": "readWrite", "db": "larnn_search"}]
    with MongoClient[dict[str, object]](f"mongodb://{host}") as client:
        client.admin.command("createUser", "admin", pwd=SECRET, roles=["root"])
    with MongoClient[dict[str, object]](
        f"mongodb://admin:{SECRET}@{host}?authSource=admin"
    ) as client:
        client.larnn_search.command("createUser", "worker", pwd=SECRET, roles=roles)
        client.larnn_search.command("createUser", "reader", pwd=SECRET, roles=["read"])
    return f"mongodb://USER@{host}"


def test_logins(guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    monkeypatch.setenv("LARNN_MONGO_PASSWORD_FILE", str(file))
    file.write_text("wrong")
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="refuses the login: check the user") as e:
        connect(guarded.replace("USER", "worker")).__enter__()
    assert time.monotonic() - started < promised(5)
    assert "wrong" not in str(e.value)
    file.write_text(f"{SECRET}\n")
    with connect(guarded.replace("USER", "worker")) as store:
        store.create_study(StudySpec("s", "m:f", space={}))
        assert SECRET not in repr(vars(store))
    with connect(guarded.replace("USER", "reader")) as store:
        assert store.get_study("s").name == "s"
        with pytest.raises(StoreUnavailableError, match="does not allow this user to do that"):
            store.set_study_state("s", StudyState.PAUSED)
    monkeypatch.delenv("LARNN_MONGO_PASSWORD_FILE")
    with pytest.raises(StoreUnavailableError, match="does not allow this user to do that"):
        MongoStore(guarded.replace("USER@", "")).list_studies()


# -- outages -------------------------------------------------------------------------------------


def test_an_unreachable_server_is_told_within_5_seconds(closed_port: int) -> None:
    started = time.monotonic()
    uri = f"mongodb://me:{SECRET}@127.0.0.1:{closed_port}/db?authSource=admin"
    with pytest.raises(StoreUnavailableError, match=f"MongoDB at 127.0.0.1:{closed_port} ") as e:
        MongoStore(uri)
    assert time.monotonic() - started < promised(5)
    assert "Connection refused" in str(e.value)
    assert len(str(e.value)) < 300
    assert SECRET not in f"{e.value} {e.value.__cause__}"


def retrying(for_s: float, random: float = 0.0) -> tuple[Retrying, list[float]]:
    """A retry policy on a clock that only its own pauses move."""
    pauses: list[float] = []
    return Retrying("host", for_s, pauses.append, lambda: sum(pauses), lambda: random), pauses


def failing(*errors: PyMongoError) -> object:
    rest = list(errors)

    def operation() -> str:
        if rest:
            raise rest.pop(0)
        return "done"

    return operation


OUTAGES = [
    AutoReconnect("connection closed"),
    NotPrimaryError("stepped down"),
    ServerSelectionTimeoutError("no servers"),
    OperationFailure("no space", 14031),
    OperationFailure("shutting down", 91, {"errorLabels": ["RetryableWriteError"]}),
]


def test_an_outage_is_waited_out_with_growing_pauses() -> None:
    retry, pauses = retrying(60)
    assert retry(failing(*OUTAGES)) == "done"  # type: ignore[arg-type]  # any callable
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8]
    retry, late = retrying(60, random=1.0)
    retry(failing(*OUTAGES))  # type: ignore[arg-type]  # as above
    assert late == [2 * pause for pause in pauses]


def test_who_tells_of_an_outage_himself_is_asked_back_sooner() -> None:
    retry, pauses = retrying(60)
    with patience(5), pytest.raises(StoreUnavailableError):
        retry(failing(*[OUTAGES[0]] * 100))  # type: ignore[arg-type]  # any callable
    assert sum(pauses) == 5
    assert retry(failing(*[OUTAGES[0]] * 10)) == "done"  # type: ignore[arg-type]  # as above
    assert sum(pauses) > 10


@pytest.mark.parametrize(("lasted_s", "wait_s"), [(0.3, 0.3), (60.0, 15.0)])
def test_after_an_outage_others_get_time_to_come_back(lasted_s: float, wait_s: float) -> None:
    now = [100.0]

    def sleep(_: float) -> None:
        assert retry.outage.may_have_silenced_others(now[0])
        now[0] += lasted_s

    retry = Retrying("host", 90, sleep, lambda: now[0])
    assert not retry.outage.may_have_silenced_others(now[0])
    retry(failing(OUTAGES[0]))  # type: ignore[arg-type]  # any callable
    assert retry.outage.may_have_silenced_others(now[0] + wait_s - 0.01)
    retry(failing())  # type: ignore[arg-type]  # as above
    assert not retry.outage.may_have_silenced_others(now[0] + wait_s)


def test_no_lease_is_taken_back_right_after_an_outage(mongo_store: MongoStore) -> None:
    mongo_store.create_study(StudySpec("s", "m:f", space={}))
    mongo_store.add_trials("s", None, 0, [NewTrial({}, 1)])
    trial = mongo_store.reserve("s", "w", "h", "t", 0)
    assert trial is not None
    now = [0.0]
    mongo_store._retrying = Retrying("host", 90, clock=lambda: now[0])
    mongo_store._retrying.outage.begin(now[0])
    now[0] = 10
    assert mongo_store.release_expired() == []  # which is the first to be answered again
    now[0] += 9.9
    assert mongo_store.release_expired() == []
    mongo_store.beat(trial.claim, 0)  # its owner lives
    now[0] += 0.1
    assert [released.number for released in mongo_store.release_expired()] == [0]


@pytest.mark.parametrize("error", OUTAGES[:4])
def test_an_outage_that_lasts_ends_in_one_clear_line(error: PyMongoError) -> None:
    retry, pauses = retrying(60)
    with pytest.raises(StoreUnavailableError, match="MongoDB at host"):
        retry(failing(*[error] * 1000))  # type: ignore[arg-type]  # as above
    assert sum(pauses) == pytest.approx(60)
    assert max(pauses) <= 5


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (18, StoreUnavailableError, "refuses the login.*LARNN_MONGO_PASSWORD_FILE"),
        (13, StoreUnavailableError, "does not allow this user"),
        (10334, InvalidValueError, "16 MB.*save_weights"),
        (17419, InvalidValueError, "16 MB"),
        (9, OperationFailure, "our bug"),
    ],
)
def test_what_waiting_does_not_mend_is_told_at_once(
    code: int, error: type[Exception], message: str
) -> None:
    retry, pauses = retrying(60)
    with pytest.raises(error, match=message):
        retry(failing(OperationFailure("our bug", code)))  # type: ignore[arg-type]  # as above
    assert pauses == []


def test_a_private_server_that_is_not_revived_is_out_of_reach(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LARNN_MONGO_URI", raising=False)
    monkeypatch.setattr("trials.mongo_base.FIRST_ANSWER_MS", 100)
    with connect(state_dir=state_dir) as store:
        pid = embedded.status(state_dir).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with monkeypatch.context() as broken:
            broken.setenv("LARNN_MONGOD", "/nowhere/mongod")
            with pytest.raises(StoreUnavailableError, match="has died: LARNN_MONGOD names no"):
                store.now()
        store.now()


def test_a_server_that_goes_away_and_comes_back_loses_nothing(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trials.mongo_base.FIRST_ANSWER_MS", 1500)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        embedded.start(state_dir)

    uri = embedded.start(state_dir).uri
    assert uri is not None
    with MongoStore(uri, sleep=pause) as store:
        store.create_study(StudySpec("s", "m:f", space={}))
        store.add_trials("s", None, 0, [NewTrial({}, 1)])
        trial = store.reserve("s", "w", "h", "t", 1000)
        assert trial is not None
        for crash in (False, True):
            pid = embedded.status(state_dir).pid
            assert pid is not None
            if crash:
                os.kill(pid, signal.SIGKILL)
            else:
                embedded.stop(state_dir)
            store.report(trial.claim, [Report(1 + crash, 0.5)])
        done = store.finish(trial.claim, Outcome(TrialState.COMPLETE, 0.5))
        assert [report.step for report in done.reports] == [1, 2]
        assert len(pauses) >= 2


def test_what_may_not_be_lost_is_acknowledged_from_the_journal_of_a_majority(
    mongo_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    client = functools.partial(MongoClient, event_listeners=[heard])
    monkeypatch.setattr("trials.mongo_base.MongoClient", client)
    with MongoStore(mongo_uri, f"test_{uuid.uuid4().hex}", retry_for_s=2) as store:
        space = {"name": "none", "rows": []}
        store.create_study(StudySpec("s", "search.objective:train_larnn", space))
        store.add_trials("s", None, 0, [NewTrial({}, 0)])
        trial = store.reserve("s", "w", "h", "t")
        assert trial is not None
        store.report(trial.claim, [Report(1, 0.5)])
        store.save_blob(trial.claim, CHECKPOINT, b"weights")
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, loss=0.5))
        store.set_study_state("s", StudyState.STOPPING)
        store.database.client.drop_database(store.database.name)
    durable = {"w": "majority", "j": True}
    assert {"insert", "update", "findAndModify"} <= {event.command_name for event in heard.writes}
    assert all(event.command["writeConcern"] == durable for event in heard.writes)


class Heard(CommandListener):
    """Every write that was sent to the server."""

    def __init__(self) -> None:
        self.writes: list[CommandStartedEvent] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in ("insert", "update", "delete", "findAndModify"):
            self.writes.append(event)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass
