"""Defaults of options from a file in the current folder."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from search.options import CONFIG_FILE, Setting


def defaults_from_file(group: click.Group) -> dict[str, Any]:
    """Read ``larnn-search.toml``: keys are `Setting` options, of every command that has them.

    Returns:
        As click's ``default_map``: values by parameter, and such a mapping for each command.

    Raises:
        click.UsageError: If the file cannot be read, is no TOML, or names an option that no command
            has.
    """
    path = Path(CONFIG_FILE)
    if not path.is_file():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{CONFIG_FILE} is not valid TOML: {error}") from None
    except OSError as error:
        raise click.UsageError(f"{CONFIG_FILE} cannot be read: {error.strerror}") from None
    given = {key.replace("_", "-"): value for key, value in values.items()}
    unknown = given.keys() - _settings_below(group)
    if unknown:
        raise click.UsageError(f"{CONFIG_FILE}: no command has a setting {min(unknown)!r}")
    return _defaults(group, given)


def _settings(command: click.Command) -> dict[str, Setting]:
    """By the names of their options, those that may stand in the file."""
    found = (p for p in command.params if isinstance(p, Setting))
    return {setting.opts[0].removeprefix("--"): setting for setting in found}


def _settings_below(command: click.Command) -> set[str]:
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return set(_settings(command)).union(*map(_settings_below, below))


def _defaults(command: click.Command, given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, setting in _settings(command).items():
        if name in given:
            value = given[name]
            # One value of an option that may be repeated; for another command it may be the only.
            single = setting.multiple and not isinstance(value, list)
            found[str(setting.name)] = [value] if single else value
    if isinstance(command, click.Group):
        found |= {name: _defaults(below, given) for name, below in command.commands.items()}
    return found
