"""The kernel as one step of autograd."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.fused.build import load_library
from model.memory import POOL

SITES = 5  # norms, in the kernel's order: key, value, attention, cell, hidden
KERNEL_ACTIVATIONS = ("none", "elu", "relu", "gelu", "tanh")
NORMS = ("none", "batch", "layer")
STATE = ("inputs", "hidden", "queue")
# In order; norms follow with a weight and a bias each.
PARAMETERS = (
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


_SitePointers = ctypes.c_void_p * SITES


class _Problem(ctypes.Structure):
    """Mirrors ``Problem`` in src/problem.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("value_bytes", "threads", *"TBIHNKR")),
        *(
            (name, ctypes.c_int64)
            for name in (
                "activation",
                "cell_activation",
                "norm",
                "memory_norm",
                "cells_out",
                "saves",
            )
        ),
        *((name, ctypes.c_void_p) for name in (*STATE, "keep", "lengths")),
        *((name, ctypes.c_void_p) for name in PARAMETERS),
        *((name, _SitePointers) for name in ("norm_weight", "norm_bias", "moments", "measured")),
        ("bounds", ctypes.c_double * SITES),
        *((name, ctypes.c_void_p) for name in ("output", "cells", "saved", "scratch")),
        *((name, ctypes.c_void_p) for name in ("d_output", "d_cells")),
        *((f"d_{name}", ctypes.c_void_p) for name in (*STATE, *PARAMETERS)),
        *((name, _SitePointers) for name in ("d_norm_weight", "d_norm_bias")),
    )


@dataclass
class KernelCall:
    """What one call needs beside the tensors that have gradients.

    Attributes:
        num_heads: N.
        window_size: K.
        activation: Of queries, keys and values.
        cell_activation: Between cell and hidden state.
        norm: Of attention, cell and hidden state.
        memory_norm: Of keys and values.
        cells_out: How many of the latest cells to return.
        saves: Whether to leave what backward needs.
        moments: Batch norm, per site: mean and 1/std of each step, ``[steps, 2, H]``; rows that are
            measured are written by forward. None for other norms.
        measured: Batch norm, per site: which steps take the batch's own moments, uint8 ``[steps]``.
        bounds: Batch norm, per site: how many standard deviations from a learned mean values are
            held to.
    """

    num_heads: int
    window_size: int
    activation: str
    cell_activation: str
    norm: str
    memory_norm: str
    cells_out: int
    saves: bool
    moments: list[Tensor | None]
    measured: list[Tensor | None]
    bounds: list[float]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _problem(
    call: KernelCall, inputs: Tensor, queue: Tensor, parameters: Sequence[Tensor | None]
) -> _Problem:
    """Sizes, parameters and tables; the caller adds what it alone knows."""
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
        activation=KERNEL_ACTIVATIONS.index(call.activation),
        cell_activation=KERNEL_ACTIVATIONS.index(call.cell_activation),
        norm=NORMS.index(call.norm),
        memory_norm=NORMS.index(call.memory_norm),
        cells_out=call.cells_out,
        saves=call.saves,
        inputs=inputs.data_ptr(),
        queue=queue.data_ptr(),
    )
    _point(problem, "", parameters)
    for site in range(SITES):
        problem.moments[site] = _address(call.moments[site])
        problem.measured[site] = _address(call.measured[site])
        problem.bounds[site] = call.bounds[site]
    return problem


def _point(problem: _Problem, prefix: str, parameters: Sequence[Tensor | None]) -> None:
    """Enter the addresses of the parameters, or with the prefix ``d_`` of their gradients."""
    for name, parameter in zip(PARAMETERS, parameters, strict=False):
        setattr(problem, prefix + name, _address(parameter))
    norms = parameters[len(PARAMETERS) :]
    for site in range(SITES):
        getattr(problem, f"{prefix}norm_weight")[site] = _address(norms[2 * site])
        getattr(problem, f"{prefix}norm_bias")[site] = _address(norms[2 * site + 1])


