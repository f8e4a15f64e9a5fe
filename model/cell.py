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
            gates = nn.Linear(input_size + 2 * H, 4 * H)
            self.input_gates, self.hidden_gates, self.attention_gates = _split(gates, input_size, H)
        # A shift of all keys would cancel in the softmax. Step 0 sees the empty queue's one cell.
        self.key_norm = make_norm(config.attention_norm, H, bias=False, constant_start=True)
        self.value_norm = make_norm(config.attention_norm, H, constant_start=True)
        self.attention_norm = make_norm(config.norm, H, constant_start=True)
        self.cell_norm = make_norm(config.norm, H)
        self.hidden_norm = make_norm(config.norm, H)

    def attention_weights(self) -> list[nn.Parameter]:
        """Attention and its way into the gates: what ``attention_rate_factor`` is for."""
        matrices = (self.query, self.key, self.value, self.attended, self.attention_gates)
        return [weight for linear in matrices for weight in linear.parameters()]

    def weights(self) -> CellWeights:
        """Gather the parameters for the time loop; differentiable."""
        H = self.config.units
        I = self.query.in_features - H  # noqa: E741  # the field's name for the input's size
        query_x, query_h = torch.split(self.query.weight, [I, H], dim=1)
        memory = torch.cat([self.key.weight, self.value.weight])
        biased = self.key.bias is not None
        return CellWeights(
            input=torch.cat([query_x, self.input_gates.weight]),
            bias=torch.cat([self.query.bias, self.input_gates.bias]),
            hidden=torch.cat([query_h, self.hidden_gates.weight]),
            memory=memory[:, :H],
            memory_bias=torch.cat([self.key.bias, self.value.bias]) if biased else None,
            position=self._position(memory[:, H:]),
            attended=self.attended.weight,
            attended_bias=self.attended.bias,
            attention_gates=self.attention_gates.weight,
        )

    def _position(self, matrix: Tensor) -> Tensor | None:
        """What each slot's age adds to its keys and values, ``[K, 1, 2H]``."""
        if self.config.positional_encoding == "none":
            return None
        # A cell whose window was cut after its training still sees an age as it did then.
        octaves = matrix.shape[1] // 2
        features = positional_features(self.config.window_size, octaves).to(matrix)
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
                *fused.run_kernel(self.config, weights, norms, inputs, hidden, queue, keep, span)
            )
        return Trace(
            *run_sequence(
                self.config, weights, norms, inputs, hidden, queue, absent, keep, span, looks
            )
        )


def _split(gates: nn.Linear, input_size: int, hidden_size: int) -> tuple[nn.Linear, ...]:
    """One matrix over ``[x; h; a]`` as one for each; the first has the bias."""
    parts: list[nn.Linear] = []
    sizes = [input_size, hidden_size, hidden_size]
    for size, weight in zip(sizes, torch.split(gates.weight.data, sizes, dim=1), strict=True):
        part = nn.Linear(size, gates.out_features, bias=not parts, device="meta")  # draws nothing
        part.weight = nn.Parameter(weight.clone())
        parts.append(part)
    parts[0].bias = gates.bias
    return tuple(parts)
