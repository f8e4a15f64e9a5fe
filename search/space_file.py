"""Spaces that users write: in TOML, a table searches a parameter and a plain value pins one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.words import did_you_mean
from search.parameter import Parameter
from search.space import Space

_KEYS = ("type", "low", "high", "choices", "when")


def read_space(path: Path) -> Space:
    """Read a space file.

    ::

        epochs = 10                 # a plain value pins a parameter

        [learning_rate]             # a table searches one
        type = "loguniform"         # uniform, loguniform, int, logint or choice
        low = 1e-4
        high = 1e-1

        [momentum]
        type = "uniform"
        low = 0.0
        high = 0.99
        when = {optimizer = "sgd"}  # only where this choice was taken

    Raises:
        ValueError: If the file cannot be read, is no TOML, or breaks a rule; says which line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise ValueError(f"cannot read space file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"space file {path} is not TOML: {error}") from error
    rows, fixed = [], {}
    for name, content in tables.items():
        _check_name(name, content, path, text)
        if isinstance(content, Mapping):
            rows.append(_row(name, content, path, text))
        else:
            fixed[name] = content
    if not rows:
        raise ValueError(f"space file {path} searches nothing: it needs a [table] per parameter")
    return Space(path.stem, tuple(rows), fixed)


def _check_name(name: str, content: Any, path: Path, text: str) -> None:
    where = f"{path} line {_line(text, name)}: "
    if not name or "." in name or name.startswith("$") or "\0" in name:
        raise ValueError(f"{where}a parameter's name has no '.', NUL or leading '$', got {name!r}")
    if isinstance(content, list) and any(isinstance(part, Mapping) for part in content):
        raise ValueError(f"{where}a parameter is searched by one table, [{name}], got [[{name}]]")


def _row(name: str, table: Mapping[str, Any], path: Path, text: str) -> Parameter:
    for key in table:
        if key not in _KEYS:
            raise ValueError(
                f"{path} line {_line(text, name, key)}: [{name}] has unknown key {key!r}; "
                f"{did_you_mean(key, _KEYS)}"
            )
    where = f"{path} line {_line(text, name)}: "
    if "type" not in table:
        raise ValueError(f"{where}[{name}] needs a type")
    for key, kind in {"choices": list, "when": dict}.items():
        if not isinstance(table.get(key, kind()), kind):
            raise ValueError(
                f"{path} line {_line(text, name, key)}: {key} of [{name}] must be "
                f"{'a list' if kind is list else 'a table'}, got {table[key]!r}"
            )
    return Parameter(
        name,
        table["type"],
        table.get("low"),
        table.get("high"),
        tuple(table.get("choices", ())),
        table.get("when", {}),
        where=where,
    )


def _line(text: str, table: str, key: str | None = None) -> int:
    """The line of a table's header, or of a key in it (tomllib keeps no positions)."""
    found = 1
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*[\"']?(.+?)[\"']?\s*\]+\s*(#.*)?$", line):
            inside = header[1] == table
            found = number if inside else found
        elif inside and key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
        elif re.match(rf"\s*[\"']?{re.escape(table)}[\"']?\s*=", line):  # inline
            found = number
    return found
