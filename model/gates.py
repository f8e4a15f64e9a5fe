"""The LSTM's gates as one autograd function: one gradient tensor instead of a dozen small ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        return torch.addcmul(candidate * update, cell, forget), output.clone()

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
