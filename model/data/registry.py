"""Which data sets there are. A new one is one more entry in `ENTRIES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from model.data import har, uci_har, uea
from model.data.dataset import DataError, Dataset
from model.data.npz import load_npz
from model.words import did_you_mean


@dataclass(frozen=True)
class DatasetInfo:
    """What `larnn-search datasets` tells of a data set; None where its file decides."""

    name: str
    doc: str
    sequences: int | None
    steps: int | None
    """Of the longest sequence."""
    channels: int | None
    classes: int | None
    people: int | None
    """None also where nobody is named."""
    licence: str
    source: str
    present: bool
    """Whether it can be loaded here and now, without a download."""


@dataclass(frozen=True)
class Entry:
    """A kind of data set: ``NAME``, or ``NAME:ARGUMENT`` where it takes one."""

    cards: Callable[[], tuple[DatasetInfo, ...]]
    load: Callable[[str], Dataset]
    """From the argument, empty where none was given."""
    argument: str = ""
    """What stands after the colon, for people; empty: nothing may."""
    needs_argument: bool = False


_OPEN = (None, None, None, None, None)
"""Sequences, steps, channels, classes, people: for the file to say."""


def _har_cards() -> tuple[DatasetInfo, ...]:
    shape = (har.WINDOW, len(har.CHANNELS), len(har.ACTIVITIES), 30)
    doc = "six daily activities, a phone at the waist, 50 Hz"
    present = har.source_file() is not None
    return (DatasetInfo("har", doc, 10_411, *shape, har.LICENCE, har.SOURCE, present),)


def _uci_har_cards() -> tuple[DatasetInfo, ...]:
    shape = (har.WINDOW, len(har.CHANNELS), len(har.ACTIVITIES), 30)
    doc = f"as published; downloaded, or the folder or zip that {uci_har.PLACE} names"
    card = DatasetInfo(
        "uci-har", doc, 10_299, *shape, uci_har.LICENCE, uci_har.SOURCE, uci_har.is_present()
    )
    return (card,)


def _npz_cards() -> tuple[DatasetInfo, ...]:
    doc = "your own arrays x, y and, if you have them, person and length (docs/data.md)"
    return (DatasetInfo("npz:PATH", doc, *_OPEN, "your own", "a NumPy file", True),)


def _uea_cards() -> tuple[DatasetInfo, ...]:
    present, about = uea.is_present(), (uea.LICENCE, uea.SOURCE)
    motions = "four activities, a watch's accelerometer and gyroscope, 10 Hz"
    vowels = "nine speakers, 12 features of speech, sequences of 7 to 29 steps"
    return (
        DatasetInfo("uea:BasicMotions", motions, 80, 100, 6, 4, None, *about, present),
        DatasetInfo("uea:JapaneseVowels", vowels, 640, 29, 12, 9, None, *about, present),
        DatasetInfo("uea:NAME", "any other of the archive, downloaded", *_OPEN, *about, False),
    )


ENTRIES: Mapping[str, Entry] = {
    "har": Entry(_har_cards, lambda _: har.load_har()),
    "uci-har": Entry(_uci_har_cards, uci_har.load_uci_har, argument="PATH"),
    "npz": Entry(_npz_cards, load_npz, argument="PATH", needs_argument=True),
    "uea": Entry(_uea_cards, uea.load_uea, argument="NAME", needs_argument=True),
}


def available() -> list[DatasetInfo]:
    """Describe every data set that the project knows, without loading any."""
    return [card for entry in ENTRIES.values() for card in entry.cards()]


def describe(data: Dataset) -> DatasetInfo:
    """The card of a data set that was loaded."""
    n, steps, channels = data.x.shape
    people = None if data.person is None else len(np.unique(data.person))
    doc = ", ".join(data.class_names)
    numbers = (n, steps, channels, len(data.class_names), people)
    return DatasetInfo(data.name, doc, *numbers, data.licence, data.source, True)


def load(name: str, time_stride: int = 1) -> Dataset:
    """Load a data set by name.

    Args:
        name: One of those that `available` lists, such as ``har`` or ``npz:mine.npz``.
        time_stride: Keep every how-manieth time step.

    Raises:
        DataError: If the name is unknown, the data are not here or break a rule, or ``time_stride``
            is below 1.
    """
    kind, colon, argument = name.partition(":")
    if kind not in ENTRIES:
        raise DataError(f"unknown data set {name!r}; {did_you_mean(kind, ENTRIES, _forms())}")
    entry = ENTRIES[kind]
    if (entry.needs_argument and not argument) or (colon and not entry.argument):
        form = f"{kind}:{entry.argument}" if entry.argument else kind
        raise DataError(f"this data set is written {form}, got {name!r}")
    return entry.load(argument).every(time_stride)


def _forms() -> list[str]:
    """How each kind is written."""
    return [
        f"{kind}:{entry.argument}" if entry.needs_argument else kind
        for kind, entry in ENTRIES.items()
    ]
