"""Commands that list what can be searched, and on what data."""

from __future__ import annotations

import dataclasses

import click

from search.commands.reading import print_json
from search.options import json_option, mistakes


@click.command()
@click.argument("name", required=False)
@json_option
def datasets(name: str | None, as_json: bool) -> None:
    """List the data sets, or load and describe one: shape, classes, people, licence, source."""
    from model import data
    from search.screens import print_datasets

    with mistakes():
        cards = [data.describe(data.load(name))] if name else data.available()
    if as_json:
        print_json([dataclasses.asdict(card) for card in cards])
    else:
        print_datasets(cards)


@click.command()
@click.argument("name", metavar="[NAME|FILE]", required=False)
@json_option
def spaces(name: str | None, as_json: bool) -> None:
    """List the spaces, or show the ranges of one."""
    from search.named_spaces import NAMED_SPACES, resolve
    from search.screens import print_space, print_spaces

    with mistakes():
        shown = [resolve(name)] if name else list(NAMED_SPACES.values())
    if as_json:
        print_json([space.to_dict() for space in shown])
    elif name:
        print_space(shown[0])
    else:
        print_spaces(shown)


COMMANDS = (datasets, spaces)