def _run(name: str, problem: _Problem) -> None:
    """Run the kernel with as much scratch memory as it asks for."""
    function = getattr(load_library(), name)
    scratch = POOL.take(function(ctypes.byref(problem), 0))
    problem.scratch = scratch.data_ptr()
    if function(ctypes.byref(problem), 1) < 0:
        raise RuntimeError(
            f"the LARNN's kernel could not start {problem.threads} threads: "
            "lower torch.set_num_threads, or raise the system's limit of threads"
        )


def _check_types(*tensors: Tensor | None) -> None:
    """The kernel reads every array as numbers of one type, and so many of them."""
    found = {f"{t.dtype} on {t.device}" for t in tensors if t is not None}
    if len(found) > 1:
        raise ValueError(
            "inputs, state and parameters of a layer must have one type and device, got "
            f"{', '.join(sorted(found))}: convert the layer with .to()"
        )


class FusedSequence(torch.autograd.Function):
    """One layer over one sequence; see ``docs/kernel.md``."""

    @staticmethod
    def forward(
        ctx: Any,
        call: KernelCall,
        keep: Tensor | None,
        lengths: Tensor | None,
        inputs: Tensor,
        hidden: Tensor,
        queue: Tensor,
        *parameters: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute hidden states ``[T, B, H]`` and the latest cells ``[cells_out, B, H]``.

        Args:
            ctx: Carries what backward needs.
            call: Sizes, and batch norm's tables.
            keep: Factors of dropout, ``[T, B, H]``, or None.
            lengths: Steps of each sequence, int64 ``[B]``, or None.
            inputs: ``[T, B, I]``.
            hidden: ``[B, H]``.
            queue: ``[R, B, H]``.
            *parameters: As `PARAMETERS`, then weight and bias of each norm; None: there is none.

        Raises:
            ValueError: If they differ in type or device.
        """
        _check_types(inputs, hidden, queue, keep, *parameters, *call.moments)
        ctx.set_materialize_grads(False)
        inputs, hidden, queue = (part.detach().contiguous() for part in (inputs, hidden, queue))
        parameters = tuple(None if p is None else p.detach().contiguous() for p in parameters)
        output = inputs.new_empty(*inputs.shape[:2], queue.shape[2])
        cells = inputs.new_empty(call.cells_out, *output.shape[1:])
        problem = _problem(call, inputs, queue, parameters)
        saved = POOL.take(load_library().larnn_saved_bytes(ctypes.byref(problem)))
        problem.hidden, problem.saved = hidden.data_ptr(), saved.data_ptr()
        problem.keep, problem.lengths = _address(keep), _address(lengths)
        problem.output, problem.cells = output.data_ptr(), cells.data_ptr()
        _run("larnn_forward", problem)
        ctx.call = call
        # Saved as autograd saves: released by backward, kept by retain_graph.
        ctx.save_for_backward(saved, output, keep, lengths, inputs, hidden, queue, *parameters)
        return output, cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor | None, d_cells: Tensor | None) -> tuple[Any, ...]:
        """Gradients of all tensors, from those of what came out (None: 0)."""
        saved, output, keep, lengths, inputs, hidden, queue, *parameters = ctx.saved_tensors
        d_output = None if d_output is None else d_output.contiguous()
        d_cells = None if d_cells is None else d_cells.contiguous()
        needed = ctx.needs_input_grad[3:]
        # The kernel writes the state's gradients and adds to the parameters'.
        d_state = [
            torch.empty_like(part) if wanted else None
            for part, wanted in zip((inputs, hidden, queue), needed, strict=False)
        ]
        d_parameters = [
            torch.zeros_like(parameter) if wanted else None
            for parameter, wanted in zip(parameters, needed[len(STATE) :], strict=True)
        ]
        problem = _problem(ctx.call, inputs, queue, parameters)
        problem.hidden, problem.saved = hidden.data_ptr(), saved.data_ptr()
        problem.keep, problem.lengths = _address(keep), _address(lengths)
        problem.output = output.data_ptr()
        problem.d_output, problem.d_cells = _address(d_output), _address(d_cells)
        for name, gradient in zip(STATE, d_state, strict=True):
            setattr(problem, f"d_{name}", _address(gradient))
        _point(problem, "d_", d_parameters)
        _run("larnn_backward", problem)
        return (None, None, None, *d_state, *d_parameters)
