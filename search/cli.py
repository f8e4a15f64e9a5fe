"""`larnn-search`: puts the commands together and turns errors into one clear line.

Exit status: 0 done, 1 a failure, 2 the user's mistake, 130 stopped by Ctrl-C, 143
by SIGTERM.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from search.commands import (
    catalogue,
    doctor,
    figures,
    finals,
    moving,
    reading,
    searching,
    server,
    serving,
    steering,
    training,
)
from search.config_file import defaults_from_file
from search.logs import FORMATS, set_up_logging
from search.options import option
from search.text import visible
from trials import errors

USER_MISTAKES = (
    errors.InvalidValueError,
    errors.StudyNotFoundError,
    errors.StudyMismatchError,
    errors.TrialNotFoundError,
    errors.IllegalTransitionError,
)


class Commands(click.Group):
    """Lists commands in the order in which a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in order of registration."""
        return list(self.commands)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """As click's, with the defaults of the current folder's file."""
        defaults = defaults_from_file(self)
        return super().make_context(info_name, args, parent, default_map=defaults, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's; with ``--debug`` an error that is told in a line shows where it came from."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, errors.TrialsError) as error:
            if ctx.params["debug"]:
                traceback.print_exception(error)
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="larnn-search")
@option("--debug", is_flag=True, help="Show tracebacks and more log lines.")
@option(
    "--log-format",
    type=click.Choice(FORMATS),
    default="text",
    help="Log lines for people or machines.",
)
def cli(debug: bool, log_format: str) -> None:
    """Find out which settings of a LARNN win: window, heads, layers, activation and the rest.

    On one machine `larnn-search run --study NAME` does it all. Over several, start `launch` on one
    and `worker` on each, with the same LARNN_MONGO_URI.
    """
    set_up_logging(log_format, debug)


for module in (
    searching,
    training,
    reading,
    figures,
    finals,
    serving,
    steering,
    moving,
    catalogue,
    doctor,
    server,
):
    for command in module.COMMANDS:
        cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script; never returns."""
    sys.exit(run_command(arguments))


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result: Any = cli.main(arguments, prog_name="larnn-search", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return complain(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return complain("stopped", 130)
    except errors.TrialsError as error:
        return complain(str(error), 2 if isinstance(error, USER_MISTAKES) else 1)
    except BrokenPipeError:
        # `larnn-search trials quick | head` is no error; keep Python from flushing into the pipe.
        sys.stdout = None
        return 1
    return result if isinstance(result, int) else 0


def complain(message: str, status: int) -> int:
    """Print an error as users should see it: one line, no traceback."""
    click.echo(f"larnn-search: {visible(message)}", err=True)
    return status
