"""The private mongod, with real processes: one server for all, gone with its last user."""

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote_plus

import psutil
import pytest
from pymongo import MongoClient

from tests.trials_tests.conftest import fill
from tests.trials_tests.working import eventually, is_alive
from trials import embedded
from trials.connect import connect
from trials.errors import InvalidValueError, ServerNotFoundError, StoreUnavailableError
from trials.mongod import find_mongod
from trials.store import NewTrial
from trials.study import StudySpec
from trials.trial import Outcome, TrialState

pytestmark = pytest.mark.mongo

WAIT_S = 90.0
USER = """
import sys
from trials.embedded import embedded_server, status
with embedded_server(sys.argv[1]) as uri:
    print(status(sys.argv[1]).pid, flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def user(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the folder's server until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        if process.poll() is None:
            process.communicate("\n", timeout=WAIT_S)


def server_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a server for gone earlier than over a network; a busy machine needs a second itself."""
    monkeypatch.setattr("trials.mongo_base.FIRST_ANSWER_MS", 1500)


def test_it_listens_on_a_private_socket_and_nowhere_else(state_dir: Path) -> None:
    with embedded.embedded_server(state_dir) as uri:
        with MongoClient[dict[str, object]](uri) as client:
            options = client.admin.command("getCmdLineOpts")["parsed"]
        socket = Path(options["net"]["bindIp"])
        assert socket == state_dir / "mongod.sock"
        assert (
            stat.S_IMODE(socket.stat().st_mode) == stat.S_IMODE(state_dir.stat().st_mode) == 0o700
        )
        pid = embedded.status(state_dir).pid
        assert pid is not None
        assert psutil.Process(pid).net_connections("tcp") == []
        assert os.getsid(pid) != os.getsid(0)  # Ctrl-C goes to the terminal's session
    assert not is_alive(pid)


def test_data_outlive_the_server_and_nested_uses_share_it(state_dir: Path) -> None:
    with connect(state_dir=state_dir) as store:
        store.create_study(StudySpec("s", "m:f", space={}))
        pid = embedded.status(state_dir).pid
        with connect(state_dir=state_dir) as other:
            assert embedded.status(state_dir).pid == pid
            assert other.get_study("s").name == "s"
        assert embedded.status(state_dir).pid == pid
    assert embedded.status(state_dir).pid is None
    with connect(state_dir=state_dir) as store:
        assert store.get_study("s").name == "s"


def test_the_latest_logs_of_earlier_servers_are_kept(state_dir: Path) -> None:
    state_dir.mkdir(mode=0o700)
    for day in range(1, 7):
        (state_dir / f"mongod.log.2026-01-{day:02d}T00-00-00").touch()
    with embedded.embedded_server(state_dir):
        found = sorted(path.name for path in state_dir.glob("mongod.log*"))
    assert found == ["mongod.log", *(f"mongod.log.2026-01-{day:02d}T00-00-00" for day in (4, 5, 6))]
    with embedded.embedded_server(state_dir):
        again = sorted(path.name for path in state_dir.glob("mongod.log*"))
    assert again[:3] == ["mongod.log", *found[2:]]
    assert len(again) == 4


def test_processes_that_start_at_once_share_one_server_until_the_last_leaves(
    state_dir: Path,
) -> None:
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(user(state_dir)) for _ in range(3)]
        (pid,) = {server_of(process) for process in users}
        for process in users[:2]:
            process.communicate("\n", timeout=WAIT_S)
        assert embedded.status(state_dir).pid == pid
    assert embedded.status(state_dir).pid is None
    assert not is_alive(pid)


def test_a_server_whose_user_was_killed_is_adopted_and_stopped(state_dir: Path) -> None:
    with user(state_dir) as process:
        pid = server_of(process)
        process.kill()
        process.wait(WAIT_S)
    assert embedded.status(state_dir).pid == pid
    with user(state_dir) as process:
        assert server_of(process) == pid
    assert embedded.status(state_dir).pid is None


@pytest.mark.usefixtures("impatient")
def test_a_server_that_was_killed_is_started_again(state_dir: Path) -> None:
    with connect(state_dir=state_dir) as store:
        store.create_study(StudySpec("s", "m:f", space={}))
        pid = embedded.status(state_dir).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: embedded.status(state_dir).pid is None)
        with embedded.embedded_server(state_dir):
            assert store.get_study("s").name == "s"  # found again through the same socket


def test_a_server_about_to_end_is_waited_for(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = state_dir / "db" / "mongod.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("wb") as held:  # emptied, not yet let go: a mongod's last moment
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(held, fcntl.LOCK_UN))
        assert embedded.status(state_dir).pid is None


def test_a_kept_server_stays_until_it_is_stopped(state_dir: Path) -> None:
    started = embedded.start(state_dir)
    assert started.is_kept
    with user(state_dir) as process:
        assert server_of(process) == started.pid
        stopping = embedded.stop(state_dir)
        assert (stopping.pid, stopping.is_kept) == (started.pid, False)  # it has a user
    assert embedded.status(state_dir).pid is None
    embedded.start(state_dir)
    with user(state_dir):
        pass
    assert embedded.status(state_dir).pid is not None
    assert embedded.stop(state_dir).pid is None


