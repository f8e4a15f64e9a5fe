import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.trials_tests import objectives
from tests.trials_tests.working import eventually, is_alive, promised
from trials.failures import death, kernel_oom_kills, outcome_of
from trials.pipe import LENGTHS, FrameBuffer, encode_header
from trials.plain import plain_number, plain_result
from trials.process import (
    KEEP_MEMORY,
    WAIT_ASLEEP,
    BoundedLog,
    ChildGoneError,
    ChildProcess,
    child_environment,
)
from trials.trial import Failure, FailureKind, TrialState

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def child():
    child = ChildProcess()
    yield child
    child.close()


def order(function, params, **changes):
    return {
        "type": "trial",
        "objective": f"{objectives.HERE}:{function}",
        "params": params,
        "number": 0,
        "attempt": 1,
        "seed": 0,
        "threads": 1,
        "device": "cpu",
        "requirements": {},
        "has_checkpoint": False,
        "seconds_before": 0.0,
    } | changes


def answer(child):
    return eventually(lambda: child.receive(0.1))[0]


def spawned(child, tmp_path, **params):
    pids = tmp_path / "pids"
    child.send(order("spawns", {"pids": str(pids), **params}))
    eventually(pids.exists)
    return [int(pid) for pid in pids.read_text().split()]


@pytest.mark.parametrize("stuck", [False, True])
def test_a_child_without_its_worker_ends_with_all_it_started(child, tmp_path, stuck):
    pids = spawned(child, tmp_path, stuck=stuck)
    assert all(is_alive(pid) for pid in pids)
    child._selector.unregister(child._pipe)
    child._pipe.close()  # what the kernel does when the worker is killed
    child._life.close()
    eventually(lambda: not any(is_alive(pid) for pid in pids), promised(5))


def test_kill_ends_all_it_started(child, tmp_path):
    pids = spawned(child, tmp_path)
    assert child.kill() == -signal.SIGKILL
    eventually(lambda: not any(is_alive(pid) for pid in pids), promised(5))


def test_what_a_crashed_child_started_is_cleared(child, tmp_path):
    pids = spawned(child, tmp_path)
    os.kill(child.pid, signal.SIGSEGV)
    with pytest.raises(ChildGoneError):
        eventually(lambda: child.receive(0.1))
    assert child.await_exit()[0] == -signal.SIGSEGV
    eventually(lambda: not is_alive(pids[1]), promised(5))


def test_signals_of_a_terminal_do_not_reach_the_trial(child):
    child.send({"type": "warm", "module": "json"})
    assert answer(child).header == {"type": "ready", "error": None}
    os.kill(child.pid, signal.SIGINT)
    os.kill(child.pid, signal.SIGTERM)
    child.send(order("square", {"x": 3}))
    assert answer(child).header["loss"] == 9


def test_a_module_that_cannot_be_imported_is_named(child):
    child.send({"type": "warm", "module": "no.such"})
    assert answer(child).header["error"] == "ModuleNotFoundError: No module named 'no'"


def test_the_current_folder_cannot_shadow_our_modules(tmp_path, monkeypatch):
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "__init__.py").write_text("raise RuntimeError('shadowed')")
    (tmp_path / "mine.py").write_text("def f(params):\n    return {'loss': 7}\n")
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(ChildProcess()) as child:
        child.send(order("", {}, objective="mine:f"))
        assert answer(child).header.get("loss") == 7


def test_a_child_started_by_hand_explains_itself_by_ending():
    ended = subprocess.run(
        [sys.executable, "-m", "trials.child", "99"], capture_output=True, check=False, timeout=30
    )
    assert ended.returncode == 1


def test_the_environment_names_one_gpu_and_no_database():
    before = {"PATH": "/bin", "LARNN_MONGO_URI": "x", "LARNN_MONGO_PASSWORD_FILE": "y"}
    found = child_environment(before, "cuda:GPU-7", threads=3)
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-7"
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "3"
    assert not [name for name in found if name.startswith("LARNN_MONGO_")]
    assert child_environment(before, "cpu", 1)["CUDA_VISIBLE_DEVICES"] == ""


