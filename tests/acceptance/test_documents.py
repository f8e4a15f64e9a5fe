"""What the documentation tells users to type works, and it tells of every command."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from search.cli import cli
from search.named_spaces import resolve
from search.space import check_larnn
from tests.acceptance.documents import (
    DOCS,
    ROOT,
    SMALL,
    blocks,
    command_lines,
    in_container,
    mentioned,
    standing_by,
    write_files,
)

BIN = Path(sys.executable).parent
STANDS_BY = ("worker", "feed")
"""Run until they are told to stop."""
PLACEHOLDER = re.compile(r"[A-Z][A-Z_.|-]*|\.\.\.|N")


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs a command line as a user would, in an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LARNN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("LARNN_MONGO_URI", raising=False)

    def run(words):
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    # One server for all, as in a session where another search runs.
    run(["larnn-search", "mongo", "start"])
    yield run
    run(["larnn-search", "mongo", "stop"])


def run_all(document, folder, shell):
    """Write a document's files and run all its commands; what they printed."""
    write_files(document, folder)
    lines = [*command_lines(document), *mentioned(document)]
    said = {" ".join(w): shell(w) for w in lines if w[1] not in STANDS_BY}
    with standing_by([words for words in lines if words[1] in STANDS_BY]):
        return said


def filled_in(words, values):
    """A command line with values for its placeholders."""
    return [values.get(word, word) for word in words]


@pytest.mark.mongo
def test_own_objectives_work_as_documented(tmp_path, shell):
    # A user's files may be called as ours are: they come last on the import path.
    for name in ("model.py", "search.py", "trials.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong file')\n")
    said = run_all(ROOT / "docs" / "extending.md", tmp_path, shell)
    assert "best:" in said["python valley.py"]
    run = next(text for command, text in said.items() if "--study valley" in command)
    assert "all 12 trials have finished" in run
    descent = next(text for command, text in said.items() if "--study descent" in command)
    assert re.search(r"\d+ PRUNED", descent), descent
    assert "30" in said["larnn-search show descent 0"]
    assert "COMPLETE" in said["larnn-search show valley 0"]
    assert said["larnn-search logs valley 0"].startswith("at ")


@pytest.mark.mongo
def test_spaces_work_as_documented(tmp_path, shell):
    document = ROOT / "docs" / "spaces.md"
    write_files(document, tmp_path)
    lines = [*command_lines(document), *mentioned(document)]
    said = {" ".join(w): shell(filled_in(w, {"NAME": "card"})) for w in lines}
    assert "schedule = step" in said["larnn-search spaces my-space.toml"]
    check_larnn(resolve("my-space.toml"), {})


def some_sequences():
    """What the documents call x, y, person, length and names."""
    draw, n = np.random.default_rng(0), 60
    y = np.arange(n) % 3
    x = draw.standard_normal((n, 32, 3)) + y[:, None, None]
    return {"x": x, "y": y, "person": np.arange(n) // 6, "length": np.full(n, 32),
            "names": ["ax", "ay", "az"]}  # fmt: skip


@pytest.mark.mongo
def test_data_work_as_documented(shell):
    document = ROOT / "docs" / "data.md"
    for text in python_blocks(document):
        exec(text, some_sequences())  # noqa: S102  # our own document
    values = {"DIR": "model", "FILE.npz": "mine.npz"}
    said = {}
    for words in mentioned(document):
        sizes = ["--data", "npz:mine.npz", *SMALL] if words[1] == "train" else []
        said[" ".join(words)] = shell([*filled_in(words, values), *sizes])
    assert "[32, 3]" in said["larnn-search datasets npz:mine.npz"]
    assert len(said["larnn-search predict DIR FILE.npz"].splitlines()) == 61


