"""One layer of the LARNN: its parameters, and the loop over time that uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from model import fused
from model.attention import ACTIVATIONS, Window, attend, positional_features
from model.config import ModelConfig
from model.gates import Gates, OutputGate
from model.linear import StepLinear
from model.norm import Normalise, Span, make_norm


class CellWeights(NamedTuple):
    """A cell's parameters for its time loop: what multiplies the same tensor is one matrix.

    Rows of the first three are the query's H, then the 4H of the gates in the order i, f, u, o.
    Rows of ``memory`` are the key's H, then the value's.
    """

    input: Tensor  # [5H, I]
    bias: Tensor  # [5H]
    hidden: Tensor  # [5H, H]
    memory: Tensor  # [2H, H]
    memory_bias: Tensor | None  # [2H]
    position: Tensor | None  # what each slot's age adds, [K, 1, 2H]
    attended: Tensor  # [H, H]
    attended_bias: Tensor  # [H]
    attention_gates: Tensor  # [4H, H]


class CellNorms(NamedTuple):
    """The norms of one pass: keys, values, attention, cell, hidden."""

    key: Normalise
    value: Normalise
    attention: Normalise
    cell: Normalise
    hidden: Normalise


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
        if span.training and self.config.dropout:
            share = 1 - self.config.dropout
            shape = (*inputs.shape[:2], self.config.units)
            keep = inputs.new_empty(shape).bernoulli_(share).div_(share)
        weights = self.weights()
        if span.fused and fused.takes(absent, span, norms):
            trace = Trace(
                *fused.run_sequence(self.config, weights, norms, inputs, hidden, queue, keep, span)
            )
        else:
            trace = run_sequence(
                self.config,
                weights,
                CellNorms(*(norm.over(span) for norm in norms)),
                inputs,
                hidden,
                queue,
                absent,
                span.ended,
                keep,
                looks,
            )
        for norm in norms:
            norm.close(span)
        return trace


def run_sequence(
    config: ModelConfig,
    weights: CellWeights,
    norms: CellNorms,
    inputs: Tensor,
    hidden: Tensor,
    queue: Tensor,
    absent: Tensor | None,
    ended: Tensor | None,
    keep: Tensor | None,
    looks: list[Tensor] | None,
) -> Trace:
    """One layer over one sequence, in PyTorch's own operations.

    Args:
        config: Activation, heads, window.
        weights: Of the layer.
        norms: Of this pass.
        inputs: ``[T, B, I]``.
        hidden: ``[B, H]``.
        queue: Oldest first, ``[R, B, H]``.
        absent: ``[R, B]`` or None.
        ended: Which steps are past their sequence's end, ``[T, B, 1]``; None where none is. Hidden
            states and cells are 0 there: nobody reads them, but under a norm by others' moments
            they would grow step by step, and inf * 0 is NaN.
        keep: Factors of dropout, ``[T, B, H]`` or None.
        looks: Takes each step's attention weights, ``[W, B, N]``; None: nobody asks.
    """
    H = config.units
    if weights.position is None:
        look_back = _look_back(config, weights, norms, queue, absent, len(inputs), looks)
    else:
        look_back = _look_back_by_age(
            config, weights, weights.position, norms, queue, absent, looks
        )
    query_x, gates_x = (  # what the inputs say at each step, [T, B, H] and [T, B, 4H]
        F.linear(inputs, weights.input[rows], weights.bias[rows])
        for rows in (slice(H), slice(H, None))
    )
    ask = StepLinear(weights.hidden[:H], query_x)
    attended = StepLinear(weights.attended, weights.attended_bias)
    gate = StepLinear(torch.cat([weights.hidden[H:], weights.attention_gates], dim=1), gates_x)
    kept = keep.unbind(0) if keep is not None else None
    over = ended.unbind(0) if ended is not None else None
    cell, hiddens, cells = queue[-1], [], []
    for step in range(len(inputs)):
        mixed = look_back(ask(hidden), cell, step)
        attention = norms.attention(F.elu_(attended(mixed)), step)
        gates = gate(torch.cat([hidden, attention], dim=1))
        cell, output = Gates.apply(gates, cell)  # type: ignore[no-untyped-call]  # torch
        cell = norms.cell(cell, step)
        if over is not None:
            cell = cell.masked_fill(over[step], 0.0)
        hidden = norms.hidden(OutputGate.apply(output, cell), step)  # type: ignore[no-untyped-call]  # torch
        if kept is not None:
            hidden = hidden * kept[step]
        if over is not None:
            hidden = hidden.masked_fill(over[step], 0.0)
        hiddens.append(hidden)
        cells.append(cell)
    latest = cells if over is not None else cells[-config.window_size :]
    return Trace(torch.stack(hiddens), torch.stack(latest))


# From a step's query before its activation [B, H], the newest cell [B, H] and the step's number to
# the mix of values [B, H].
LookBack = Callable[[Tensor, Tensor, int], Tensor]


def _look_back(
    config: ModelConfig,
    weights: CellWeights,
    norms: CellNorms,
    queue: Tensor,
    absent: Tensor | None,
    steps: int,
    looks: list[Tensor] | None,
) -> LookBack:
    """Project each cell once, when it enters the queue."""
    activation = ACTIVATIONS[config.attention_activation]
    remember = StepLinear(weights.memory, weights.memory_bias)

    def project(cell: Tensor, step: int) -> tuple[Tensor, Tensor]:
        key, value = activation(remember(cell)).chunk(2, dim=1)
        return norms.key(key, step), norms.value(value, step)

    rows = len(queue)
    known = [project(cell, row + 1 - rows) for row, cell in enumerate(queue.unbind(0))]
    keys, values = (torch.stack(part) for part in zip(*known, strict=True))
    window = Window(keys, steps, config.window_size, config.num_heads, absent, looks)
    token = window.fill(keys, values)

    def look_back(query: Tensor, cell: Tensor, step: int) -> Tensor:
        nonlocal token
        newest = project(cell, step) if step > 0 else ()
        mixed, token = window.attend(token, activation(query), *newest)
        return mixed

    return look_back


def _look_back_by_age(
    config: ModelConfig,
    weights: CellWeights,
    position: Tensor,
    norms: CellNorms,
    queue: Tensor,
    absent: Tensor | None,
    looks: list[Tensor] | None,
) -> LookBack:
    """Keys and values change with a cell's age: only their share of the cell is projected once."""
    activation = ACTIVATIONS[config.attention_activation]
    K = config.window_size
    projected = list(F.linear(queue, weights.memory, weights.memory_bias).unbind(0))

    def look_back(query: Tensor, cell: Tensor, step: int) -> Tensor:
        if step > 0:
            projected.append(F.linear(cell, weights.memory, weights.memory_bias))
        latest = projected[-K:]
        memory = activation(torch.stack(latest) + position[-len(latest) :])  # [W, B, 2H]
        key, value = memory.chunk(2, dim=-1)
        gone = None
        if absent is not None and len(projected) - len(latest) < len(absent):
            early = absent[len(projected) - len(latest) :]
            gone = F.pad(early, (0, 0, 0, len(latest) - len(early)))
        mixed, looked_at = attend(
            activation(query),
            norms.key(key, step),
            norms.value(value, step),
            config.num_heads,
            gone,
        )
        if looks is not None:
            looks.append(looked_at)
        return mixed

    return look_back
