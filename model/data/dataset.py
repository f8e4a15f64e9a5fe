"""One data set in memory: sequences, labels, who moved, and which people belong to which part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

PARTS = ("train", "validation", "test")


class DataError(ValueError):
    """A data set is unknown, missing, damaged, or breaks a rule that training relies on."""


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Brings each channel to mean 0 and standard deviation 1.

    Attributes:
        mean: Of the training people's valid steps, in the data's units, ``[F]``.
        std: Likewise; 1 where a channel never changes, ``[F]``.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @classmethod
    def of(cls, x: NDArray[np.float32], length: NDArray[np.int64] | None = None) -> Normalisation:
        """Measure ``x`` ``[n, T, F]``, steps from ``length`` ``[n]`` on left out.

        Raises:
            DataError: If a value is NaN or infinite.
        """
        steps = x.reshape(-1, x.shape[2])
        if length is not None:
            steps = x[np.arange(x.shape[1]) < length[:, None]]
        if not np.isfinite(steps).all():
            bad = steps.size - int(np.isfinite(steps).sum())
            raise DataError(
                f"values must be finite, found {bad} NaN or infinite ones among the training "
                "sequences: remove or fill them"
            )
        mean = steps.mean(axis=0, dtype=np.float64)
        std = steps.std(axis=0, dtype=np.float64)
        return cls(mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled sequences ``[n, T, F]`` and the split of their people.

    Attributes:
        name: What `load` was asked for.
        x: Raw values, in the channels' units, ``[n, T, F]``.
        y: Class of each sequence, ``0 .. classes - 1``, ``[n]``.
        person: Who moved, ``[n]``; None where nobody is named: each sequence stands for itself.
        length: Valid steps of each sequence, ``[n]``; None where all have T.
        class_names: By class number.
        channel_names: By channel; three in a row that end in x, y, z are one 3-axis sensor.
        split: People (or, without ``person``, sequence numbers) by part: train, validation, test.
        fingerprint: Names source, recipe and split: equal fingerprints mean equal data.
        licence: Under which the data may be used.
        source: Where the data come from.
        time_stride: Every how-manieth step was kept.
    """

    name: str
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    person: NDArray[np.int64] | None
    length: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    channel_names: tuple[str, ...]
    split: Mapping[str, tuple[int, ...]]
    fingerprint: str
    licence: str
    source: str
    time_stride: int = 1

    def __post_init__(self) -> None:
        n, _, F = self._check_shape()
        for name in ("y", "person", "length"):
            values = getattr(self, name)
            if values is not None and values.shape != (n,):
                raise DataError(f"{name} must have one value a sequence, {n}, got {values.shape}")
        if len(self.channel_names) != F:
            raise DataError(f"x has {F} channels, but {len(self.channel_names)} have a name")
        if self.y.min() < 0 or self.y.max() >= len(self.class_names):
            raise DataError(
                f"labels must lie in 0..{len(self.class_names) - 1}, "
                f"found {self.y.min()}..{self.y.max()}"
            )
        if set(self.split) != set(PARTS):
            raise DataError(f"a split names {', '.join(PARTS)}, got {', '.join(self.split)}")
        people = [person for part in PARTS for person in self.split[part]]
        if len(people) != len(set(people)):
            raise DataError("a person belongs to one part of the split, found one in two")

    def _check_shape(self) -> tuple[int, int, int]:
        if self.x.ndim != 3 or 0 in self.x.shape:
            raise DataError(f"x must be [n, T, F] and not empty, got shape {self.x.shape}")
        if self.x.dtype != np.float32 or self.y.dtype != np.int64:
            raise DataError(f"x must be float32 and y int64, got {self.x.dtype} and {self.y.dtype}")
        n, T, F = self.x.shape
        return n, T, F

    def indices(self, part: str) -> NDArray[np.int64]:
        """Numbers of the sequences of one part: train, validation or test.

        Raises:
            DataError: If there is no such part, or nobody belongs to it.
        """
        if part not in PARTS:
            raise DataError(f"a part is one of {', '.join(PARTS)}, got {part!r}")
        found = np.flatnonzero(self._belongs(part))
        if not found.size:
            raise DataError(f"data set {self.name!r} has no {part} sequences")
        return found

    def count(self, part: str) -> int:
        """How many sequences a part has; 0 where nobody belongs to it."""
        return int(self._belongs(part).sum())

    def _belongs(self, part: str) -> NDArray[np.bool_]:
        return np.isin(self.owner, self.split[part])

    @property
    def owner(self) -> NDArray[np.int64]:
        """Who moved, ``[n]``; where nobody is named, each sequence's own number."""
        return np.arange(len(self.y)) if self.person is None else self.person

    def resplit(self, split: Mapping[str, tuple[int, ...]]) -> Dataset:
        """The same sequences with their people in other parts, under a fingerprint of its own.

        Raises:
            DataError: As for a new data set.
        """
        return replace(self, split=split, fingerprint=fingerprint(self.fingerprint, 0, split))

    def every(self, stride: int) -> Dataset:
        """The same data at every ``stride``-th time step (no filter: see the source's band width).

        Raises:
            DataError: If ``stride`` is below 1.
        """
        if stride < 1:
            raise DataError(f"time_stride must be at least 1, got {stride}")
        if stride == 1:
            return self
        length = None if self.length is None else -(-self.length // stride)
        x = np.ascontiguousarray(self.x[:, ::stride])
        return replace(self, x=x, length=length, time_stride=self.time_stride * stride)

    def axis_groups(self) -> tuple[tuple[int, int, int], ...]:
        """Channels that are the x, y, z of one sensor, found by their names' last letters."""
        ends = [name[-1:].lower() for name in self.channel_names]
        starts = [i for i in range(len(ends) - 2) if ends[i : i + 3] == ["x", "y", "z"]]
        return tuple((i, i + 1, i + 2) for i in starts)


def fingerprint(source: str, recipe: int, split: Mapping[str, tuple[int, ...]]) -> str:
    """Name a data set by what it is made of, rather than by filtered floats that vary by machine.

    Args:
        source: SHA-256 of the source's bytes.
        recipe: Version of what is done to them.
        split: People by part.

    Returns:
        A SHA-256, hexadecimal.
    """
    parts = {part: sorted(split[part]) for part in PARTS}
    told = json.dumps({"source": source, "recipe": recipe, "split": parts}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()
