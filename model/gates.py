"""The LSTM's gates as autograd functions: one gradient tensor instead of a dozen small ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812  # the field's name for it


class Gates(torch.autograd.Function):
    """``i * u + c * f`` and ``o`` from the gates' inputs, in the order i, f, u, o."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """From ``[B, 4H]`` and the cell ``[B, H]`` to the cell before its norm, and o."""
        H = cell.shape[1]
        opened = torch.empty_like(gates)
        torch.tanh(gates[:, :H], out=opened[:, :H])
        torch.sigmoid(gates[:, H:], out=opened[:, H:])
        candidate, forget, update, output = opened.chunk(4, dim=1)
        ctx.save_for_backward(opened, cell)
        return torch.addcmul(candidate * update, cell, forget), output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, new_cell: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of both inputs."""
        opened, cell = ctx.saved_tensors
        H = cell.shape[1]
        candidate, forget, update, _ = opened.chunk(4, dim=1)
        gates = torch.empty_like(opened)
        into_candidate, into_forget, into_update, into_output = gates.chunk(4, dim=1)
        torch.mul(new_cell, update, out=into_candidate)
        torch.mul(new_cell, cell, out=into_forget)
        torch.mul(new_cell, candidate, out=into_update)
        into_output.copy_(output)
        into_candidate.addcmul_(into_candidate, candidate.square(), value=-1)
        gates[:, H:].mul_(opened[:, H:]).mul_(1 - opened[:, H:])
        return gates, new_cell * forget


class OutputGate(torch.autograd.Function):
    """``o * elu(c)``; the exponential is taken once, for both directions."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, cell: Tensor) -> Tensor:
        """From o and the cell, both ``[B, H]``, to the hidden state before its norm."""
        bounded = F.elu(cell)
        ctx.save_for_backward(output, bounded)
        return output * bounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of both inputs."""
        output, bounded = ctx.saved_tensors
        slope = bounded.clamp_max(0.0).add_(1.0)  # of elu: e^c, as elu(c) + 1, where c < 0
        return hidden * bounded, slope.mul_(hidden).mul_(output)
