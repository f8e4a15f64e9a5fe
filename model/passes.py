"""Norms at work: a pass over the time steps of one call, forward and, by hand, backward.

Features are the second axis of what a pass takes: ``[B, H]``, or ``[W, H, B]`` with W rows that
share a step. Step t counts from 0; cells of earlier calls have t < 0. The forward direction is
differentiable by autograd as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.norm import EPSILON, LayerNorm, Norm, Span, StepBatchNorm

aten = torch.ops.aten


def begin(norm: Norm, span: Span) -> NormPass:
    """Begin a pass over the steps of a call; in training, `NormPass.close` must end it."""
    if isinstance(norm, StepBatchNorm):
        return BatchPass(norm, span)
    return LayerPass(norm) if isinstance(norm, LayerNorm) else NormPass(None, None)


class NormPass:
    """A norm's work on the steps of one call.

    Attributes:
        changes: Whether there is a norm; else it is not called.
        gradients: Of weight and bias, from all backward steps since `restart`.
    """

    def __init__(self, weight: Tensor | None, bias: Tensor | None) -> None:
        self.changes = weight is not None
        self.weight, self.bias = weight, bias
        self.restart()

    def restart(self) -> None:
        """Forget the gradients of an earlier backward pass."""
        self.gradients: list[Tensor | None] = [None, None]

    def __call__(self, value: Tensor, step: int) -> Tensor:
        """Normalise what a step computed."""
        raise NotImplementedError

    def backward(self, gradient: Tensor, value: Tensor, step: int) -> Tensor:
        """From the gradient of the result to that of ``value``, both ``[W, H, B]``."""
        raise NotImplementedError

    def close(self) -> None:
        """End the pass: batch norms learn."""

    def _add(self, *gradients: Tensor | None) -> None:
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                total = self.gradients[place]
                self.gradients[place] = gradient if total is None else total.add_(gradient)


class LayerPass(NormPass):
    """Normalises each sequence's features by themselves."""

    weight: Tensor

    def __init__(self, norm: LayerNorm) -> None:
        super().__init__(norm.weight, norm.bias)
        self._moments: dict[int, tuple[Tensor, Tensor]] = {}  # mean, 1/std

    def __call__(self, value: Tensor, step: int) -> Tensor:
        """Normalise what a step computed."""
        result, mean, inverse = torch.native_layer_norm(
            value.transpose(1, -1), self.weight.shape, self.weight, self.bias, EPSILON
        )
        self._moments[step] = mean, inverse
        return result.transpose(1, -1)

    def backward(self, gradient: Tensor, value: Tensor, step: int) -> Tensor:
        """From the gradient of the result to that of ``value``, both ``[W, H, B]``."""
        of_value, *own = aten.native_layer_norm_backward(
            gradient.transpose(1, -1).contiguous(),
            value.transpose(1, -1).contiguous(),
            self.weight.shape,
            *self._moments[step],
            self.weight,
            self.bias,
            [True, True, self.bias is not None],
        )
        self._add(*own)
        result: Tensor = of_value.transpose(1, -1)
        return result