def test_the_environment_suits_training_unless_the_user_set_otherwise():
    settings = KEEP_MEMORY | WAIT_ASLEEP
    assert child_environment({}, "cpu", 1).items() >= settings.items()
    own = {"MALLOC_TRIM_THRESHOLD_": "131072", "OMP_WAIT_POLICY": "ACTIVE"}
    assert child_environment(own, "cpu", 1).items() >= (settings | own).items()


def test_frames_survive_any_cut():
    head = encode_header({"type": "blob", "kind": "é", "nan": float("nan")})
    data = LENGTHS.pack(len(head), 5) + head + b"12345"
    buffer = FrameBuffer()
    frames = [frame for byte in data + data for frame in buffer.feed(bytes([byte]))]
    assert [frame.payload for frame in frames] == [b"12345", b"12345"]
    assert frames[0].header["kind"] == "é"
    assert [f.payload for f in FrameBuffer().feed(data + data)] == [b"12345", b"12345"]


@pytest.mark.parametrize("head", [b"[]", b'{"kind": 1}', b"\xff", b"{"])
def test_what_is_no_frame_is_refused(head):
    with pytest.raises(ValueError):  # noqa: PT011  # JSON's own messages differ
        FrameBuffer().feed(LENGTHS.pack(len(head), 0) + head)


def test_only_json_passes():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (object(), {1, 2}, b"bytes", deep):
        with pytest.raises(ValueError, match="plain JSON"):
            encode_header({"type": "trial", "value": value})


def test_plain_values():
    given = {
        "a": np.float32(0.5),
        "b": np.arange(2),
        "c": (1, True, None),
        3: "x",
        "d": {"e": np.int64(4)},
    }
    found = plain_result(given)
    assert found == {"a": 0.5, "b": [0, 1], "c": [1, True, None], "3": "x", "d": {"e": 4}}
    assert type(found["d"]["e"]) is int
    with pytest.raises(TypeError, match=r"result\['x'\]\[1\] is a complex"):
        plain_result({"x": [1, 2j]})
    with pytest.raises(TypeError, match="beyond 64 bits"):
        plain_result({"x": 2**64})


def test_plain_numbers():
    assert plain_number(np.float64(0.25), "loss") == 0.25
    assert plain_number(np.array(3), "loss") == 3.0
    for value in (True, "1", None, [1.0]):
        with pytest.raises(TypeError, match="loss must be a number"):
            plain_number(value, "loss")


def test_a_bounded_log_keeps_both_ends():
    log = BoundedLog(head_bytes=3, tail_bytes=4)
    for piece in (b"ab", b"cdef", b"ghi"):
        log.write(piece)
    assert log.take() == b"abc\n[... 2 bytes left out ...]\nfghi"
    log.write(b"\xff!")
    assert log.take().decode() == "\ufffd!"


def failed(kind):
    return Failure(kind, "m", "w", "h", 1)


@pytest.mark.parametrize("kind", ["CRASH", "OUT_OF_MEMORY", "TIMEOUT", "STALL"])
def test_mishaps_are_retried_until_max_retries(kind):
    again = outcome_of(failed(FailureKind[kind]), retries=1, max_retries=2)
    assert (again.state, again.counts_as_retry) == (TrialState.WAITING, True)
    assert outcome_of(failed(FailureKind[kind]), 2, 2).state is TrialState.FAILED


@pytest.mark.parametrize("kind", ["EXCEPTION", "NAN_LOSS"])
def test_what_would_come_again_is_not_retried(kind):
    assert outcome_of(failed(FailureKind[kind]), 0, 2).state is TrialState.FAILED


def test_the_kernels_kill_for_memory_is_recognised(tmp_path):
    assert death(-9, killed_for_memory=True)[0] is FailureKind.OUT_OF_MEMORY
    assert death(-9, killed_for_memory=False) == (
        FailureKind.CRASH,
        "the trial's process was killed by SIGKILL",
    )
    assert death(-11, killed_for_memory=True)[0] is FailureKind.CRASH
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 3\n")
    assert kernel_oom_kills(tmp_path / "vmstat") == 3
    assert kernel_oom_kills(tmp_path / "none") == 0
