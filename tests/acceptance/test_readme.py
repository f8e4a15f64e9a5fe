"""What README.md tells a newcomer to type is typed here, at sizes that a test can wait for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.documents import ROOT, SMALL, command_lines, mentioned, standing_by

README = ROOT / "README.md"
STANDS_BY = ("worker", "feed")
"""Run until they are told to stop: started ahead of the others."""
TRIED_ELSEWHERE = {
    "dashboard": "tests/search_tests/test_dashboard.py",
    "pause": "below",
}
PLACEHOLDERS = {
    "STUDY": "first",
    "STUDY...": "first",
    "KIND": "best",
    "FILE": "best.png",
    "12": "1",
}
SPACE = """
[learning_rate]
type = "loguniform"
low = 1e-3
high = 1e-1
"""
OBJECTIVE = """
def my_objective(params):
    return {"loss": params["learning_rate"] ** 2, "status": "ok"}
"""


def shrunk(words):
    """A command line of the README, with its placeholders filled in and its sizes cut."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    if words[1] in ("run", "launch"):
        if "--max-trials" in words:
            at = words.index("--max-trials")
            del words[at : at + 2]
        words += ["--max-trials", "2"]
    if words[1] in ("run", "launch", "train") and "--objective" not in words:
        words += SMALL
    return words


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A newcomer's folder: the shipped study, some arrays, a space and an objective."""
    bin_folder = Path(sys.executable).parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LARNN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("LARNN_MONGO_URI", raising=False)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "shipped").symlink_to(ROOT / "results" / "shipped")
    (tmp_path / "my-space.toml").write_text(SPACE)
    (tmp_path / "my_module.py").write_text(OBJECTIVE)
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = rng.normal(size=(240, 32, 4)).astype(np.float32) + y[:, None, None]
    np.savez(tmp_path / "movements.npz", x=x, y=y, person=np.arange(240) // 20)
    return tmp_path


@pytest.mark.mongo
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("folder")
def test_the_readme_works():
    lines = [w for w in command_lines(README) if w[0] == "larnn-search"]
    lines += [words for words in mentioned(README) if words[1] not in TRIED_ELSEWHERE]
    assert len(lines) >= 15
    subprocess.run(["larnn-search", "mongo", "start"], check=True, capture_output=True)
    try:
        with standing_by([words for words in lines if words[1] in STANDS_BY]):
            for words in (shrunk(words) for words in lines if words[1] not in STANDS_BY):
                done = subprocess.run(words, capture_output=True, text=True, timeout=120)
                assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    finally:
        subprocess.run(["larnn-search", "mongo", "stop"], check=True, capture_output=True)
    figures = {path.name for path in Path.cwd().glob("*.png")}
    assert figures == {"settings.png", "importance.png", "choices.png", "best.png"}
    assert Path("report.html").stat().st_size > 100_000


@pytest.mark.mongo
@pytest.mark.usefixtures("folder")
def test_a_study_is_steered_from_another_shell():
    def command(*words, status=0):
        done = subprocess.run(["larnn-search", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    own = ["--objective", "my_module:my_objective", "--space", "my-space.toml"]
    command("mongo", "start")
    try:
        command("launch", "--study", "steered", *own, "--no-wait")
        command("enqueue", "steered", "--params", '{"learning_rate": 0.01}')
        for word, state in {"cancel": "CANCELLED", "retry": "WAITING"}.items():
            command(word, "steered", "0")
            (trial,) = json.loads(command("trials", "steered", "--json"))
            assert trial["state"] == state
        for word, state in {
            "pause": "PAUSED",
            "resume": "ACTIVE",
            "stop": "STOPPING",
            "cancel": "CANCELLED",
        }.items():
            command(word, "steered")
            assert json.loads(command("status", "steered", "--json"))["state"] == state
        (trial,) = json.loads(command("trials", "steered", "--json"))
        assert trial["state"] == "CANCELLED"
        for words in (["retry", "steered", "0"], ["resume", "steered"]):
            assert "study 'steered' is CANCELLED" in command(*words, status=2)
        command("delete", "steered", "--yes")
        assert json.loads(command("studies", "--json")) == []
    finally:
        command("mongo", "stop")
