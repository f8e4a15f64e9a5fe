"""Which data sets there are. A new one is one more entry in `ENTRIES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.data import har
from model.data.dataset import DataError, Dataset


@dataclass(frozen=True)
class DatasetInfo:
    """What `larnn-search datasets` tells of a data set without loading it."""

    name: str
    doc: str
    sequences: int
    steps: int
    channels: int
    classes: int
    people: int
    licence: str
    source: str
    present: bool
    """Whether it can be loaded here and now."""


@dataclass(frozen=True)
class Entry:
    """A kind of data set: ``NAME``, or ``NAME:ARGUMENT`` where it takes one."""

    describe: Callable[[], DatasetInfo]
    load: Callable[[], Dataset]


def _describe_har() -> DatasetInfo:
    return DatasetInfo(
        name="har",
        doc="six daily activities, a phone at the waist, 50 Hz",
        sequences=10_411,
        steps=har.WINDOW,
        channels=len(har.CHANNELS),
        classes=len(har.ACTIVITIES),
        people=30,
        licence=har.LICENCE,
        source=har.SOURCE,
        present=har.source_file() is not None,
    )


ENTRIES: Mapping[str, Entry] = {"har": Entry(_describe_har, har.load_har)}


def available() -> list[DatasetInfo]:
    """Describe every data set that the project knows."""
    return [entry.describe() for entry in ENTRIES.values()]


def load(name: str, time_stride: int = 1) -> Dataset:
    """Load a data set by name.

    Args:
        name: One of those that `available` lists.
        time_stride: Keep every how-manieth time step.

    Raises:
        DataError: If the name is unknown, the data are not here, or ``time_stride`` is below 1.
    """
    if name not in ENTRIES:
        raise DataError(f"unknown data set {name!r}; known ones: {', '.join(ENTRIES)}")
    return ENTRIES[name].load().every(time_stride)
