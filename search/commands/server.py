"""The database: mongo start, stop, uri, users; and health, which asks it for signs of life."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from search.options import mongo_option, opened, option, uri_from_option
from trials.store import LEASE_SECONDS

password_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def mongo() -> None:
    """Look after a MongoDB: this machine's private one, or the users of a shared one.

    Commands start the private one when they need it and the last one stops it. `mongo start` keeps
    it up.
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


@mongo.command()
@option(
    "--worker-password-file",
    type=password_file,
    required=True,
    metavar="FILE",
    help="Password of user `worker`, who reads and writes the queue.",
)
@option(
    "--reader-password-file",
    type=password_file,
    required=True,
    metavar="FILE",
    help="Password of user `reader`, who only reads it.",
)
@mongo_option
def users(worker_password_file: Path, reader_password_file: Path, mongo: str | None) -> None:
    """Create the users `worker` and `reader`, or give them new passwords.

    For this, log in as an administrator: mongodb://root@HOST/larnn_search?authSource=admin
    """
    from trials.connect import connect, read_password
    from trials.users import make_users

    if mongo is None:
        raise click.UsageError("users are for a shared MongoDB: name it in LARNN_MONGO_URI")
    worker_password = read_password(worker_password_file, "--worker-password-file")
    reader_password = read_password(reader_password_file, "--reader-password-file")
    with connect(uri_from_option(mongo)) as store:
        make_users(store, worker_password=worker_password, reader_password=reader_password)
    click.echo("users worker and reader are ready")


@click.command(hidden=True)
@click.argument("role", type=click.Choice(["worker", "feeder"]))
@mongo_option
def health(role: str, mongo: str | None) -> None:
    """Exit with 0 when this host's worker is alive, or every study is fed (for containers)."""
    with opened(mongo) as store:
        if role == "feeder":
            if unfed := store.unfed_studies():
                raise click.ClickException(f"no feeder is at work for {', '.join(unfed)}")
        elif (host := socket.gethostname()) not in {w.host for w in store.list_workers()}:
            raise click.ClickException(
                f"no worker on {host} was heard of in the last {LEASE_SECONDS:.0f} s"
            )


COMMANDS = (mongo, health)
