"""The kernel as one step of autograd."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.fused.build import load_library

SITES = 5  # norms, in the kernel's order: key, value, attention, cell, hidden
ACTIVATIONS = ("none", "elu", "relu", "gelu", "tanh")
NORMS = ("none", "batch", "layer")
# Differentiable arguments, in order; norms follow with a weight and a bias each.
ARGUMENTS = (
    "inputs",
    "hidden",
    "queue",
    "input_matrix",
    "bias",
    "hidden_matrix",
    "memory_matrix",
    "memory_bias",
    "position",
    "attended_matrix",
    "attended_bias",
    "gates_matrix",
)
_STATE = 3  # of these, the first three are no parameters


_SitePointers = ctypes.c_void_p * SITES


class _Problem(ctypes.Structure):
    """Mirrors ``Problem`` in src/problem.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("value_bytes", "threads", *"TBIHNKR")),
        *((name, ctypes.c_int64) for name in ("activation", "norm", "memory_norm", "cells_out")),
        *((name, ctypes.c_void_p) for name in (*ARGUMENTS[:3], "keep", "lengths")),
        *((name, ctypes.c_void_p) for name in ARGUMENTS[3:]),
        *((name, _SitePointers) for name in ("norm_weight", "norm_bias", "moments", "measured")),
        *((name, ctypes.c_void_p) for name in ("output", "cells", "saved", "scratch")),
        *((name, ctypes.c_void_p) for name in ("d_output", "d_cells")),
        *((f"d_{name}", ctypes.c_void_p) for name in ARGUMENTS),
        *((name, _SitePointers) for name in ("d_norm_weight", "d_norm_bias")),
    )


@dataclass
class Call:
    """What one call needs beside the tensors that have gradients.

    Attributes:
        num_heads: N.
        window_size: K.
        activation: Of queries, keys and values.
        norm: Of attention, cell and hidden state.
        memory_norm: Of keys and values.
        cells_out: How many of the latest cells to return.
        keep: Factors of dropout, ``[T, B, H]``, or None.
        lengths: Steps of each sequence, int64 ``[B]``, or None.
        moments: Batch norm, per site: mean and 1/std of each step, ``[steps, 2, H]``; rows that are
            measured are written by forward. None for other norms.
        measured: Batch norm, per site: which steps take the batch's own moments, uint8 ``[steps]``.
    """

    num_heads: int
    window_size: int
    activation: str
    norm: str
    memory_norm: str
    cells_out: int
    keep: Tensor | None
    lengths: Tensor | None
    moments: list[Tensor | None]
    measured: list[Tensor | None]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _problem(call: Call, arguments: list[Tensor | None], output: Tensor) -> _Problem:
    inputs, _, queue = arguments[:_STATE]
    assert inputs is not None
    assert queue is not None
    T, B, I = inputs.shape  # noqa: E741  # the field's name for the input's size
    problem = _Problem(
        value_bytes=inputs.element_size(),
        threads=torch.get_num_threads(),
        T=T,
        B=B,
        I=I,
        H=queue.shape[2],
        N=call.num_heads,
        K=call.window_size,
        R=queue.shape[0],
        activation=ACTIVATIONS.index(call.activation),
        norm=NORMS.index(call.norm),
        memory_norm=NORMS.index(call.memory_norm),
        cells_out=call.cells_out,
        keep=_address(call.keep),
        lengths=_address(call.lengths),
        output=output.data_ptr(),
    )
    for name, argument in zip(ARGUMENTS, arguments, strict=False):
        setattr(problem, name, _address(argument))
    for site in range(SITES):
        weight, bias = arguments[len(ARGUMENTS) + 2 * site :][:2]
        problem.norm_weight[site], problem.norm_bias[site] = _address(weight), _address(bias)
        problem.moments[site] = _address(call.moments[site])
        problem.measured[site] = _address(call.measured[site])
    return problem


def _run(name: str, problem: _Problem) -> None:
    """Run the kernel with as much scratch memory as it asks for."""
    function = getattr(load_library(), name)
    scratch = torch.empty(function(ctypes.byref(problem), 0), dtype=torch.uint8)
    problem.scratch = scratch.data_ptr()
    if function(ctypes.byref(problem), 1) < 0:
        raise RuntimeError(
            f"the LARNN's kernel could not start {problem.threads} threads: "
            "lower torch.set_num_threads, or raise the system's limit of threads"
        )


class FusedSequence(torch.autograd.Function):
    """One layer over one sequence; see ``docs/kernel.md``."""

    @staticmethod
    def forward(ctx: Any, call: Call, *arguments: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        given = [None if a is None else a.detach().contiguous() for a in arguments]
        inputs, _, queue = given[:_STATE]
        assert inputs is not None
        assert queue is not None
        output = inputs.new_empty(*inputs.shape[:2], queue.shape[2])
        cells = inputs.new_empty(call.cells_out, *output.shape[1:])
        problem = _problem(call, given, output)
        problem.cells = cells.data_ptr()
        size = load_library().larnn_saved_bytes(ctypes.byref(problem))
        saved = torch.empty(size, dtype=torch.uint8)
        problem.saved = saved.data_ptr()
        _run("larnn_forward", problem)
        ctx.call = call
        # Saved as autograd saves: released by backward, kept by retain_graph.
        ctx.save_for_backward(saved, output, *given)
        return output, cells

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch
    def backward(ctx: Any, d_output: Tensor | None, d_cells: Tensor | None) -> tuple[Any, ...]:
        saved, output, *given = ctx.saved_tensors
        problem = _problem(ctx.call, given, output)
        problem.saved = saved.data_ptr()
        d_output = None if d_output is None else d_output.contiguous()
        d_cells = None if d_cells is None else d_cells.contiguous()
        problem.d_output, problem.d_cells = _address(d_output), _address(d_cells)
        gradients: list[Tensor | None] = []
        for index, (argument, needed) in enumerate(
            zip(given, ctx.needs_input_grad[1:], strict=True)
        ):
            if argument is None or not needed:
                gradients.append(None)
            else:  # the kernel writes the state's gradients and adds to the parameters'
                make = torch.empty_like if index < _STATE else torch.zeros_like
                gradients.append(make(argument))
        for name, gradient in zip(ARGUMENTS, gradients, strict=False):
            setattr(problem, f"d_{name}", _address(gradient))
        for site in range(SITES):
            weight, bias = gradients[len(ARGUMENTS) + 2 * site :][:2]
            problem.d_norm_weight[site] = _address(weight)
            problem.d_norm_bias[site] = _address(bias)
        _run("larnn_backward", problem)
        return (None, *gradients)
