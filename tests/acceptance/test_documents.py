"""What the documentation tells users to type works, and it tells of every command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from search.cli import cli
from search.space import check_larnn, resolve
from tests.acceptance.documents import DOCS, ROOT, command_lines, mentioned, write_files

BIN = Path(sys.executable).parent
PLACEHOLDER = re.compile(r"[A-Z][A-Z_.|-]*|\.\.\.|N")


def run_all(document, folder, monkeypatch):
    """Write a document's files and run its commands in one shell each; what they printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LARNN_STATE_DIR", str(folder / "state"))
    monkeypatch.delenv("LARNN_MONGO_URI", raising=False)
    write_files(document, folder)
    # One server for all, as in a session where another search runs.
    subprocess.run(["larnn-search", "mongo", "start"], check=True, capture_output=True)
    said = {}
    try:
        for words in command_lines(document):
            done = subprocess.run(words, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
            said[" ".join(words)] = done.stdout
    finally:
        subprocess.run(["larnn-search", "mongo", "stop"], check=True, capture_output=True)
    return said


@pytest.mark.mongo
def test_own_objectives_work_as_documented(tmp_path, monkeypatch):
    # A user's files may be called as ours are: they come last on the import path.
    for name in ("model.py", "search.py", "trials.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong file')\n")
    said = run_all(ROOT / "docs" / "extending.md", tmp_path, monkeypatch)
    assert "best:" in said["python valley.py"]
    run = next(text for command, text in said.items() if "--study valley" in command)
    assert "all 12 trials have finished" in run
    descent = next(text for command, text in said.items() if "--study descent" in command)
    assert re.search(r"\d+ PRUNED", descent), descent
    assert "30" in said["larnn-search show descent 0"]


@pytest.mark.mongo
def test_spaces_work_as_documented(tmp_path, monkeypatch):
    said = run_all(ROOT / "docs" / "spaces.md", tmp_path, monkeypatch)
    assert "schedule = step" in said["larnn-search spaces my-space.toml"]
    check_larnn(resolve("my-space.toml"), {})


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


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_every_command_in_the_documents_is_one(document):
    for words in [*command_lines(document), *mentioned(document)]:
        if words[0] == "larnn-search":
            try:
                parsed(words)
            except AssertionError as error:
                pytest.fail(f"{document.name}: {' '.join(words)}: {error}")


def test_the_list_of_commands_is_current():
    made = subprocess.run(
        [sys.executable, "docs/make_cli.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    current = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert current == made.stdout, "run: python docs/make_cli.py > docs/cli.md"
