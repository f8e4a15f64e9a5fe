"""One layer of the LARNN over one sequence, in PyTorch's own operations: one node of autograd.

With autograd's own nodes, dozens a step, it took 1.6 times as long (``docs/decisions.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.config import ModelConfig
from model.loop import CellWeights, Loop
from model.memory import take_block
from model.norm import Norm, Span, weight_and_bias
from model.passes import begin
from model.tape import Call, CellNorms, Sizes, lay_out, tape_shapes


class TorchSequence(torch.autograd.Function):
    """One layer over one sequence; `model.fused` has its counterpart."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, inputs: Tensor, hidden: Tensor, queue: Tensor, *weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compute hidden states ``[T, B, H]`` and the latest cells ``[cells_out, B, H]``.

        Args:
            ctx: Carries what backward needs.
            call: Sizes and settings.
            inputs: ``[T, B, I]``.
            hidden: ``[B, H]``.
            queue: ``[R, B, H]``.
            *weights: Of `CellWeights`, then weight and bias of each norm; None: there is none.
        """
        ctx.set_materialize_grads(False)
        cell = _of_cell(weights)
        block = take_block(tape_shapes(call).values(), like=cell.hidden)
        tape = lay_out(call, block)
        with torch.autocast(inputs.device.type, enabled=False):
            Loop(call, cell, tape).forward(inputs, hidden, queue)
        ctx.call = call
        # Saved as autograd saves: released by backward, kept by retain_graph. That the weights are
        # still what they were is checked; norms find theirs in the call.
        ctx.save_for_backward(block, *weights)
        output = tape.joined[1:, call.sizes.inputs :], tape.cells[-call.cells_out :]
        # Of one sequence, contiguous() would hand out the tape itself.
        hidden, cells = (part.mT.clone(memory_format=torch.contiguous_format) for part in output)
        return hidden, cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output: Tensor | None, cells: Tensor | None) -> tuple[Any, ...]:
        """Gradients of all tensors, from those of what came out (None: 0)."""
        block, *weights = ctx.saved_tensors
        call: Call = ctx.call
        loop = Loop(call, _of_cell(weights), lay_out(call, block))
        into = loop.backward(output, cells)
        I = call.sizes.inputs  # noqa: E741  # the field's name
        state = into.joined[:-1, :I].mT.contiguous(), into.joined[0, I:].t(), into.queue.mT
        own: Sequence[Tensor | None] = [None] * len(CellWeights._fields)
        if any(ctx.needs_input_grad[4:]):
            own = loop.weight_gradients(into)
        return None, *state, *own, *(part for norm in call.norms for part in norm.gradients)


def run_sequence(
    config: ModelConfig,
    weights: CellWeights,
    norms: Sequence[Norm],
    inputs: Tensor,
    hidden: Tensor,
    queue: Tensor,
    absent: Tensor | None,
    keep: Tensor | None,
    span: Span,
    looks: list[Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """One layer over one sequence.

    Args:
        config: Activation, heads, window, norms.
        weights: Of the layer.
        norms: Of keys, values, attention, cell, hidden state. In training, batch norms learn what
            this batch measured.
        inputs: ``[T, B, I]``.
        hidden: ``[B, H]``.
        queue: Oldest first, ``[R, B, H]`` with ``1 <= R <= window_size``.
        absent: Which of its slots hold no cell, ``[R, B]``; None where all do.
        keep: Factors of dropout, ``[T, B, H]`` or None.
        span: Which time steps these are. Past a sequence's end, hidden states and cells are 0:
            nobody reads them, but under a norm by others' moments they would grow step by step,
            and inf * 0 is NaN.
        looks: Takes each step's attention weights, ``[W, B, N]``; None: nobody asks.

    Returns:
        Hidden states ``[T, B, H]``, and cells: of all steps where sequences end early, else of the
        latest ``min(T, window_size)``, ``[C, B, H]``.
    """
    T, B, I = inputs.shape  # noqa: E741  # the field's name for the input's size
    parameters = [*weights, *(part for norm in norms for part in weight_and_bias(norm))]
    tensors = inputs, hidden, queue, *parameters
    device = inputs.device.type
    with torch.no_grad():
        passes = CellNorms(*(begin(norm, span) for norm in norms))
    call = Call(
        config=config,
        sizes=Sizes(T, B, I, config.units, config.num_heads, config.window_size, len(queue)),
        norms=passes,
        absent=absent,
        ended=None if span.ended is None else span.ended.mT,
        keep=None if keep is None else keep.mT.contiguous(),
        cells_out=T if span.ended is not None else min(T, config.window_size),
        saves=torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors),
        half=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
        looks=looks,
    )
    output, cells = TorchSequence.apply(call, *tensors)  # type: ignore[no-untyped-call]  # torch
    for each in passes:
        each.close()
    return output, cells


def _of_cell(weights: Sequence[Tensor | None]) -> CellWeights:
    return CellWeights(*weights[: len(CellWeights._fields)])  # type: ignore[arg-type]  # as given
