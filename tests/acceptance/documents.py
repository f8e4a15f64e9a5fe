"""The code blocks of the documentation, as files and commands."""

import contextlib
import re
import shlex
import subprocess
from pathlib import Path

from tests.trials_tests.working import eventually, hears_sigterm

ROOT = Path(__file__).parents[2]
DOCS = sorted(
    {
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "results").glob("*/README.md"),
        ROOT / "benchmarks" / "search" / "README.md",
    }
)
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SHELL = ("sh", "bash", "console")
SMALL = [f"--fix={pin}" for pin in ("num_heads=2", "head_size=4", "time_stride=8", "epochs=1")]
"""Cuts a training to seconds."""


def blocks(path):
    """Language and text of each fenced block, in order."""
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def write_files(path, folder):
    """Write the blocks whose first line is a comment with a file's name."""
    for _, text in blocks(path):
        if named := re.match(r"# ([\w-]+\.(?:py|toml))\n", text):
            (folder / named[1]).write_text(text)


def command_lines(path):
    """Every line of the shell blocks, continued ones joined, comments left out."""
    for language, text in blocks(path):
        if language in SHELL:
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words:
                    yield words


def mentioned(path):
    """Every `larnn-search ...` that stands in the running text, between backquotes."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for code in re.findall(r"`(larnn-search [^`]*)`", text.replace("\n", " ")):
        yield shlex.split(code)


def in_container(words):
    """What our image is told by a line that runs it; None of other lines."""
    match words:
        case ["docker", "compose", "run", "--rm", "search" | "mongo-init", *rest]:
            return ["larnn-search", *rest]
        case ["kubectl", "exec", _, "--", "larnn-search", *rest]:
            return ["larnn-search", *rest]
    return None


@contextlib.contextmanager
def standing_by(lines):
    """Run commands that end when they are told to, while the block runs."""
    processes = [subprocess.Popen(words, stderr=subprocess.DEVNULL) for words in lines]
    try:
        eventually(lambda: all(hears_sigterm(process.pid) for process in processes))
        yield
        assert [process.poll() for process in processes] == [None] * len(lines)
    finally:
        for process in processes:
            process.terminate()
        statuses = [process.wait(timeout=30) for process in processes]
    assert statuses == [0] * len(lines)
