"""`doctor`: why a search does not get on, and the command that mends it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from search.options import json_option, mongo_option, uri_from_option

if TYPE_CHECKING:
    from trials.doctor import Finding

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@click.argument("study", required=False)
@mongo_option
@json_option
def doctor(study: str | None, mongo: str | None, as_json: bool) -> int:
    """Find out why no trial is starting, and what mends it.

    Looks at connection, login, server, clocks, indexes, schema, leases, workers, shadowed modules
    and every study that is not over (or STUDY). Exit status 1 when something needs mending.
    """
    findings = []
    for finding in _examine(study, mongo):
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        rows = [
            {**dataclasses.asdict(finding), "level": str(finding.level)} for finding in findings
        ]
        click.echo(json.dumps(rows))
    return int(any(finding.level == "problem" for finding in findings))


COMMANDS = (doctor,)


def _examine(study: str | None, mongo: str | None) -> Iterator[Finding]:
    from trials import errors
    from trials.connect import connect
    from trials.doctor import Finding, Level, examine, examine_machine

    yield from examine_machine()
    try:
        with connect(uri_from_option(mongo), retry_for_s=5.0, any_schema=True) as store:
            yield from examine(store, study)
    except errors.StudyNotFoundError:
        raise
    except errors.TrialsError as error:
        # The message itself says what to do.
        yield Finding("connection", Level.PROBLEM, str(error))


def _print(finding: Finding) -> None:
    level = click.style(f"{finding.level:8}", fg=COLOURS[finding.level])
    click.echo(f"{level} {finding.check}: {finding.message}")
    if finding.mend:
        click.echo(f"{'':8}   mend: {finding.mend}")
