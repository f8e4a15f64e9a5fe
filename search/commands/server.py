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

    click.echo(embedded.start().uri)


@mongo.command()
def stop() -> None:
    """Stop the server, or leave that to the searches that still use it."""
    from trials import embedded

    used = embedded.stop().uri is not None
    click.echo("still in use; its last user stops it" if used else "stopped")


@mongo.command()
def uri() -> None:
    """Print the address, for LARNN_MONGO_URI or other tools, when the server is up."""
    from trials import embedded

    address = embedded.status().uri
    if address is None:
        raise click.ClickException("the private MongoDB is not running: larnn-search mongo start")
    click.echo(address)


COMMANDS = (mongo,)
