"""What an objective may return: plain JSON values, and a loss that is a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LARGEST_INT = 2**63 - 1


def plain_result(value: Any, where: str = "result") -> Any:
    """Turn ``value`` into plain JSON values; numpy's and torch's by their own methods.

    Raises:
        TypeError: If something in it is no such value; names the place.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        if abs(value) > LARGEST_INT:
            raise TypeError(f"{where} is beyond 64 bits: return it as a string")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain_result(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_result(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if callable(getattr(value, "tolist", None)):  # numpy and torch: scalars become numbers
        return plain_result(value.tolist(), where)
    raise TypeError(f"{where} is a {type(value).__name__}: return plain JSON values only")


def plain_number(value: Any, where: str) -> float:
    """Turn a number, numpy's and torch's scalars included, into a float.

    Raises:
        TypeError: If it is something else.
    """
    number = value.item() if callable(getattr(value, "item", None)) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{where} must be a number, got {str(value)[:80]!r}")
    return float(number)