class BatchPass(NormPass):
    """Normalises by the moments of the batch, or by what the norm has learned."""

    weight: Tensor

    def __init__(self, norm: StepBatchNorm, span: Span) -> None:
        super().__init__(norm.weight, norm.bias)
        self._norm, self._span = norm, span
        self._first = int(span.first[0])
        learns = span.training and min(span.running) >= 2
        self._learned = None if learns else _Learned(norm, span)
        self._moments: dict[int, tuple[Tensor, Tensor, int]] = {}  # mean, 1/std, values

    def _is_shift(self, step: int) -> bool:
        """Whether all sequences have the same there, and are left with the shift alone."""
        return self._span.training and self._norm.constant_start and self._first + step == 0

    def _knows(self, step: int) -> _Learned | None:
        """What has been learned, if it is to serve at this step."""
        measures = self._span.training and self._span.running[max(step, 0)] >= 2
        return None if measures else self._learned

    def _share(self, value: Tensor, step: int) -> Tensor | None:
        """What each sequence counts in the moments; None where all do."""
        if self._span.valid is None:
            return None
        valid, running = self._span.valid[max(step, 0)], self._span.running[max(step, 0)]
        if running == len(valid):
            return None
        share = valid.to(value.dtype) / (running * _rows(value))
        return share if value.dim() == 3 else share[:, None]

    def __call__(self, value: Tensor, step: int) -> Tensor:
        """Normalise what a step computed."""
        if self._is_shift(step):
            result = torch.zeros_like(value)
            return result if self.bias is None else result + _along(self.bias, value)
        learned = self._knows(step)
        if learned is not None:
            return learned(value, step)
        result, mean, inverse = self._measure(value, self._share(value, step))
        count = self._span.running[max(step, 0)] * _rows(value)
        self._moments[step] = mean.detach(), inverse.detach(), count
        return result

    def _measure(self, value: Tensor, share: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise by the batch's own moments; also gives mean and 1/std, ``[H]``."""
        if share is None and value.dim() == 3 and len(value) == 1:
            # Each feature lies in a row: a layer norm over rows is twice as fast as a batch norm.
            result, mean, inverse = torch.native_layer_norm(
                value, value.shape[2:], None, None, EPSILON
            )
            result.mul_(_along(self.weight, value))
            if self.bias is not None:
                result.add_(_along(self.bias, value))
            return result, mean.view(-1), inverse.view(-1)
        if share is None:
            return torch.native_batch_norm(
                value, self.weight, self.bias, None, None, True, 0.0, EPSILON
            )
        axes = _others(value)
        mean = (value * share).sum(axes)
        centred = value - _along(mean, value)
        inverse = ((centred.square() * share).sum(axes) + EPSILON).rsqrt()
        result = centred * _along(inverse * self.weight, value)
        if self.bias is not None:
            result = result + _along(self.bias, value)
        return result, mean, inverse

    def backward(self, gradient: Tensor, value: Tensor, step: int) -> Tensor:
        """From the gradient of the result to that of ``value``, both ``[W, H, B]``."""
        if self._is_shift(step):
            self._add(None, None if self.bias is None else gradient.sum(_others(value)))
            return torch.zeros_like(value)
        learned = self._knows(step)
        if learned is not None:
            result, *own = learned.backward(gradient, value, step)
            self._add(*own)
            return result
        mean, inverse, _ = self._moments[step]
        share = self._share(value, step)
        if share is None:
            wanted = [True, True, self.bias is not None]
            of_value: Tensor
            of_value, *own = aten.native_batch_norm_backward(
                gradient, value, self.weight, None, None, mean, inverse, True, EPSILON, wanted
            )
            self._add(*own)
            return of_value
        unit = (value - _along(mean, value)) * _along(inverse, value)
        of_weight, of_bias = _sums(gradient * unit), _sums(gradient)
        self._add(of_weight, None if self.bias is None else of_bias)
        pull = _along(of_bias, value) + unit * _along(of_weight, value)  # through the moments
        return (gradient - share * pull) * _along(inverse * self.weight, value)

    def close(self) -> None:
        """End the pass: in training, learn the moments it measured."""
        # What was computed from earlier calls' cells was counted there. Sequences only ever end:
        # the measured steps follow one another.
        steps = [step for step in self._moments if step >= 0]
        if steps:
            means, inverses, counts = zip(*(self._moments[step] for step in steps), strict=True)
            first = self._first + steps[0]
            self._norm.learn(first, torch.stack(means), torch.stack(inverses), counts)


class _Learned:
    """Normalises by the statistics that a batch norm had learned when the call began."""

    def __init__(self, norm: StepBatchNorm, span: Span) -> None:
        device = norm.weight.device
        steps = torch.arange(1 - span.history, span.length, device=device)  # [history - 1 + T]
        same = bool((span.first == span.first[0]).all())
        first = span.first[:1] if same else span.first
        at = (steps[:, None] + first).clamp_min(0)  # [history - 1 + T, 1 or B]
        known = at.clamp_max(norm.running_mean.shape[0] - 1)
        mean, inverse = norm.running_mean[known], (norm.running_var[known] + EPSILON).rsqrt()
        room = norm.bound() / inverse
        if norm.constant_start:
            inverse = inverse * (at > 0)[..., None]
        scale = norm.weight * inverse
        shift = -mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        self._before = span.history - 1
        self._has_bias = norm.bias is not None
        self._bounds = (mean - room).unbind(0), (mean + room).unbind(0)
        self._moments = mean.unbind(0), inverse.unbind(0)
        self._scales, self._shifts = scale.unbind(0), shift.unbind(0)  # [1 or B, H] each

    def _bounded(self, value: Tensor, row: int) -> Tensor:
        low, high = (_fit(bound[row], value) for bound in self._bounds)
        return value.clamp(low, high)

    def __call__(self, value: Tensor, step: int) -> Tensor:
        row = self._before + step
        scale, shift = _fit(self._scales[row], value), _fit(self._shifts[row], value)
        return torch.addcmul(shift, self._bounded(value, row), scale)

    def backward(
        self, gradient: Tensor, value: Tensor, step: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        row = self._before + step
        mean, inverse = (_fit(moment[row], value) for moment in self._moments)
        bounded = self._bounded(value, row)
        of_value = gradient * _fit(self._scales[row], value) * (bounded == value)
        of_weight = _sums(gradient * (bounded - mean) * inverse)
        return of_value, of_weight, _sums(gradient) if self._has_bias else None


def _fit(rows: Tensor, value: Tensor) -> Tensor:
    """``[1 or B, H]`` as it lies along a value ``[B, H]`` or ``[W, H, B]``."""
    return rows if value.dim() == 2 else rows.t()


def _along(features: Tensor, value: Tensor) -> Tensor:
    """``[H]`` as it lies along a value."""
    return features if value.dim() == 2 else features[:, None]


def _rows(value: Tensor) -> int:
    """How many rows share the step."""
    return len(value) if value.dim() == 3 else 1


def _others(value: Tensor) -> tuple[int, ...]:
    """A value's axes but its features."""
    return (0, 2)[: value.dim() - 1]


def _sums(value: Tensor) -> Tensor:
    """Of each feature, ``[H]``."""
    return value.sum(_others(value))
