"""A trained classifier as a folder: what `larnn-search train` and `best --save` leave behind.

``model.safetensors`` is complete in itself: weights, normalisation, configuration, names of classes
and channels. The JSON files beside it say the same for people and other programs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoint import CheckpointError
from model.evaluation import about_weights

MODEL = "model.safetensors"
CONFIG = "config.json"
DATA_CARD = "data.json"
METRICS = "metrics.json"


class SavedModelError(ValueError):
    """A folder holds no model, or one that would be lost, or cannot be written."""


def check_free(folder: Path) -> None:
    """Make sure that a folder can take a model, before anything long begins.

    Raises:
        SavedModelError: If it holds one already, or cannot be written.
    """
    if (folder / MODEL).exists():
        raise SavedModelError(f"{folder} holds a model already: choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SavedModelError(f"cannot write to {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise SavedModelError(f"cannot write to {folder}: no permission")


def save(
    folder: Path,
    weights: bytes,
    metrics: Mapping[str, Any] | None = None,
    *,
    also: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's folder; the model itself comes last, so that a folder with one is complete.

    Args:
        folder: Made where it is missing.
        weights: `FitResult.weights`.
        metrics: What is known of it, as JSON knows it; None: of its best epoch.
        also: More to write beside it, as JSON knows it, by the name of its file.

    Raises:
        SavedModelError: As `check_free`, or if the disk is full.
        CheckpointError: If ``weights`` are none.
    """
    about = about_weights(weights)
    check_free(folder)
    texts = {
        CONFIG: about["config"],
        DATA_CARD: about["data_card"],
        METRICS: about["metrics"] if metrics is None else metrics,
        **(also or {}),
    }
    try:
        for name, told in texts.items():
            (folder / name).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        write_whole(folder / MODEL, weights)
    except OSError as error:
        raise SavedModelError(f"cannot write to {folder}: {error.strerror}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file at once: nobody meets half of it, not even after a crash."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load(folder: Path) -> bytes:
    """The weights that `save` wrote.

    Raises:
        SavedModelError: If there are none.
    """
    try:
        weights = (folder / MODEL).read_bytes()
    except OSError as error:
        raise SavedModelError(
            f"a model is a folder with a {MODEL}, as `larnn-search train -o` writes it; {folder} "
            f"is none ({error.strerror})"
        ) from error
    try:
        about_weights(weights)
    except CheckpointError as error:
        raise SavedModelError(f"{folder / MODEL}: {error}") from error
    return weights
