"""Between a cell and the kernel: which calls it takes, and how they are made."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.config import BACKEND_VARIABLE, BACKENDS, ModelConfig
from model.fused.build import is_available, load_library
from model.fused.function import FusedSequence, KernelCall
from model.norm import EPSILON, Norm, Span, StepBatchNorm, weight_and_bias

if TYPE_CHECKING:  # the cell imports this package
    from model.loop import CellWeights


def choose_backend(wanted: str | None) -> str:
    """The backend a layer is made with: ``wanted``, else ``LARNN_BACKEND``, else ``auto``.

    Raises:
        BuildError: If ``fused`` is asked for and cannot be built here.
        ValueError: For another name.
    """
    backend = wanted or os.environ.get(BACKEND_VARIABLE) or BACKENDS[0]
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "fused":
        load_library()
    return backend


def resolve_backend(chosen: str, parameter: Tensor) -> str:
    """What a layer with this parameter runs on now: ``fused`` or ``torch``.

    The kernel leaves other devices and types, autocast and tracing to PyTorch.
    """
    known = (
        chosen != "torch"
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and parameter.device.type == "cpu"
        and parameter.dtype in (torch.float32, torch.float64)
    )
    return "fused" if known and is_available() else "torch"


def takes(absent: Tensor | None, span: Span, norms: tuple[Norm, ...]) -> bool:
    """Whether the kernel takes this call of a layer that runs on it.

    It leaves to PyTorch batches whose sequences have seen different numbers of steps, where the
    window or batch norm's learned statistics depend on it.
    """
    if absent is not None:
        return False
    uneven = any(isinstance(norm, StepBatchNorm) for norm in norms) and not span.training
    return not uneven or bool((span.first == span.first[0]).all())


def run_kernel(
    config: ModelConfig,
    weights: CellWeights,
    norms: tuple[Norm, ...],
    inputs: Tensor,
    hidden: Tensor,
    queue: Tensor,
    keep: Tensor | None,
    span: Span,
) -> tuple[Tensor, Tensor]:
    """One layer over one sequence: takes and gives what `model.sequence.run_sequence` does.

    All slots of the queue hold cells, and nobody asks for attention weights.

    Raises:
        RuntimeError: If threads could not be started.
    """
    lengths = None if span.valid is None else span.valid.sum(0)
    moments: list[Tensor | None] = [None] * len(norms)
    measured: list[Tensor | None] = [None] * len(norms)
    bounds = [math.inf] * len(norms)
    for site, norm in enumerate(norms):
        if isinstance(norm, StepBatchNorm):
            steps = _steps(site, span)
            moments[site], measured[site] = _moments(norm, steps, span)
            bounds[site] = norm.bound()
    tensors = (
        inputs,
        hidden,
        queue,
        *weights,  # as PARAMETERS names them
        *(parameter for norm in norms for parameter in weight_and_bias(norm)),
    )
    call = KernelCall(
        num_heads=config.num_heads,
        window_size=config.window_size,
        activation=config.attention_activation,
        cell_activation=config.cell_activation,
        norm=config.norm,
        memory_norm=config.attention_norm,
        cells_out=len(inputs) if lengths is not None else min(len(inputs), config.window_size),
        saves=torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors),
        moments=moments,
        measured=measured,
        bounds=bounds,
    )
    output, cells = FusedSequence.apply(call, keep, lengths, *tensors)  # type: ignore[no-untyped-call]  # torch
    if span.training:
        for site, norm in enumerate(norms):
            table, flags = moments[site], measured[site]
            if isinstance(norm, StepBatchNorm) and table is not None and flags is not None:
                rows = config.window_size if weights.position is not None and site < 2 else 1
                _learn(norm, table, flags, _steps(site, span), span, rows)
    return output, cells


def _steps(site: int, span: Span) -> range:
    """The steps at which a norm works; keys and values begin with the cells of earlier calls."""
    return range(1 - span.history if site < 2 else 0, span.length)


def _moments(norm: StepBatchNorm, steps: range, span: Span) -> tuple[Tensor, Tensor]:
    """Each step's learned mean and 1/std ``[steps, 2, H]``, and where the batch's own replace them.

    What is the same for every sequence has 1/std 0: its norm is the shift alone.
    """
    first = int(span.first[0])
    measured = [
        span.training
        and span.running[max(step, 0)] >= 2
        and not (norm.constant_start and first + step <= 0)
        for step in steps
    ]
    moments = norm.weight.new_zeros(len(steps), 2, len(norm.weight))
    learned = [
        (row, min(first + step, len(norm.running_mean) - 1))
        for row, step in enumerate(steps)
        if not measured[row] and not (norm.constant_start and first + step <= 0)
    ]
    if learned:
        rows, known = (list(part) for part in zip(*learned, strict=True))
        moments[rows, 0] = norm.running_mean[known]
        moments[rows, 1] = (norm.running_var[known] + EPSILON).rsqrt()
    return moments, torch.tensor(measured, dtype=torch.uint8, device="cpu")


def _learn(
    norm: StepBatchNorm, moments: Tensor, measured: Tensor, steps: range, span: Span, widest: int
) -> None:
    """Let the norm learn what the batch measured; cells of earlier calls were counted there.

    A step's moments are over ``widest`` rows of each sequence, or all that there are.
    """
    rows = [row for row, flag in enumerate(measured.tolist()) if flag and steps[row] >= 0]
    if not rows:
        return
    # Sequences only ever end: the measured steps follow one another.
    first, end = rows[0], rows[-1] + 1
    mean, inverse = moments[first:end].unbind(1)
    counts = [span.running[step] * min(widest, span.history + step) for step in steps[first:end]]
    norm.learn(int(span.first[0]) + steps[first], mean, inverse, counts)