@pytest.mark.mongo
def test_beginning_with_what_is_known_works_as_documented(shell):
    shipped = ROOT / "results" / "shipped" / "study.jsonl"
    shell(["larnn-search", "import", str(shipped), "--study", "quick"])
    # What follows a search is tried in search_tests: test_again.py, test_final.py, test_looks.py.
    lines = [w for w in mentioned(ROOT / "docs" / "search.md") if w[1] in ("best", "launch")]
    lines.sort(key=lambda words: words[1] == "launch")
    assert [words[1] for words in lines] == ["best", "launch", "launch"]
    Path("best.json").write_text(shell(lines[0]))
    for number, words in enumerate(lines[1:]):
        shell([*filled_in(words, {"big": f"big-{number}"}), "--no-wait"])
    waiting = [json.loads(shell(["larnn-search", "trials", f"big-{n}", "--json"])) for n in (0, 1)]
    assert [len(trials) for trials in waiting] == [0, 3]


@pytest.mark.mongo
def test_operations_work_as_documented(shell):
    lines = [w for w in mentioned(ROOT / "docs" / "operations.md") if w[1:] != ["mongo", "users"]]
    with standing_by([words for words in lines if words[1] in STANDS_BY]):
        shell(["larnn-search", "doctor"])
    own = ["--objective", "math:sqrt", "--space", "own.toml"]
    Path("own.toml").write_text('[x]\ntype = "uniform"\nlow = 0.0\nhigh = 1.0\n')
    shell(["larnn-search", "launch", "--study", "first", *own, "--no-wait"])
    shell(["larnn-search", "enqueue", "first", "--params", '{"x": 0.5}'])
    steering = [words for words in lines if "STUDY" in words]
    for words in sorted(steering, key=lambda words: words[-1] != "N"):  # a study's cancel ends all
        shell(filled_in(words, {"STUDY": "first", "N": "0"}))
    (study,) = json.loads(shell(["larnn-search", "studies", "--json"]))
    assert study["state"] == "CANCELLED"


def python_blocks(document):
    return [text for language, text in blocks(document) if language == "python"]


def test_python_in_the_readme_and_of_the_layer_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (readme,) = python_blocks(ROOT / "README.md")
    layer, estimator = python_blocks(ROOT / "docs" / "larnn.md")
    exec(readme, {})  # noqa: S102  # our own document
    x = torch.randn(20, 3, 9)
    exec(layer, {"x": x, "more": x[:5], "lengths": torch.tensor([20, 4, 1])})  # noqa: S102  # as above
    given = some_sequences()
    exec(estimator, {**given, "X": given["x"], "X_new": given["x"][:4]})  # noqa: S102  # as above
    assert (tmp_path / "model").is_dir()


def parsed(words):
    """The command that a line of the documentation calls, if its options are such."""
    command, rest = cli, words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest[0]
        assert name in command.commands or PLACEHOLDER.fullmatch(name), f"no command {name!r}"
        if name not in command.commands:
            return command
        command, rest = command.commands[name], rest[1:]
    known = {opt for parameter in command.params for opt in parameter.opts} | {"--help", "-h"}
    unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word not in known]
    assert not unknown, f"{command.name} has no option {unknown}"
    return command


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_the_documents_is_one(document):
    lines = [*command_lines(document), *mentioned(document)]
    for words in [in_container(words) or words for words in lines]:
        if words[0] == "larnn-search":
            try:
                parsed(words)
            except AssertionError as error:
                pytest.fail(f"{document.name}: {' '.join(words)}: {error}")


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_and_module_in_the_documents_is_one(document):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    in_text = re.findall(r"`((?:make|python) [^`]*)`", document.read_text(encoding="utf-8"))
    for words in [*command_lines(document), *map(str.split, in_text)]:
        if words[0] == "make" and len(words) > 1:
            assert words[1] in targets
        if words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), words[2]


def test_the_list_of_commands_is_current():
    made = subprocess.run(
        [sys.executable, "docs/make_cli.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    current = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert current == made.stdout, "run: python docs/make_cli.py > docs/cli.md"
