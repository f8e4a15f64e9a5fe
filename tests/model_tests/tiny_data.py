"""A small made-up data set: two 3-axis sensors, classes told apart by frequency."""

import numpy as np

from model.data import Dataset
from model.data.dataset import fingerprint

SPLIT = {"train": (1, 2, 3), "validation": (4,), "test": (5,)}
CHANNELS = tuple(f"{sensor}-{axis}" for sensor in ("acc", "gyro") for axis in "xyz")


def tiny(
    *,
    sequences: int = 60,
    steps: int = 12,
    classes: int = 3,
    lengths: bool = False,
    seed: int = 0,
    channels: tuple[str, ...] = CHANNELS,
) -> Dataset:
    draw = np.random.default_rng(seed)
    y = np.arange(sequences) % classes
    time = np.arange(steps)[None, :, None]
    phase = draw.uniform(0, 2 * np.pi, (sequences, 1, len(channels)))
    x = np.sin(time * (0.4 + 0.5 * y)[:, None, None] + phase)
    x = 3 + x + 0.3 * draw.standard_normal(x.shape)
    return Dataset(
        name="tiny",
        x=x.astype(np.float32),
        y=y.astype(np.int64),
        person=1 + (np.arange(sequences) // classes) % 5,
        length=draw.integers(steps // 2, steps + 1, sequences) if lengths else None,
        class_names=tuple(f"class {i}" for i in range(classes)),
        channel_names=channels,
        split=SPLIT,
        fingerprint=fingerprint(f"tiny {seed} {lengths}", 1, SPLIT),
        licence="none",
        source="made up",
    )
