"""What may be shown of a MongoDB URI, and what must not."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

from pymongo.errors import ConfigurationError
from pymongo.uri_parser import split_hosts


class UriParts(NamedTuple):
    """A URI's parts, still percent-encoded."""

    user: str
    """With its password, if it has one; empty: nobody logs in."""
    hosts: str
    """Safe to show; empty where none can be told from a password."""
    options: str


def split_uri(uri: str) -> UriParts:
    """Take a URI apart as PyMongo does, and trust none in which a password may hide.

    One with ``/``, ``?`` or ``@`` in it that are not percent-encoded could pass for a host, a
    database or an option: where the hosts are none, or an ``@`` comes after them outside of an
    option's value, all before the last ``@`` counts as the user.
    """
    body = uri.partition("://")[2]
    rest, _, options = body.partition("?")
    authority, _, database = rest.partition("/")
    user, _, hosts = authority.rpartition("@")
    if "@" in database + options.partition("=")[0] or not _are_hosts(hosts):
        return UriParts(body.rpartition("@")[0], "", options)
    return UriParts(user, hosts, options)


def _are_hosts(text: str) -> bool:
    try:
        return bool(split_hosts(text))
    except (ConfigurationError, ValueError):
        return False


def address(uri: str) -> str:
    """Hosts of a URI, without user, password and options: safe to show."""
    return unquote(split_uri(uri).hosts) or "no host"


def has_password(uri: str) -> bool:
    """Whether a URI carries a password, of its user or of a key among its options."""
    user, _, options = split_uri(uri)
    return ":" in user or "password=" in options.lower()
