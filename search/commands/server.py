"""The private MongoDB of this machine: mongo start, stop, uri."""

from __future__ import annotations

import click


@click.group()
def mongo() -> None:
    """Start, stop or address the private MongoDB of this machine.

    Commands start it when they need it and the last one stops it. `mongo start` keeps it up.
    """


@mongo.command()
def start() -> None:
    """Start the server and keep it up until `mongo stop`."""
    from trials import embedded

    click.echo(embedded.start())


@mongo.command()
def stop() -> None:
    """Stop the server, unless a search still uses it."""
    from trials import embedded

    click.echo("stopped" if embedded.stop() else "it was not running")


@mongo.command()
def uri() -> None:
    """Print the address, for LARNN_MONGO_URI or other tools, when the server is up."""
    from trials import embedded

    address = embedded.uri()
    if address is None:
        raise click.ClickException("the private MongoDB is not running: larnn-search mongo start")
    click.echo(address)


COMMANDS = (mongo,)