def test_a_long_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    with embedded.embedded_server(long):
        socket = Path((long / "socket").read_text().strip())
        assert len(str(socket)) < 100
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        with connect(state_dir=long) as store:
            assert store.list_studies() == []
    assert embedded.status(long).pid is None
    assert not socket.parent.exists()


def test_a_socket_is_not_put_into_a_folder_that_others_may_enter(tmp_path: Path) -> None:
    long, open_to_all = tmp_path / ("x" * 120), tmp_path / "open"
    long.mkdir(mode=0o700)
    open_to_all.mkdir(mode=0o755)
    (long / "socket").write_text(f"{open_to_all}/mongod.sock\n")
    with embedded.embedded_server(long) as uri:
        socket = Path((long / "socket").read_text().strip())
        assert socket.parent != open_to_all
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert quote_plus(str(socket)) in uri
    assert open_to_all.exists()


@pytest.mark.usefixtures("impatient")
def test_its_users_start_a_server_again_that_died_under_them(state_dir: Path) -> None:
    with connect(state_dir=state_dir) as store:
        store.create_study(StudySpec("s", "m:f", space={}))
        pid = embedded.status(state_dir).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert store.get_study("s").name == "s"
        assert embedded.status(state_dir).pid not in (None, pid)


@pytest.mark.usefixtures("impatient")
def test_a_disk_that_fills_up_is_named_and_nothing_is_lost(small_disk: Path) -> None:
    with connect(state_dir=small_disk, retry_for_s=5) as store:
        store.create_study(StudySpec("s", "m:f", space={}))
        store.add_trials("s", None, 0, [NewTrial({"x": 1}, 1)])
        trial = store.reserve("s", "w", "h", "t", 1000)
        assert trial is not None
        filler = fill(small_disk)
        with pytest.raises(StoreUnavailableError, match="disk"):
            store.save_blob(trial.claim, "weights", os.urandom(2**25))
        filler.unlink()
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, 0.5))
        assert store.counts("s")[TrialState.COMPLETE] == 1


# -- what can go wrong ---------------------------------------------------------------------------


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo 'mongod: error while loading shared libraries: libcurl.so.4: cannot open shared "
            "object file' >&2; exit 127",
            "lacks the library libcurl.so.4: .*apt-get install libcurl4",
        ),
        ("exit 14", "ended with status 14.*mongod.log.*LARNN_MONGO_URI"),
    ],
)
def test_a_server_that_does_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setenv("LARNN_MONGOD", program(tmp_path / "mongod", script))
    with pytest.raises(ServerNotFoundError, match=message), embedded.embedded_server(tmp_path):
        pass


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo 'No space left on device' >&2; exit 1"
    monkeypatch.setenv("LARNN_MONGOD", program(tmp_path / "mongod", script))
    with pytest.raises(StoreUnavailableError, match="the disk is full"):
        embedded.start(tmp_path)


def test_a_server_that_hangs_is_named(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ANSWER_S", 0.2)
    pid = embedded.start(state_dir).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ServerNotFoundError, match=f"does not answer: `kill -9 {pid}`"):
            embedded.start(state_dir)
        assert embedded.status(state_dir).pid == pid
    finally:
        os.kill(pid, signal.SIGCONT)


def test_no_mongod_names_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARNN_MONGOD", str(tmp_path / "none"))
    with pytest.raises(ServerNotFoundError, match="LARNN_MONGOD names no program"):
        find_mongod()
    monkeypatch.delenv("LARNN_MONGOD")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_mongod().name == "mongod"  # of the wheel
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerNotFoundError, match=r"LARNN_MONGO_URI.*docker compose up"):
        find_mongod()
    own = program(tmp_path / "mongod", "")
    assert find_mongod() == Path(own)


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailableError, match=r"cannot write to the state folder .*file/x"):
        embedded.start(tmp_path / "file" / "x")
    assert embedded.status(tmp_path / "none").pid is None
    assert not (tmp_path / "none").exists()


def test_a_folder_of_other_things_is_not_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "notes").touch()
    with pytest.raises(StoreUnavailableError, match="holds other files, and others may look into"):
        embedded.start(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("name", "use"),
    [("LARNN_STATE_DIR", embedded.default_state_dir), ("LARNN_MONGOD", find_mongod)],
)
def test_a_folder_of_nobodys_home_is_named(
    name: str, use: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "~nobody-here/x")
    with pytest.raises(InvalidValueError, match=f"{name}: ~nobody-here/x is in no home folder"):
        use()


def test_the_state_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LARNN_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert embedded.default_state_dir() == tmp_path / "larnn-search"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert embedded.default_state_dir() == tmp_path / ".local/state/larnn-search"
    monkeypatch.setenv("LARNN_STATE_DIR", "~/here")
    assert embedded.default_state_dir() == tmp_path / "here"
