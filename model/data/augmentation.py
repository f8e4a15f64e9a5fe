"""Random changes to training sequences that leave their class alone (Um et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.data.dataset import DataError, Dataset

JITTER = 0.05
"""Standard deviation of the noise, in standard deviations of the channel."""
SCALE = 0.1
"""Standard deviation of a sequence's factor around 1."""
ANGLE = math.radians(15)
"""Standard deviation of the rotation, in radians: a phone worn a little askew. (A full turn, as in
the paper, would exchange standing and laying.)"""


def jitter(x: Tensor, std: Tensor) -> Tensor:
    """Add noise to ``x`` ``[B, T, F]``, in proportion to the channels' ``std`` ``[F]``."""
    return x + torch.randn(x.shape).to(x) * (JITTER * std)


def scale(x: Tensor) -> Tensor:
    """Multiply each sequence of ``x`` ``[B, T, F]`` by its own factor."""
    return x * (1 + SCALE * torch.randn(len(x), 1, 1)).to(x)


def rotate(x: Tensor, groups: tuple[tuple[int, int, int], ...]) -> Tensor:
    """Turn each sequence of ``x`` ``[B, T, F]`` by one random rotation, all sensors alike."""
    axis = torch.nn.functional.normalize(torch.randn(len(x), 3), dim=1)
    a, b, c = axis.unbind(1)
    zero = torch.zeros_like(a)
    cross = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], 1).view(-1, 3, 3)
    angle = (ANGLE * torch.randn(len(x)))[:, None, None]
    # Rodrigues' formula.
    turn = torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)
    turned = x.clone()
    for group in groups:
        turned[:, :, list(group)] = x[:, :, list(group)] @ turn.to(x).mT
    return turned


class Augmentation:
    """What a configuration's ``augmentation`` does; draws come from torch's CPU generator.

    Args:
        kind: ``none``, ``jitter``, ``scale``, ``rotate`` or ``all``.
        data: Tells which channels are one 3-axis sensor.
        std: The channels' standard deviations, ``[F]``.

    Raises:
        DataError: If sequences shall be rotated and no channels are named x, y, z.
    """

    def __init__(self, kind: str, data: Dataset, std: Tensor) -> None:
        self.kind = kind
        self.std = std
        self.groups = data.axis_groups()
        if kind in ("rotate", "all") and not self.groups:
            raise DataError(
                "augmentation 'rotate' needs 3-axis sensors: three channels in a row whose names "
                f"end in x, y, z; data set {data.name!r} has {', '.join(data.channel_names)}"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Change raw (not yet normalised) sequences, ``[B, T, F]``."""
        if self.kind in ("rotate", "all"):
            x = rotate(x, self.groups)
        if self.kind in ("scale", "all"):
            x = scale(x)
        if self.kind in ("jitter", "all"):
            x = jitter(x, self.std)
        return x
