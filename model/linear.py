"""One matrix that a recurrence applies at every time step.

Autograd would multiply out the matrix's gradient at each step: many small products, each of which
reads and writes the whole gradient. Here a block of steps shares one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812  # the field's name for it

BLOCK = 8  # time steps whose share of a gradient is computed at once; they stay in the cache
# PyTorch does not promise the operation: where a version lacks it, its own choice computes.
ONEDNN: bool = torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]  # torch
    torch.ops.mkldnn, "_linear_pointwise"
)


def product(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x matrix^T + bias``: ``[B, O]`` from ``[B, I]``, ``[O, I]`` and ``[O]``.

    In float32 oneDNN computes it, as it computes `torch.nn.LSTM`: on AMD's processors PyTorch's
    own choice, MKL, leaves AVX-512 unused and took 1.01 to 1.11 times as long.
    """
    if ONEDNN and x.dtype == torch.float32 and torch.backends.mkldnn.enabled:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix, bias, "none", [], "")
        return result
    return F.linear(x, matrix, bias)


class StepLinear:
    """``x W^T + b``, step after step, split into parts.

    A token that autograd hands from step to step makes the backward passes run in reverse order,
    and the matrix's own node last, when all shares of its gradient are there. On other devices than
    the CPU, and under autocast, autograd does as it always does.

    Args:
        weight: W, ``[O, I]``.
        bias: b, ``[O]``, or None.
        sizes: Features of each part; they add up to O.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *sizes: int) -> None:
        self._weight, self._bias, self._sizes = weight, bias, sizes
        self._plain = weight.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if not self._plain:
            # Autograd's nodes know the sums, not this object, which knows the latest node.
            self._sums = _Sums(weight.detach(), bias)
            self._token: Tensor = _Begin.apply(weight, bias, self._sums)  # type: ignore[no-untyped-call]  # torch

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Apply it to one step's ``[B, I]``; gives the parts, ``[B, size]`` each."""
        if self._plain:
            return torch.split(F.linear(x, self._weight, self._bias), list(self._sizes), dim=1)
        *parts, self._token = _Step.apply(x, self._token, self._sums, self._sizes)  # type: ignore[no-untyped-call]  # torch
        return tuple(parts)


class _Sums:
    """The gradients of a matrix and its bias as they grow, and the steps still to be added."""

    def __init__(self, matrix: Tensor, bias: Tensor | None) -> None:
        self.matrix = matrix  # [O, I]
        self.bias = None if bias is None else bias.detach()
        self.begin()

    def begin(self) -> None:
        """Forget what an earlier backward pass left."""
        self.matrix_gradient: Tensor | None = None  # [O, I]
        self.bias_gradient: Tensor | None = None
        self.inputs: Tensor | None = None  # [BLOCK, B, I]
        self.outputs: Tensor | None = None  # gradients, [BLOCK, B, O]
        self.rows = 0

    def add(self, x: Tensor, parts: list[Tensor]) -> Tensor:
        """Take in a step's input and its outputs' gradients; gives the latter side by side."""
        if self.inputs is None or self.outputs is None:
            self.inputs = x.new_empty(BLOCK, *x.shape)
            self.outputs = x.new_empty(BLOCK, len(x), len(self.matrix))
        if self.rows == BLOCK:
            self.add_up()
        self.inputs[self.rows] = x
        gradient = torch.cat(parts, dim=1, out=self.outputs[self.rows])
        self.rows += 1
        return gradient

    def add_up(self) -> None:
        """Compute the share of the steps taken in."""
        if self.rows == 0 or self.inputs is None or self.outputs is None:
            return
        inputs = self.inputs[: self.rows].flatten(0, 1)  # [steps B, I]
        outputs = self.outputs[: self.rows].flatten(0, 1)  # [steps B, O]
        share = product(inputs.t(), outputs.t()).t()
        self.matrix_gradient = _sum(self.matrix_gradient, share)
        if self.bias is not None:
            self.bias_gradient = _sum(self.bias_gradient, outputs.sum(0))
        self.rows = 0


def _sum(total: Tensor | None, share: Tensor) -> Tensor:
    return share if total is None else total.add_(share)


class _Begin(torch.autograd.Function):
    """Hand out the first token; its backward pass, after all steps', has the gradients."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, _bias: Tensor | None, sums: _Sums) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.sums = sums
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        sums: _Sums = ctx.sums
        if token is None:  # no step was reached
            return None, None, None
        sums.add_up()
        gradients = sums.matrix_gradient, sums.bias_gradient, None
        sums.begin()
        return gradients


class _Step(torch.autograd.Function):
    """One step; the gradients of its matrix and bias go to the sums."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, token: Tensor, sums: _Sums, sizes: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        # Saved, the matrix is checked: changed in place before backward, it is an error.
        ctx.save_for_backward(x, sums.matrix)
        ctx.sums, ctx.sizes = sums, sizes
        result = product(x, sums.matrix, sums.bias)
        return *torch.split(result, list(sizes), dim=1), token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor, None, None]:
        x, matrix = ctx.saved_tensors
        *parts, token = gradients
        sums: _Sums = ctx.sums
        if token is None:  # the last step that this backward pass reaches
            sums.begin()
        if all(part is None for part in parts):
            return None, x.new_zeros(()), None, None
        known = [
            x.new_zeros(len(x), size) if part is None else part
            for part, size in zip(parts, ctx.sizes, strict=True)
        ]
        gradient = sums.add(x, known)
        return product(gradient, matrix.t()), x.new_zeros(()), None, None
