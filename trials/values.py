"""What a document may hold: values of JSON's types, checked before writing and after reading."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import bson

from trials.errors import InvalidValueError

MAX_DEPTH = 50
MAX_BYTES = 4 * 2**20
"""Largest params, result and so on: together with a trial's reports they stay below 16 MB."""


def plain(value: object, where: str) -> Any:
    """Return ``value`` made of JSON's types only, as MongoDB gives it back.

    Tuples become lists, NumPy scalars the Python numbers they hold; NaN and infinities are kept.

    Args:
        value: Anything a caller passed, or a database held.
        where: What the value is, for the message.

    Raises:
        InvalidValueError: For another type, a name with ``.``, NUL or a leading ``$``, a whole
            number over 64 bits, text that is not Unicode, more than `MAX_DEPTH` levels or
            `MAX_BYTES`.
    """
    made = plain_of_any_size(value, where)
    size = len(bson.encode({"": made}))
    if size > MAX_BYTES:
        raise InvalidValueError(
            f"{where} may hold {MAX_BYTES / 2**20:.0f} MiB, got {size / 2**20:.1f} MiB: "
            "keep arrays with save_weights or save_checkpoint"
        )
    return made


def plain_of_any_size(value: Any, where: str, depth: int = 0) -> Any:
    """As `plain`, for what a database held already: there is no need to measure it again."""
    if depth > MAX_DEPTH:
        raise InvalidValueError(f"{where} may nest {MAX_DEPTH} levels deep, found more")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and not isinstance(value, bson.Code):
        return _text(str(value), where)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidValueError(f"{where}: a whole number has at most 64 bits, got {value:e}")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {
            _name(key, where): plain_of_any_size(item, where, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain_of_any_size(item, where, depth + 1) for item in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a NumPy or torch scalar
        return plain_of_any_size(value.item(), where, depth + 1)
    raise InvalidValueError(
        f"{where} takes numbers, text, true, false, none, lists and mappings, "
        f"got {type(value).__name__}"
    )


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValueError(
            f"{where}: text must be valid Unicode, got {value[:40]!r}"
        ) from None
    return value


def _name(key: object, where: str) -> str:
    if not isinstance(key, str) or not key or key[0] == "$" or "." in key or "\0" in key:
        shown = repr(key)[:60]
        raise InvalidValueError(
            f"{where}: a name is text without '.', NUL or a leading '$', got {shown}: rename it"
        )
    # Thousands of trials have the same names: one copy of each is enough.
    return sys.intern(_text(str(key), where))


def canonical(value: object) -> str:
    """Text that is equal for equal plain values; tells 1, 1.0 and true apart, NaN equals NaN."""
    return json.dumps(value, sort_keys=True)
