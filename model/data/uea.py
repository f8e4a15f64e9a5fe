"""Data sets ``uea:NAME``: the multivariate archive of timeseriesclassification.com, through aeon.

The archive's own split is kept for the test; of its training sequences the last fifth of each class
is kept for validation. It names no people.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from model.data.arrays import make_dataset, split_sequences
from model.data.dataset import DataError, Dataset
from model.folders import cache_folder
from model.words import did_you_mean

SHIPPED = ("BasicMotions", "JapaneseVowels")
"""Those that come with aeon and need no download."""
RECIPE = 1
"""Raised with every change of what comes out, the split included."""
LICENCE = "see the archive"
SOURCE = "https://www.timeseriesclassification.com"


def load_uea(name: str) -> Dataset:
    """Read a data set of the archive, downloaded on first use unless it came with aeon.

    Raises:
        DataError: If aeon is missing, or the data set is neither here nor to be had.
    """
    if not re.fullmatch(r"\w+", name):
        raise DataError(f"a data set of the archive has a name like BasicMotions, got {name!r}")
    if not is_present():
        raise DataError(f"data set 'uea:{name}' needs aeon: pip install 'larnn-search[uea]'")
    files = _files(name)
    from aeon.datasets import load_from_ts_file  # with numba it takes seconds to import

    cases: list[NDArray[Any]] = []
    labels: list[str] = []
    borders = [0]
    for file in files:
        try:
            x, y = load_from_ts_file(str(file))
        except (OSError, ValueError, IndexError) as error:
            raise DataError(f"{file} cannot be read as a .ts file: {error}") from error
        cases += [np.asarray(case, dtype=np.float32).T for case in x]  # [T, F] each
        labels += [str(label) for label in y]
        borders.append(len(cases))
    x, length = padded(cases)
    y = np.array(labels)
    return make_dataset(
        f"uea:{name}",
        x,
        y,
        length=length,
        split=_split(y, borders[1]),
        source_sha256=hashlib.sha256(b"".join(_digest(file) for file in files)).hexdigest(),
        recipe=RECIPE,
        licence=LICENCE,
        source=SOURCE,
    )


def is_present() -> bool:
    """Whether aeon is installed; found without importing it."""
    return importlib.util.find_spec("aeon") is not None


def padded(cases: list[NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Sequences ``[T_i, F]`` as one array ``[n, T, F]``, and their lengths where they differ."""
    length = np.array([len(case) for case in cases], dtype=np.int64)
    x = np.zeros((len(cases), int(length.max()), cases[0].shape[1]), dtype=np.float32)
    for row, case in zip(x, cases, strict=True):
        row[: len(case)] = case
    return x, None if length.min() == length.max() else length


def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def _split(y: NDArray[Any], training: int) -> dict[str, tuple[int, ...]]:
    """The archive's test part; of its training part, `split_sequences`' test part validates."""
    parts = split_sequences(np.unique(y[:training], return_inverse=True)[1])
    return {
        "train": parts["train"] + parts["validation"],
        "validation": parts["test"],
        "test": tuple(range(training, len(y))),
    }


def _files(name: str) -> tuple[Path, Path]:
    """The archive's two files of a data set."""
    package = importlib.util.find_spec("aeon")
    places = [cache_folder() / "uea" / name]
    if package is not None and package.origin is not None:
        places.insert(0, Path(package.origin).parent / "datasets" / "data" / name)
    for place in places:
        files = place / f"{name}_TRAIN.ts", place / f"{name}_TEST.ts"
        if all(file.exists() for file in files):
            return files
    _download(name, files)
    return files


def _download(name: str, files: tuple[Path, Path]) -> None:
    """Let aeon fetch a data set's files into the cache folder.

    Raises:
        DataError: If there is no such data set, or no way to it.
    """
    from aeon.datasets import load_classification, tsc_datasets

    lists = (found for found in vars(tsc_datasets).values() if isinstance(found, list))
    if name not in set().union(*lists):
        raise DataError(
            f"the archive has no data set {name!r}; {did_you_mean(name, tsc_datasets.multivariate)}"
        )
    place = files[0].parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_suffix(".lock")):
            if not all(file.exists() for file in files):  # fetched meanwhile by another process
                with tempfile.TemporaryDirectory(dir=place.parent) as beside:
                    load_classification(name, extract_path=beside)
                    for file in files:  # nobody reads half of one
                        (Path(beside) / name / file.name).replace(file)
    except (OSError, ValueError, zipfile.BadZipFile, http.client.HTTPException) as error:
        raise DataError(
            f"data set 'uea:{name}' is not on this machine and cannot be downloaded ({error}): "
            f"put {name}_TRAIN.ts and {name}_TEST.ts into {place}; {', '.join(SHIPPED)} come with "
            "aeon"
        ) from error
