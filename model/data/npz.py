"""Data set ``npz:PATH``: a user's own arrays in one NumPy file."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.arrays import make_dataset
from model.data.dataset import DataError, Dataset
from model.words import did_you_mean

RECIPE = 1
"""Raised with every change of what comes out, the split included."""
REQUIRED = ("x", "y")
ARRAYS = (*REQUIRED, "person", "length", "channel_names")
DAMAGED = (zipfile.BadZipFile, zlib.error, RuntimeError)
"""What reading a damaged zip raises; RuntimeError: it looks encrypted, or compressed otherwise."""


def load_npz(path: str) -> Dataset:
    """Read a file that `numpy.savez` wrote; what is in it cannot run code.

    Args:
        path: A file of ``x [n, T, F]``, ``y [n]`` and optionally ``person [n]``, ``length [n]``,
            ``channel_names [F]``.

    Raises:
        DataError: If the file cannot be read or its arrays break a rule.
    """
    file = Path(os.path.expanduser(path))
    arrays, digest = read_arrays(file, ARRAYS, REQUIRED)
    names = arrays.get("channel_names")
    return make_dataset(
        f"npz:{path}",
        arrays["x"],
        arrays["y"],
        person=arrays.get("person"),
        length=arrays.get("length"),
        channel_names=None if names is None else [str(name) for name in names.reshape(-1)],
        source_sha256=digest,
        recipe=RECIPE,
        licence="your own",
        source=str(file),
    )


def read_arrays(
    file: Path, known: tuple[str, ...], required: tuple[str, ...]
) -> tuple[dict[str, NDArray[Any]], str]:
    """Arrays of a NumPy file by name, and the file's SHA-256.

    Raises:
        DataError: If the file is missing, no such file, or has other arrays.
    """
    try:
        with file.open("rb") as raw:
            digest = hashlib.file_digest(raw, "sha256").hexdigest()
            raw.seek(0)
            with np.load(raw, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
    except OSError as error:
        raise DataError(f"cannot read the data file {file}: {error.strerror or error}") from error
    except (ValueError, EOFError, TypeError, AttributeError, *DAMAGED) as error:
        raise DataError(
            f"{file} must be an .npz file of numbers and text, as numpy.savez writes it, and is "
            f"none ({error})"
        ) from error
    for name in required:
        if name not in arrays:
            found = ", ".join(arrays) or "nothing"
            raise DataError(f"{file} must hold an array {name!r}, found {found}")
    for name in arrays:
        if name not in known:
            raise DataError(f"{file} has an unknown array {name!r}; {did_you_mean(name, known)}")
    return arrays, digest
