"""How weights are updated: learning rate, optimizer, arithmetic, weights of the classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.cell import LARNNCell
from model.config import TrainingConfig
from model.data.dataset import DataError, Dataset

WARM_UP = 0.3
"""Share of a one-cycle run spent on the way up (Smith & Topin 2018)."""
START_DIVISOR = 25.0
END_DIVISOR = 25e4


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of one step: a function of it, so that nothing has to be saved.

    ``step`` is the paper's schedule (a factor every few epochs), ``cosine`` falls to 0 over the
    run, ``one_cycle`` rises to the full rate and falls nearly to 0, both along half a cosine.

    Args:
        config: Names the schedule and its numbers.
        step: Steps done before this one.
        steps_per_epoch: Steps in an epoch.
    """
    highest = config.learning_rate
    total = config.epochs * steps_per_epoch
    if config.schedule == "step":
        return float(
            highest * config.decay_factor ** (step // steps_per_epoch // config.decay_every)
        )
    if config.schedule == "cosine":
        return _half_cosine(highest, 0.0, step / total)
    if config.schedule == "one_cycle":
        warm = WARM_UP * total
        if step < warm:
            return _half_cosine(highest / START_DIVISOR, highest, step / warm)
        return _half_cosine(highest, highest / END_DIVISOR, (step - warm) / (total - warm))
    return highest


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class Precision:
    """Arithmetic of the forward pass and what it needs of the update.

    Args:
        kind: ``float32``, or ``mixed``: bfloat16 where the GPU has it, else float16 with scaled
            losses.
        device: Where it is computed.

    Raises:
        ValueError: For mixed precision without CUDA.
    """

    def __init__(self, kind: str, device: torch.device) -> None:
        self.mixed = kind == "mixed"
        self.device_type = device.type
        if self.mixed and device.type != "cuda":
            raise ValueError(
                f"precision 'mixed' needs CUDA, got device {device.type!r}: use precision 'float32'"
            )
        brain = self.mixed and torch.cuda.is_bf16_supported(including_emulation=False)
        self.dtype = torch.bfloat16 if brain else torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.mixed and not brain)

    def autocast(self) -> torch.autocast:
        """Context of a forward pass."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.mixed)

    def step(
        self, loss: Tensor, optimizer: torch.optim.Optimizer, model: nn.Module, clip: float
    ) -> None:
        """Backward pass, clipping to norm ``clip`` (0: none), update."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.scaler.unscale_(optimizer)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        self.scaler.step(optimizer)
        self.scaler.update()


def make_optimizer(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW or Adam; weights are pulled towards 0, biases and norms (one dimension) are not.

    A LARNN's attention may learn at another rate: see `set_learning_rate`.
    """
    cells = [module for module in model.modules() if isinstance(module, LARNNCell)]
    slow = {id(weight) for cell in cells for weight in cell.attention_weights()}
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for weight in model.parameters():
        factor = settings.attention_rate_factor if id(weight) in slow else 1.0
        members.setdefault((factor, weight.dim() >= 2), []).append(weight)
    groups = [
        {"params": weights, "factor": factor, "weight_decay": settings.weight_decay * matrices}
        for (factor, matrices), weights in members.items()
    ]
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.learning_rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let every weight learn at ``rate`` times its group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def class_weights(kind: str, labels: Tensor, data: Dataset) -> Tensor | None:
    """``balanced``: n / (classes x count of the class), ``[classes]``.

    Raises:
        DataError: If a class has no training sequence to weigh.
    """
    if kind == "none":
        return None
    counts = torch.bincount(labels, minlength=len(data.class_names))
    if int(counts.min()) == 0:
        missing = data.class_names[int(counts.argmin())]
        raise DataError(
            "class_weights 'balanced' needs training sequences of every class, "
            f"{missing!r} has none"
        )
    return len(labels) / (len(counts) * counts.float())
