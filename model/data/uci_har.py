"""Data set ``uci-har``: the published UCI HAR (Anguita et al. 2013, UCI data set 240), as it is.

Read from the user's folder or zip, or downloaded. Test people are the published ones; the
validation people are those of `har`, cut from the same recordings.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from model.data import har
from model.data.dataset import DataError, Dataset, fingerprint
from model.data.npz import DAMAGED
from model.folders import cache_folder

URL = (
    "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip"
)
PLACE = "LARNN_UCI_HAR"
"""Environment variable: where this machine keeps the folder or zip."""
RECIPE = 1
"""Raised with every change of what comes out."""
LICENCE = "CC BY 4.0"
SOURCE = "https://archive.ics.uci.edu/dataset/240"
FOLDER = "UCI HAR Dataset"
SIGNALS = tuple(
    f"{signal}_{axis}" for signal in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"
)
"""Files of channels, in the order of `har.CHANNELS`."""

Root = Path | zipfile.Path


def load_uci_har(path: str = "") -> Dataset:
    """Read the data set.

    Args:
        path: Folder or zip, UCI's; empty: what ``LARNN_UCI_HAR`` names, else the download in the
            cache folder, which is made where it is missing.

    Raises:
        DataError: If it is nowhere, or is not laid out as UCI's.
    """
    chosen = path or os.environ.get(PLACE, "")
    place = Path(os.path.expanduser(chosen)) if chosen else downloaded()
    root = _root(place)
    digest = hashlib.sha256()
    parts = [_read_part(root, part, place, digest) for part in ("train", "test")]
    x, y, person = (np.concatenate(values) for values in zip(*parts, strict=True))
    _check_people(parts[0][2], har.TRAINING_PEOPLE + har.VALIDATION_PEOPLE, "train", place)
    _check_people(parts[1][2], har.TEST_PEOPLE, "test", place)
    return Dataset(
        name=f"uci-har:{path}" if path else "uci-har",
        x=x,
        y=y,
        person=person,
        length=None,
        class_names=har.ACTIVITIES,
        channel_names=har.CHANNELS,
        split=har.SPLIT,
        fingerprint=fingerprint(digest.hexdigest(), RECIPE, har.SPLIT),
        licence=LICENCE,
        source=SOURCE,
    )


def is_present() -> bool:
    """Whether the data set can be loaded without a download."""
    place = os.environ.get(PLACE)
    return (Path(os.path.expanduser(place)) if place else _kept()).exists()


def _kept() -> Path:
    return cache_folder() / "uci-har.zip"


def downloaded() -> Path:
    """UCI's zip in the cache folder, downloaded on first use.

    Raises:
        DataError: If it cannot be downloaded or kept.
    """
    kept = _kept()
    if kept.exists():
        return kept
    beside = kept.with_name(f".{kept.name}.{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            if not kept.exists():
                with urllib.request.urlopen(URL, timeout=30) as answer:
                    beside.write_bytes(answer.read())
                if not zipfile.is_zipfile(beside):  # cut off, or a portal's page
                    raise OSError(f"{beside.stat().st_size} bytes came that are no zip")
                beside.replace(kept)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"data set 'uci-har' is not on this machine and cannot be downloaded ({error}): fetch "
            f"{URL} and set {PLACE} to the zip or the unpacked folder; 'har' is cut from the same "
            "recordings and needs no download"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return kept


def _root(place: Path) -> Root:
    """The folder that holds ``train`` and ``test``, in a folder, a zip, or a zip within a zip."""
    if not place.exists():
        raise DataError(f"data set 'uci-har' needs UCI's folder or zip, there is no {place}")
    try:
        root: Root = place if place.is_dir() else zipfile.Path(place)
        inner = root / f"{FOLDER}.zip"
        if inner.is_file():
            root = zipfile.Path(zipfile.ZipFile(io.BytesIO(inner.read_bytes())))
    except (OSError, *DAMAGED) as error:
        raise DataError(f"{place} must be UCI's folder or zip, and is none ({error})") from error
    for candidate in (root, root / FOLDER):
        if (candidate / "train").is_dir() and (candidate / "test").is_dir():
            return candidate
    raise DataError(
        f"{place} must hold UCI HAR's folders 'train' and 'test' (in {FOLDER!r} or directly), "
        "found neither"
    )


def _read_part(
    root: Root, part: str, place: Path, digest: hashlib._Hash
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Signals ``[n, T, 9]``, labels and people of ``train`` or ``test``."""

    def table(name: str, dtype: type) -> NDArray[np.generic]:
        try:
            held = root.joinpath(part, *name.split("/")).read_bytes()
            digest.update(f"{part}/{name}".encode() + hashlib.sha256(held).digest())
            return np.loadtxt(io.BytesIO(held), dtype=dtype, ndmin=2)
        except (OSError, KeyError, ValueError, *DAMAGED) as error:
            raise DataError(f"{place}: cannot read {part}/{name}: {error}") from error

    signals = [table(f"Inertial Signals/{name}_{part}.txt", np.float32) for name in SIGNALS]
    labels, people = (table(f"{name}_{part}.txt", np.int64) for name in ("y", "subject"))
    shapes = {signal.shape for signal in signals}
    n = len(signals[0])
    if len(shapes) > 1 or labels.shape != (n, 1) or people.shape != (n, 1):
        raise DataError(
            f"{place}: files of {part!r} must have one line a window, found signals of "
            f"{sorted(shapes)}, {len(labels)} labels and {len(people)} people"
        )
    x = np.stack(signals, axis=2).astype(np.float32)
    if not np.isfinite(x).all():
        raise DataError(f"{place}: signals of {part!r} must be finite, found NaN or infinite ones")
    return x, labels[:, 0].astype(np.int64) - 1, people[:, 0].astype(np.int64)


def _check_people(
    found: NDArray[np.int64], expected: tuple[int, ...], part: str, place: Path
) -> None:
    if strangers := sorted(set(found.tolist()) - set(expected)):
        raise DataError(
            f"{place}: people of {part!r} must be UCI's {', '.join(map(str, sorted(expected)))}, "
            f"found person {strangers[0]}"
        )
