"""The time steps of one layer's PyTorch path, forward and back.

Features come first, ``[H, B]``: what a head, a gate or a norm works on lies together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from model.attention import ACTIVATIONS, AgedWindow, Window
from model.memory import split, take_block
from model.passes import NormPass
from model.tape import Call, Step, Tape, steps

aten = torch.ops.aten


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


class Gradients(NamedTuple):
    """What comes back, step by step."""

    joined: Tensor  # [T + 1, I + H, B], as the tape's
    gates: Tensor  # [T, 5H, B], before they opened
    projected: Tensor  # [R + T - 1, 2H, B]
    attended: Tensor  # [T, H, B], before its activation
    queue: Tensor  # [R, H, B]
    position: Tensor | None = None  # [K, 2H, 1]


class Loop:
    """Both directions over the time steps of a call.

    Args:
        call: Sizes and settings.
        weights: Of the layer.
        tape: Takes what `forward` computes, or holds it for `backward`.
    """

    def __init__(self, call: Call, weights: CellWeights, tape: Tape) -> None:
        self.call, self.tape = call, tape
        self.first = call.sizes.history - 1  # row of the newest cell at step 0
        joined = torch.cat([weights.input, weights.hidden], dim=1)  # [5H, I + H]
        matrices = joined, weights.memory, weights.attended, weights.attention_gates
        self.joined_matrix, self.memory_matrix, self.attended_matrix, self.gates_matrix = (
            matrix if call.half is None else matrix.to(call.half) for matrix in matrices
        )
        biases = weights.bias, weights.memory_bias, weights.attended_bias
        self.bias, self.memory_bias, self.attended_bias = (
            None if bias is None else bias[:, None] for bias in biases
        )
        self.activation = ACTIVATIONS[call.config.attention_activation]
        self.cell_activation = ACTIVATIONS[call.config.cell_activation]
        shared = call.config, call.norms[:2], call.absent, self.first, tape.projected
        if weights.position is None:
            self.window = Window(*shared, tape.memory)
        else:
            position = weights.position.mT.to(tape.joined.dtype)
            self.window = AgedWindow(position, *shared)
        self.steps = steps(call, tape)

    def forward(self, inputs: Tensor, hidden: Tensor, queue: Tensor) -> None:
        """Fill the tape from ``[T, B, I]``, ``[B, H]`` and ``[R, B, H]``."""
        tape, sizes = self.tape, self.call.sizes
        tape.joined[: sizes.steps, : sizes.inputs] = inputs.mT
        tape.joined[0, sizes.inputs :] = hidden.t()
        tape.cells[: sizes.history] = queue.mT
        for row in range(self.first):
            self._enter(row, tape.cells[row])
        for number, step in enumerate(self.steps):
            self._enter(self.first + number, step.before)
            self._look(number, step)
            self._step(number, step)

    def _enter(self, row: int, cell: Tensor) -> None:
        """Let a cell enter the window."""
        _multiply(self.memory_matrix, cell, self.memory_bias, self.tape.projected[row])
        self.window.enter(row)

    def _look(self, number: int, step: Step) -> None:
        """Ask, and mix the values of what was found."""
        _multiply(self.joined_matrix, step.joined, self.bias, step.gates)
        query = self.activation.apply(step.raw_query).view_as(step.query)
        torch.mul(query, self.window.scale, out=step.query)
        mixed = step.mixed.view_as(step.query)
        self.window.look(self.first + number, step.query, step.weights, mixed)
        if self.call.looks is not None:
            shown = step.weights.view(len(step.weights), self.call.sizes.heads, -1)
            self.call.looks.append(shown.mT.clone())

    def _step(self, number: int, step: Step) -> None:
        """From the mix of values to the new cell and hidden state."""
        call, norms = self.call, self.call.norms
        _multiply(self.attended_matrix, step.mixed, self.attended_bias, step.attended)
        _normalise(norms.attention, F.elu_(step.attended), number, step.attention)
        _multiply(self.gates_matrix, step.attention, step.opened, step.opened)
        step.i.tanh_()
        step.others.sigmoid_()
        torch.mul(step.i, step.u, out=step.raw_cell).addcmul_(step.before, step.f)
        _normalise(norms.cell, step.raw_cell, number, step.cell)
        if call.ended is not None:
            step.cell.masked_fill_(call.ended[number], 0.0)
        step.bounded.copy_(step.cell)
        torch.mul(step.o, self.cell_activation.apply(step.bounded), out=step.raw_hidden)
        _normalise(norms.hidden, step.raw_hidden, number, step.hidden)
        if call.keep is not None:
            step.hidden.mul_(call.keep[number])
        if call.ended is not None:
            step.hidden.masked_fill_(call.ended[number], 0.0)

    def backward(self, output: Tensor | None, cells: Tensor | None) -> Gradients:
        """Go back, from the gradients ``[T, B, H]`` and ``[cells_out, B, H]``; None: 0."""
        T, B, I, H, _, _, R = self.call.sizes  # noqa: E741  # the field's name
        shapes = (T + 1, I + H, B), (T, 5 * H, B), self.tape.projected.shape, (T, H, B), (R, H, B)
        into = Gradients(*split(take_block(shapes, self.tape.joined), shapes))
        for norm in self.call.norms:
            norm.restart()
        self.window.restart(into.projected.zero_())
        outputs = None if output is None else output.mT.contiguous()
        latest = () if cells is None else cells.mT.unbind(0)
        into.joined[T].zero_()
        cell = into.joined.new_zeros(H, B)
        for number, step in reversed(list(enumerate(self.steps))):
            hidden = into.joined[number + 1, I:]
            if outputs is not None:
                hidden += outputs[number]
            if number >= T - len(latest):
                cell += latest[number - T]
            gates = into.gates[number]
            self._step_back(number, step, hidden, cell, gates[H:])
            self._look_back(number, step, into.attended[number], gates)
            _multiply(self.joined_matrix.t(), gates, None, into.joined[number])
            cell += self._leave(self.first + number)
        into.queue[R - 1] = cell
        for row in range(R - 1):
            into.queue[row] = self._leave(row)
        return into._replace(position=self.window.position_gradient())

    def _step_back(
        self, number: int, step: Step, hidden: Tensor, cell: Tensor, opened: Tensor
    ) -> None:
        """Back through the gates; ``cell`` becomes the gradient of the cell before."""
        call, norms = self.call, self.call.norms
        i, f, u, o = opened.chunk(4)
        if call.ended is not None:
            hidden = hidden.masked_fill(call.ended[number], 0.0)
        if call.keep is not None:
            hidden = hidden * call.keep[number]
        hidden = _normalise_back(norms.hidden, hidden, number, step.raw_hidden)
        torch.mul(hidden, step.bounded, out=o)
        cell += self.cell_activation.backward(hidden * step.o, step.bounded)
        if call.ended is not None:
            cell.masked_fill_(call.ended[number], 0.0)
        raw = _normalise_back(norms.cell, cell, number, step.raw_cell)
        torch.mul(raw, step.u, out=i)
        torch.mul(raw, step.before, out=f)
        torch.mul(raw, step.i, out=u)
        torch.mul(raw, step.f, out=cell)
        aten.tanh_backward.grad_input(i, step.i, grad_input=i)
        others = opened[len(i) :]
        aten.sigmoid_backward.grad_input(others, step.others, grad_input=others)

    def _look_back(self, number: int, step: Step, attended: Tensor, gates: Tensor) -> None:
        """Back from the opened gates through attention to the query."""
        H = len(attended)
        attention = _multiply(self.gates_matrix.t(), gates[H:])
        attention = _normalise_back(self.call.norms.attention, attention, number, step.attended)
        attended.copy_(aten.elu_backward(attention, 1, 1, 1, True, step.attended))
        mixed = _multiply(self.attended_matrix.t(), attended).view_as(step.query)
        query = self.window.look_back(self.first + number, step.query, step.weights, mixed)
        query = query.mul_(self.window.scale).view_as(attended)
        gates[:H] = self.activation.backward(query, step.raw_query)

    def _leave(self, row: int) -> Tensor:
        """Back through `_enter`: the gradient of a cell, as keys and values want it."""
        return _multiply(self.memory_matrix.t(), self.window.leave(row))

    def weight_gradients(self, into: Gradients) -> CellWeights:
        """Of the parameters."""
        tape, (T, _, I, H, _, _, _) = self.tape, self.call.sizes  # noqa: E741  # the field's name
        joined = self._gradient(into.gates, tape.joined[:T])
        return CellWeights(
            input=joined[:, :I],
            bias=into.gates.sum((0, 2)),
            hidden=joined[:, I:],
            memory=self._gradient(into.projected, tape.cells[: len(into.projected)]),
            memory_bias=None if self.memory_bias is None else into.projected.sum((0, 2)),
            position=None if into.position is None else into.position.mT,
            attended=self._gradient(into.attended, tape.mixed),
            attended_bias=into.attended.sum((0, 2)),
            attention_gates=self._gradient(into.gates[:, H:], tape.attention),
        )

    def _gradient(self, products: Tensor, inputs: Tensor) -> Tensor:
        """Of a matrix, from those of its products, ``[T, O, B]``, and its inputs, ``[T, I, B]``."""
        if self.call.half is None:
            total = products.new_zeros(products.shape[1], inputs.shape[1])
            return total.addbmm_(products, inputs.mT)
        each = torch.bmm(products.to(self.call.half), inputs.mT.to(self.call.half))
        return each.sum(0, dtype=products.dtype)


def _multiply(
    matrix: Tensor, value: Tensor, added: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """``matrix value + added``, in the matrix's type, but with sums in the value's."""
    if matrix.dtype is not value.dtype:  # under autocast
        product = matrix.mm(value.to(matrix.dtype))
        result = product.to(value.dtype) if added is None else added + product
        return result if out is None else out.copy_(result)
    if added is None:
        return torch.mm(matrix, value, out=out)
    return torch.addmm(added, matrix, value, out=out)


def _normalise(norm: NormPass, value: Tensor, step: int, out: Tensor) -> None:
    """Into ``out``, which is ``value`` itself where there is no norm."""
    if norm.changes:
        out.copy_(norm(value[None], step)[0])


def _normalise_back(norm: NormPass, gradient: Tensor, step: int, value: Tensor) -> Tensor:
    return norm.backward(gradient[None], value[None], step)[0] if norm.changes else gradient
