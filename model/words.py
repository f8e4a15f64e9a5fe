"""What errors about unknown names have in common."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], shown: Iterable[str] = ()) -> str:
    """The end of an error about an unknown ``word``: the nearest known one, and all of them.

    Args:
        word: What was written.
        known: What might have been meant.
        shown: How to write the known ones, where that is longer than their names.
    """
    names = tuple(known)
    near = difflib.get_close_matches(word, names, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}known ones: {', '.join(tuple(shown) or names)}"
