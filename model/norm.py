"""Norms of a recurrent layer: one object of parameters, one pass over the time steps of a call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

MOMENTUM = 0.1
EPSILON = 1e-5
MAX_STEPS = 1024  # statistics are kept for so many time steps; later steps share the last ones

# Normalises what step t of this call computed; t counts from 0, cells of earlier calls have t < 0.
Normalise = Callable[[Tensor, int], Tensor]


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

    def over(self, span: Span) -> Normalise:
        """Begin a pass over ``span``."""
        return lambda value, _step: value

    def close(self, span: Span) -> None:
        """End the pass: there is nothing to remember."""


class LayerNorm(nn.Module):
    """Normalise each sequence's features at each step by themselves (Ba et al., 2016)."""

    def __init__(self, size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def over(self, span: Span) -> Normalise:
        """Begin a pass over ``span``."""
        weight, bias = self.weight, self.bias
        return lambda value, _step: F.layer_norm(value, weight.shape, weight, bias, EPSILON)

    def close(self, span: Span) -> None:
        """End the pass: there is nothing to remember."""


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
        self._moments: list[tuple[Tensor, Tensor, int, int]] = []  # mean, 1/std, how many, step

    def over(self, span: Span) -> Normalise:
        """Begin a pass over ``span``; in training, `close` must end it."""
        if not span.training:
            return self._learned(span)
        first = int(span.first[0])
        learned = self._learned(span) if min(span.running) < 2 else None
        self._moments = []

        def normalise(value: Tensor, step: int) -> Tensor:
            if self.constant_start and first + step == 0:
                return self._shift(value)
            running = span.running[max(step, 0)]
            if learned is not None and running < 2:
                return learned(value, step)
            valid = None
            if span.valid is not None and running < value.shape[-2]:
                valid = span.valid[max(step, 0)]
            result, moments = self._measured(value, valid, running)
            if step >= 0:  # what was computed from earlier calls' cells was counted there
                self._moments.append((*moments, first + step))
            return result

        return normalise

    def _shift(self, value: Tensor) -> Tensor:
        return torch.zeros_like(value) if self.bias is None else self.bias.expand_as(value)

    def _measured(
        self, value: Tensor, valid: Tensor | None, running: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor, int]]:
        """Normalise ``value`` ``[..., B, H]`` by its own moments; these come back detached."""
        rows = value.reshape(-1, value.shape[-1])
        if valid is None:  # one fused kernel
            result, mean, inverse = torch.native_batch_norm(
                rows, self.weight, self.bias, None, None, True, 0.0, EPSILON
            )
            return result.view_as(value), (mean.detach(), inverse.detach(), len(rows))
        count = running * (rows.shape[0] // valid.shape[0])
        share = valid.to(value.dtype).expand(value.shape[:-1]).reshape(-1, 1) / count
        mean = (rows * share).sum(0)
        centred = rows - mean
        inverse = ((centred.square() * share).sum(0) + EPSILON).rsqrt()
        result = centred * (inverse * self.weight)
        if self.bias is not None:
            result = result + self.bias
        return result.view_as(value), (mean.detach(), inverse.detach(), count)

    def _learned(self, span: Span) -> Normalise:
        device = self.weight.device
        steps = torch.arange(1 - span.history, span.length, device=device)  # [history - 1 + T]
        same = bool((span.first == span.first[0]).all())
        first = span.first[:1] if same else span.first
        at = (steps[:, None] + first).clamp_min(0)  # [history - 1 + T, 1 or B]
        known = at.clamp_max(self.running_mean.shape[0] - 1)
        mean, inverse = self.running_mean[known], (self.running_var[known] + EPSILON).rsqrt()
        scale = self.weight * inverse
        if self.constant_start:
            scale = scale * (at > 0)[..., None]
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        room = self.bound() / inverse
        scales, shifts = scale.unbind(0), shift.unbind(0)
        lows, highs = (mean - room).unbind(0), (mean + room).unbind(0)
        before = span.history - 1

        def normalise(value: Tensor, step: int) -> Tensor:
            row = before + step
            return torch.addcmul(shifts[row], value.clamp(lows[row], highs[row]), scales[row])

        return normalise

    def bound(self) -> float:
        """How many standard deviations from the mean a value can be, as far as training knows.

        Of n values none is further from their mean than (n - 1) / sqrt(n) standard deviations
        (Samuelson, 1968); infinite before a batch was seen.
        """
        n = int(self.largest)
        return (n - 1) / math.sqrt(n) if n else math.inf

    @torch.no_grad()
    def close(self, span: Span) -> None:
        """End a pass: in training, learn the moments it measured."""
        moments, self._moments = self._moments, []
        if span.training and moments:
            means, inverses, counts, steps = zip(*moments, strict=True)
            self.learn(steps[0], torch.stack(means), torch.stack(inverses), counts)

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


Norm = NoNorm | LayerNorm | StepBatchNorm


def make_norm(kind: str, size: int, *, bias: bool = True, constant_start: bool = False) -> Norm:
    """Make the norm that a configuration names: ``none``, ``layer`` or ``batch``."""
    if kind == "batch":
        return StepBatchNorm(size, bias=bias, constant_start=constant_start)
    return LayerNorm(size, bias=bias) if kind == "layer" else NoNorm()
