"""A data set from plain arrays: what is checked, and how people or sequences are split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import PARTS, DataError, Dataset, fingerprint

SHARE = 0.2
"""Of the people (or sequences): for validation, and as much for the test."""


def make_dataset(
    name: str,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    source_sha256: str,
    recipe: int,
    licence: str,
    source: str,
    person: NDArray[Any] | None = None,
    length: NDArray[Any] | None = None,
    channel_names: Sequence[str] | None = None,
    split: Mapping[str, tuple[int, ...]] | None = None,
) -> Dataset:
    """Check arrays and make them a data set.

    Args:
        name: As `Dataset.name`.
        x: Real numbers, ``[n, T, F]``.
        y: Labels, whole numbers or text, ``[n]``.
        source_sha256: Of what the arrays were read from.
        recipe: Version of the reading.
        licence: As `Dataset.licence`.
        source: As `Dataset.source`.
        person: Whole numbers or text, ``[n]``; None: each sequence stands for itself.
        length: Valid steps, 1 to T, ``[n]``; None: all have T.
        channel_names: None: ``channel 0``, ``channel 1``, ...
        split: As `Dataset.split`; None: `split_people`, or without people `split_sequences`.

    Raises:
        DataError: For NaN or infinite values, one class, too few people, or arrays that do not fit
            together.
    """
    x, length = check_values(x, length)
    classes, labels = _numbered("y", y, len(x))
    if len(classes) < 2:
        raise DataError(f"y must hold at least 2 classes, found only {classes[0]!r}")
    if person is not None:
        names, numbers = _numbered("person", person, len(x))
        person = numbers if isinstance(names[0], str) else np.asarray(names)[numbers]
    if split is None:
        split = split_sequences(labels) if person is None else split_people(person)
    data = Dataset(
        name=name,
        x=x,
        y=labels,
        person=person,
        length=length,
        class_names=tuple(str(label) for label in classes),
        channel_names=tuple(channel_names or (f"channel {i}" for i in range(x.shape[2]))),
        split=split,
        fingerprint=fingerprint(source_sha256, recipe, split),
        licence=licence,
        source=source,
    )
    check_training_classes(
        data, "it occurs among validation and test people only, so leave it out or add people"
    )
    return data


def split_people(person: NDArray[np.int64]) -> dict[str, tuple[int, ...]]:
    """A fifth of the people for the test, a fifth for validation, the others for training.

    Who goes where follows from the hash of a person's number: the same on every machine.

    Raises:
        DataError: If there are fewer than 3 people.
    """
    people = [int(number) for number in np.unique(person)]
    if len(people) < 3:
        raise DataError(
            "a split by person needs at least 3 people (training, validation, test), found "
            f"{len(people)}: add people, or leave the array 'person' out"
        )
    people.sort(key=lambda number: hashlib.sha256(str(number).encode()).digest())
    return _parts(people)


def split_sequences(y: NDArray[np.int64]) -> dict[str, tuple[int, ...]]:
    """Of each class the last fifth for the test, the fifth before for validation.

    In order, not at random: neighbours in a file are often neighbours in time.

    Raises:
        DataError: If no class has 3 sequences.
    """
    split: dict[str, tuple[int, ...]] = dict.fromkeys(PARTS, ())
    for label in np.unique(y):
        parts = _parts(np.flatnonzero(y == label).tolist())
        split = {part: split[part] + parts[part] for part in PARTS}
    if not split["test"]:
        raise DataError(
            "a split needs at least 3 sequences of a class (training, validation, test), found at "
            f"most {np.bincount(y).max()}"
        )
    return split


def _parts(members: list[int]) -> dict[str, tuple[int, ...]]:
    """Cut a list in three: its last two fifths are validation and test, one each from 3 on."""
    held = round(SHARE * len(members))
    first = len(members) - 2 * held
    cuts = members[:first], members[first : first + held], members[first + held :]
    return {part: tuple(cut) for part, cut in zip(PARTS, cuts, strict=True)}


def check_values(
    x: NDArray[Any], length: NDArray[Any] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Sequences as float32 and lengths as int64, if they can be used.

    Raises:
        DataError: For a wrong shape or type, a length outside 1 to T, or a value that is not finite
            within its sequence's length.
    """
    if x.ndim != 3 or 0 in x.shape:
        raise DataError(f"x must be [n, T, F] and not empty, got shape {x.shape}")
    if x.dtype.kind not in "fiub":
        raise DataError(f"x must hold real numbers, got dtype {x.dtype}")
    n, T, _ = x.shape
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        x = np.ascontiguousarray(x, dtype=np.float32)
    valid = np.ones((n, T), dtype=bool)
    if length is not None:
        if length.shape != (n,) or length.dtype.kind not in "iu":
            raise DataError(
                f"length must hold one whole number a sequence, {n}, got {length.dtype} "
                f"{length.shape}"
            )
        if length.min() < 1 or length.max() > T:
            raise DataError(
                f"length must lie in 1..{T}, x's steps, found {length.min()}..{length.max()}"
            )
        length = length.astype(np.int64)
        valid = np.arange(T) < length[:, None]
    bad = ~np.isfinite(x) & valid[..., None]
    if bad.any():
        raise DataError(
            f"x must be finite, found {int(bad.sum())} NaN or infinite values, the first in "
            f"sequence {int(np.flatnonzero(bad.any(axis=(1, 2)))[0])}: remove or fill them"
        )
    return x, length


def _numbered(name: str, values: NDArray[Any], n: int) -> tuple[list[Any], NDArray[np.int64]]:
    """The different values, sorted, and the place of each sequence's among them."""
    if values.shape != (n,):
        raise DataError(
            f"{name} must have one value for each of x's {n} sequences, got shape {values.shape}"
        )
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values % 1 == 0).all():
        values = values.astype(np.int64)  # whole numbers that passed through a float column
    if values.dtype.kind not in "iubU":
        raise DataError(f"{name} must hold whole numbers or text, got dtype {values.dtype}")
    found, places = np.unique(values, return_inverse=True)
    return found.tolist(), places.astype(np.int64)


def check_training_classes(data: Dataset, reason: str) -> None:
    """Refuse data of which a class is in other parts only.

    Raises:
        DataError: If there is one; ``reason`` says why that can be, and what to do.
    """
    present = set(data.y[data.indices("train")].tolist())
    missing = [name for number, name in enumerate(data.class_names) if number not in present]
    if missing:
        raise DataError(f"every class needs training sequences, {missing[0]!r} has none: {reason}")
