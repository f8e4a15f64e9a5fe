"""Norms of a recurrent layer: what they keep and learn; `model.passes` applies them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.1
EPSILON = 1e-5
MAX_STEPS = 1024  # statistics are kept for so many time steps; later steps share the last ones


@dataclass(frozen=True)
class Span:
    """The time steps that one call covers.

    Attributes:
        first: Steps each sequence has seen before this call, ``[B]``.
        length: Time steps of this call, T.
        history: Past cells that the call starts with.
        valid: Which steps belong to their sequence, ``[T, B]``; None where all do.
        running: Sequences that have not ended, per step.
        training: Whether norms measure this batch or use what they have learned.
        fused: Whether the fused kernel may compute it.
    """

    first: Tensor
    length: int
    history: int
    valid: Tensor | None
    running: tuple[int, ...]
    training: bool
    fused: bool = False

    @property
    def ended(self) -> Tensor | None:
        """Which steps are past their sequence's end, ``[T, B, 1]``; None where none is."""
        return None if self.valid is None else ~self.valid[..., None]


class NoNorm(nn.Module):
    """Leave values as they are."""


class LayerNorm(nn.Module):
    """Normalise each sequence's features at each step by themselves (Ba et al., 2016)."""

    def __init__(self, size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None


class StepBatchNorm(nn.Module):
    """Batch norm with statistics for each time step (Cooijmans et al., 2017, section 3).

    Training normalises by the moments of the batch, over the sequences that have not ended. Where
    fewer than two are left, the learned statistics serve, as at evaluation. Steps beyond the
    longest seen in training use the last ones learned, and so do steps beyond `MAX_STEPS`. The
    running statistics begin as plain averages and become exponential ones, so that a step seen few
    times is not pulled towards its initial values.

    In training no value is further from the mean than its batch allows. Learned statistics hold
    values to the same bound: where a recurrence feeds on what it normalised, a value that stands
    out would grow from step to step.

    Args:
        size: Features, H.
        bias: Whether a learned shift follows.
        constant_start: Whether what is normalised at step 0 is the same for every sequence (all
            that comes from the empty queue). It has no variance: the result is the shift alone.
    """

    running_mean: Tensor
    running_var: Tensor
    updates: Tensor
    largest: Tensor

    def __init__(self, size: int, *, bias: bool = True, constant_start: bool = False) -> None:
        super().__init__()
        self.constant_start = constant_start
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None
        self.register_buffer("running_mean", torch.zeros(1, size))
        self.register_buffer("running_var", torch.ones(1, size))
        self.register_buffer("updates", torch.zeros(1, dtype=torch.long))
        self.register_buffer("largest", torch.zeros((), dtype=torch.long))  # of all batches

    def bound(self) -> float:
        """How many standard deviations from the mean a value can be, as far as training knows.

        Of n values none is further from their mean than (n - 1) / sqrt(n) standard deviations
        (Samuelson, 1968); infinite before a batch was seen.
        """
        n = int(self.largest)
        return (n - 1) / math.sqrt(n) if n else math.inf

    @torch.no_grad()
    def learn(self, first: int, mean: Tensor, inverse: Tensor, counts: Sequence[int]) -> None:
        """Move the running statistics towards what was measured.

        Args:
            first: Time step of the first row.
            mean: Of successive time steps, ``[steps, H]``.
            inverse: 1/std by which they were normalised, as ``mean``.
            counts: Values that were measured at each step.
        """
        end = min(first + len(mean), MAX_STEPS)
        if end <= first:
            return
        count = mean.new_tensor(counts)[:, None]
        var = (inverse**-2 - EPSILON).clamp_min(0) * (count / (count - 1))  # unbiased
        self._grow(end)
        self.largest.clamp_(min=max(counts))
        seen = self.updates[first:end]
        pull = (1.0 / (seen + 1)).clamp_min(MOMENTUM).to(self.running_mean.dtype)[:, None]
        self.running_mean[first:end].lerp_(mean[: end - first], pull)
        self.running_var[first:end].lerp_(var[: end - first], pull)
        seen += 1

    def _grow(self, steps: int) -> None:
        """Make room for ``steps`` time steps; new ones begin with the last one's statistics."""
        new = steps - self.running_mean.shape[0]
        if new > 0:
            for name in ("running_mean", "running_var"):
                buffer = getattr(self, name)
                setattr(self, name, torch.cat([buffer, buffer[-1:].expand(new, -1)]))
            self.updates = torch.cat([self.updates, self.updates.new_zeros(new)])

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(f"{prefix}running_mean")
        if saved is not None and saved.dim() == 2:  # as many steps as had been seen there
            for name in ("running_mean", "running_var"):
                setattr(self, name, getattr(self, name)[:1].repeat(saved.shape[0], 1))
            self.updates = self.updates.new_zeros(saved.shape[0])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def check_training_batch(seen: Sequence[int]) -> None:
    """Refuse a batch that a `StepBatchNorm` cannot be trained on.

    Args:
        seen: Steps that each sequence has seen before this call.

    Raises:
        ValueError: If it is one sequence, or its sequences have not seen equally many steps.
    """
    if len(seen) < 2:
        raise ValueError(
            "training with batch norm needs at least 2 sequences in a batch, got 1: use a larger "
            "batch, eval(), or a LARNN with norm='layer'"
        )
    if min(seen) != max(seen):
        raise ValueError(
            "training with batch norm needs sequences that have seen equally many steps, got "
            f"{min(seen)} to {max(seen)}: start anew, or use a LARNN with norm='layer'"
        )


Norm = NoNorm | LayerNorm | StepBatchNorm


def make_norm(kind: str, size: int, *, bias: bool = True, constant_start: bool = False) -> Norm:
    """Make the norm that a configuration names: ``none``, ``layer`` or ``batch``."""
    if kind == "batch":
        return StepBatchNorm(size, bias=bias, constant_start=constant_start)
    return LayerNorm(size, bias=bias) if kind == "layer" else NoNorm()


def weight_and_bias(norm: Norm) -> tuple[Tensor | None, Tensor | None]:
    """A norm's parameters; None for what it has not."""
    return (None, None) if isinstance(norm, NoNorm) else (norm.weight, norm.bias)
