"""This machine's clock."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time by this machine; ages of another machine's times are off by what the two differ."""
    return datetime.now(UTC)
