"""Prepared data sets on disk: cut once, then read in a fraction of a second by every worker."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from model.data.dataset import DataError, Dataset
from model.data.npz import DAMAGED
from model.folders import cache_folder

ARRAYS = ("x", "y", "person", "length")

logger = logging.getLogger(__name__)


def cached(file_name: str, build: Callable[[], Dataset]) -> Dataset:
    """Read a prepared data set, or build and keep it.

    Several processes may ask at once: one builds under a lock, the others wait and read. The file
    is written beside and renamed, so that nobody reads half of it.

    Args:
        file_name: Name within the cache folder; holds the fingerprint, so that a new recipe never
            meets an old file.
        build: Makes the data set from its source.

    Raises:
        DataError: If the cache folder cannot be written, or what ``build`` raises.
    """
    path = cache_folder() / file_name
    if (data := _read(path)) is not None:
        return data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if (data := _read(path)) is None:
                data = _built(build)
                _write(path, data)
    except OSError as error:
        raise DataError(
            f"the cache folder {path.parent} must be writable ({error}): "
            "set LARNN_CACHE_DIR to one that is"
        ) from error
    return data


def _built(build: Callable[[], Dataset]) -> Dataset:
    try:
        return build()
    except OSError as error:  # not the cache folder's
        raise DataError(f"the data's source cannot be read: {error}") from error


def _read(path: Path) -> Dataset | None:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            told: dict[str, Any] = json.loads(str(file["about"]))
            told.update({name: file.get(name) for name in ARRAYS})
        for name in ("class_names", "channel_names"):
            told[name] = tuple(told[name])
        told["split"] = {part: tuple(people) for part, people in told["split"].items()}
        return Dataset(**told)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, *DAMAGED) as error:
        logger.warning("%s is damaged (%s) and is made again", path, error)
        return None


def _write(path: Path, data: Dataset) -> None:
    fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    arrays = {name: fields.pop(name) for name in ARRAYS}
    held = {name: values for name, values in arrays.items() if values is not None}
    beside = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(beside, about=json.dumps(fields), **held)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
