"""Commands that serve a page: dashboard."""

from __future__ import annotations

import os
import secrets
import socket
from urllib.parse import quote

import click

from search.options import mongo_option, opened, option
from trials.signals import noting_signals

TOKEN_VARIABLE = "LARNN_DASHBOARD_TOKEN"  # noqa: S105  # the name of a variable
ADDRESS = "127.0.0.1"


@click.command()
@option(
    "--port", type=click.IntRange(0, 65535), default=8765, envvar="LARNN_DASHBOARD_PORT",
    help="Where to listen on 127.0.0.1; 0: a free one.",
)  # fmt: skip
@option("--allow-control", is_flag=True, help="Let the page pause, stop and cancel studies.")
@mongo_option
def dashboard(port: int, allow_control: bool, mongo: str | None) -> None:
    """Serve the live view and the figures as a page, for this machine's browser only.

    The printed address carries the page's token: a new one each time, or LARNN_DASHBOARD_TOKEN.
    """
    import uvicorn

    from search.dashboard import make_app

    token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((ADDRESS, port))
        except OSError as error:
            raise click.UsageError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from error
        listening.listen()  # requests wait from here on, so the address can be told
        port = listening.getsockname()[1]
        with opened(mongo) as store:
            app = make_app(store, token=token, port=port, may_control=allow_control)
            config = uvicorn.Config(app, log_level="warning", access_log=False)
            click.echo(f"http://{ADDRESS}:{port}/?token={quote(token, safe='')}")
            # uvicorn raises the signal that ended it again; here it is done with then, so that the
            # store is closed and its server, if it is our own, stopped.
            with noting_signals():
                uvicorn.Server(config).run(sockets=[listening])


COMMANDS = (dashboard,)
