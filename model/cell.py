"""One layer of the LARNN: its parameters, and the loop over time that uses them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from model import fused
from model.attention import positional_features
from model.config import ModelConfig
from model.loop import CellWeights
from model.norm import Span, make_norm
from model.sequence import run_sequence


class Trace(NamedTuple):
    """What a layer computed."""

    hidden: Tensor  # [T, B, H]
    cells: Tensor  # [T, B, H], or the latest of them: one window, where no sequence ends early


class LARNNCell(nn.Module):
    """The recurrence of the LARNN (the paper, section 3; design equations in ``docs/larnn.md``).

    Args:
        input_size: Features of the input, I.
        config: Everything else; H is ``config.units``.
    """

    def __init__(self, input_size: int, config: ModelConfig) -> None:
        super().__init__()
        H = config.units
        self.config = config
        # Without an activation or a layer norm behind it, a key's bias cancels in the softmax or in
        # the batch norm, and a value's bias does nothing that b_o does not.
        bias = config.attention_activation != "none" or config.attention_norm == "layer"
        memory_size = H
        if config.positional_encoding == "static":
            memory_size += positional_features(config.window_size).shape[1]
        self.query = nn.Linear(input_size + H, H)
        self.key = nn.Linear(memory_size, H, bias=bias)
        self.value = nn.Linear(memory_size, H, bias=bias)
        self.attended = nn.Linear(H, H)
        if config.mode == "residual":
            self.input_gates = nn.Linear(input_size, 4 * H)
            self.hidden_gates = nn.Linear(H, 4 * H, bias=False)
            self.attention_gates = nn.Linear(H, 4 * H, bias=False)
        else:
            self.gates = nn.Linear(input_size + 2 * H, 4 * H)
        # A shift of all keys would cancel in the softmax. Step 0 sees the empty queue's one cell.
        self.key_norm = make_norm(config.attention_norm, H, bias=False, constant_start=True)
        self.value_norm = make_norm(config.attention_norm, H, constant_start=True)
        self.attention_norm = make_norm(config.norm, H, constant_start=True)
        self.cell_norm = make_norm(config.norm, H)
        self.hidden_norm = make_norm(config.norm, H)

    def attention_weights(self) -> list[nn.Parameter]:
        """Attention's four projections, which ``attention_rate_factor`` is about."""
        projections = (self.query, self.key, self.value, self.attended)
        return [weight for linear in projections for weight in linear.parameters()]

    def weights(self) -> CellWeights:
        """Gather the parameters for the time loop; differentiable."""
        H = self.config.units
        I = self.query.in_features - H  # noqa: E741  # the field's name for the input's size
        if self.config.mode == "residual":
            gates_x, gates_h = self.input_gates.weight, self.hidden_gates.weight
            gates_a, gates_bias = self.attention_gates.weight, self.input_gates.bias
        else:
            gates_x, gates_h, gates_a = torch.split(self.gates.weight, [I, H, H], dim=1)
            gates_bias = self.gates.bias
        query_x, query_h = torch.split(self.query.weight, [I, H], dim=1)
        memory = torch.cat([self.key.weight, self.value.weight])
        biased = self.key.bias is not None
        return CellWeights(
            input=torch.cat([query_x, gates_x]),
            bias=torch.cat([self.query.bias, gates_bias]),
            hidden=torch.cat([query_h, gates_h]),
            memory=memory[:, :H],
            memory_bias=torch.cat([self.key.bias, self.value.bias]) if biased else None,
            position=self._position(memory[:, H:]),
            attended=self.attended.weight,
            attended_bias=self.attended.bias,
            attention_gates=gates_a,
        )

    def _position(self, matrix: Tensor) -> Tensor | None:
        """What each slot's age adds to its keys and values, ``[K, 1, 2H]``."""
        if self.config.positional_encoding == "none":
            return None
        features = positional_features(self.config.window_size).to(matrix)
        return F.linear(features, matrix)[:, None]

    def forward(
        self,
        inputs: Tensor,
        hidden: Tensor,
        queue: Tensor,
        absent: Tensor | None,
        span: Span,
        looks: list[Tensor] | None,
    ) -> Trace:
        """Run over a sequence.

        Args:
            inputs: ``[T, B, I]``.
            hidden: h before the first step, ``[B, H]``.
            queue: Past cells, oldest first, ``[R, B, H]`` with ``1 <= R <= window_size``.
            absent: Which of them do not exist, ``[R, B]``; None where all do.
            span: Which time steps these are.
            looks: Takes each step's attention weights, ``[W, B, N]``, oldest first; needs PyTorch's
                path. None: nobody asks.

        Returns:
            Hidden states and cells.
        """
        norms = (
            self.key_norm,
            self.value_norm,
            self.attention_norm,
            self.cell_norm,
            self.hidden_norm,
        )
        keep = None
        if span.training and self.config.dropout and self.config.dropout_on == "hidden":
            share = 1 - self.config.dropout
            shape = (*inputs.shape[:2], self.config.units)
            keep = inputs.new_empty(shape).bernoulli_(share).div_(share)
        weights = self.weights()
        if span.fused and fused.takes(absent, span, norms):
            return Trace(
                *fused.run_sequence(self.config, weights, norms, inputs, hidden, queue, keep, span)
            )
        return Trace(
            *run_sequence(
                self.config, weights, norms, inputs, hidden, queue, absent, keep, span, looks
            )
        )
