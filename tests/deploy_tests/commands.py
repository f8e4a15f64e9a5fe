"""Finds every `larnn-search` command line in the shipped manifests."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILES = (
    ROOT / "docker-compose.yml",
    ROOT / "docker-compose.gpu.yml",
    ROOT / "deploy" / "docker-compose.tls.yml",
)
KUBERNETES_FILES = tuple(sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml")))
SPOT_FILE = ROOT / "deploy" / "spot-worker.cloud-init.yaml"
SLURM_FILE = ROOT / "deploy" / "slurm-workers.sh"
OTHERS = ("mongod", "mongosh", "sh", "python", "--")
"""First words of command lines that are not for `larnn-search`."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Name of the manifest, and arguments after `larnn-search`."""
    for path in (*COMPOSE_FILES, *KUBERNETES_FILES):
        for document in documents(path):
            for words in _lists(document):
                if words[0] == "larnn-search":
                    yield path.name, words[1:]
                elif not words[0].startswith(OTHERS):
                    yield path.name, words
    (docker_run,) = [line for line in documents(SPOT_FILE)[0]["runcmd"] if line[0] == "docker"]
    yield SPOT_FILE.name, docker_run[docker_run.index("IMAGE") + 1 :]
    for line in SLURM_FILE.read_text().splitlines():
        if line.strip().startswith("arguments=("):
            words = shlex.split(line.strip().removeprefix("arguments=(").removesuffix(")"))
            yield SLURM_FILE.name, words[words.index("worker") :]


def _lists(value: Any, key: str = "") -> Iterator[list[str]]:
    """Lists of words under the keys `command`, `args` and `test`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _lists(inner, str(name))
    elif isinstance(value, list):
        if key in ("command", "args", "test"):
            yield value[1:] if value[0] == "CMD" else value
        else:
            for inner in value:
                yield from _lists(inner)
