"""Writes docs/cli.md from the commands themselves: ``python docs/make_cli.py > docs/cli.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

sys.path.append(str(Path(__file__).parents[1]))  # for a checkout that is not installed

from search.cli import cli

WIDTH = 100
HEAD = """# Commands

Made from the commands by `python docs/make_cli.py > docs/cli.md`; a test holds it current.

An option with an `env var` may also stand in a file `larnn-search.toml` in the current folder,
under its name (`max-trials = 50`); arguments and other options are typed. Precedence: option,
environment, file, default. Exit status: 0 done, 1 a failure, 2 a mistake in the command, 130
stopped by Ctrl-C, 143 by SIGTERM; `worker`, `feed` and `dashboard`, which serve until they are
told to stop, then end with 0.
"""


def leaves(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, in the order of `--help`."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def section(name: str, command: click.Command) -> str:
    """One command's help."""
    context = click.Context(
        command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )  # fmt: skip
    return (
        f"\n## {name.removeprefix('larnn-search ')}\n\n```text\n{command.get_help(context)}\n```\n"
    )


def main() -> None:
    """Print the page."""
    commands = list(leaves(cli, ("larnn-search",)))
    sys.stdout.write(HEAD)
    sys.stdout.write(section("larnn-search", cli))
    for name, command in commands:
        sys.stdout.write(section(name, command))


if __name__ == "__main__":
    main()
