"""How numbers, times and curves are written for people, on screens and on figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-=+*#@"


_CODES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
_CODES |= {0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}


def visible(text: str) -> str:
    """Text with its control codes, but for tabs and ends of lines, as characters: ``␛`` for ESC.

    A terminal obeys such codes, whoever wrote them.
    """
    return text.translate(_CODES)


def format_share(value: Any) -> str:
    """An accuracy, or another share, as per cent; ``-`` where there is none."""
    return f"{100 * value:.2f} %" if isinstance(value, float) else "-"


def format_value(value: Any) -> str:
    """A setting or metric, floats in at most four significant digits; None is ``-``."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if math.isfinite(value) and value != 0 and not 1e-4 <= abs(value) < 1e4:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def format_duration(seconds: float | None) -> str:
    """Seconds as ``41 s``, ``3 min 20 s``, ``2 h 05 min`` or ``3 d 4 h``; ``-`` for None."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def sparkline(values: Sequence[float], width: int = 20, *, ascii_only: bool = False) -> str:
    """A curve in one line of text, the latest ``width`` values, each on the curve's own scale.

    A value that is not finite is a space.
    """
    shown = list(values)[-width:]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return " " * len(shown)
    bars = _ASCII_BARS if ascii_only else _BARS
    low, span = min(finite), max(finite) - min(finite)
    top = len(bars) - 1
    return "".join(
        bars[round((value - low) / span * top) if span > 0 else 0] if math.isfinite(value) else " "
        for value in shown
    )
