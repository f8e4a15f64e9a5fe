"""One matrix that a recurrence applies at every time step.

Autograd would make the matrix's gradient anew at each step, and add it to the sum of the others'.
Here all steps add to one, in the product itself.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class StepLinear:
    """``x_t W^T + b_t``, step after step.

    A token that autograd hands from step to step makes the backward passes run in reverse order,
    and the matrix's own node last, when its gradient is complete. On other devices than the CPU,
    and under autocast, autograd does as it always does.

    Args:
        weight: W, ``[O, I]``.
        added: b, the same at each step ``[O]``, or of each step ``[T, B, O]``; None: 0.
    """

    def __init__(self, weight: Tensor, added: Tensor | None) -> None:
        self._weight = weight
        self._plain = weight.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if not self._plain:
            # Autograd's nodes know the sums, not this object, which knows the latest node.
            self._sums = _Sums(weight.detach(), added)
            self._token: Tensor = _Begin.apply(weight, added, self._sums)  # type: ignore[no-untyped-call]  # torch
            added = None if added is None else added.detach()
        self._added = enumerate(
            repeat(added) if added is None or added.dim() == 1 else added.unbind(0)
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to the next step's ``[B, I]``; gives ``[B, O]``."""
        step, added = next(self._added)
        if self._plain:
            return _product(x, self._weight, added)
        result: Tensor
        result, self._token = _Step.apply(x, self._token, added, step, self._sums)  # type: ignore[no-untyped-call]  # torch
        return result


def _product(x: Tensor, matrix: Tensor, added: Tensor | None) -> Tensor:
    """``x matrix^T + added``: ``[B, O]`` from ``[B, I]``, ``[O, I]``, and ``[O]`` or ``[B, O]``."""
    return x.mm(matrix.t()) if added is None else torch.addmm(added, x, matrix.t())


class _Sums:
    """The gradients of a matrix and of what is added, as they grow from the last step to the first.

    Args:
        matrix: ``[O, I]``.
        added: As `StepLinear` has it; its shape counts.
    """

    def __init__(self, matrix: Tensor, added: Tensor | None) -> None:
        self.matrix = matrix
        self._shape = None if added is None else added.shape
        self.begin()

    def begin(self) -> None:
        """Forget what an earlier backward pass left."""
        self.matrix_gradient: Tensor | None = None
        self.added_gradient: Tensor | None = None

    def add(self, step: int, x: Tensor, gradient: Tensor) -> None:
        """Take in a step's input and its output's gradient."""
        if self.matrix_gradient is None:
            self.matrix_gradient = torch.zeros_like(self.matrix)
            self.added_gradient = None if self._shape is None else x.new_zeros(self._shape)
        self.matrix_gradient.addmm_(gradient.t(), x)
        if self.added_gradient is None:
            return
        if self.added_gradient.dim() == 1:
            self.added_gradient += gradient.sum(0)
        else:
            self.added_gradient[step] = gradient


class _Begin(torch.autograd.Function):
    """Hand out the first token; its backward pass, after all steps', has the gradients."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, _added: Tensor | None, sums: _Sums) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.sums = sums
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        sums: _Sums = ctx.sums
        if token is None:  # no step was reached
            return None, None, None
        gradients = sums.matrix_gradient, sums.added_gradient, None
        sums.begin()
        return gradients


class _Step(torch.autograd.Function):
    """One step; the gradients of its matrix and of what it adds go to the sums."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, token: Tensor, added: Tensor | None, step: int, sums: _Sums
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        # Saved, the matrix is checked: changed in place before backward, it is an error.
        ctx.save_for_backward(x, sums.matrix)
        ctx.step, ctx.sums = step, sums
        return _product(x, sums.matrix, added), token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor | None, token: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, matrix = ctx.saved_tensors
        sums: _Sums = ctx.sums
        if token is None:  # the last step that this backward pass reaches
            sums.begin()
            token = x.new_zeros(())
        if gradient is None:
            return None, token, None, None, None
        sums.add(ctx.step, x, gradient)
        return gradient.mm(matrix), token, None, None, None
