"""What one call of a layer's PyTorch path is told, and the memory for what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.attention import shares_memory
from model.config import ModelConfig
from model.memory import split
from model.passes import NormPass


class CellNorms(NamedTuple):
    """The norms of one call at work: of keys, values, attention, cell, hidden state."""

    key: NormPass
    value: NormPass
    attention: NormPass
    cell: NormPass
    hidden: NormPass


class Sizes(NamedTuple):
    """Of one call."""

    steps: int  # T
    batch: int  # B
    inputs: int  # I
    hidden: int  # H
    heads: int  # N
    window: int  # K
    history: int  # R, cells that the call starts with


@dataclass(frozen=True)
class Call:
    """What one call needs beside the tensors that have gradients.

    Attributes:
        config: Of the layer.
        sizes: Of the call.
        norms: At work.
        absent: Slots of the queue that hold no cell, ``[R, B]``; None where all do.
        ended: Which steps are past their sequence's end, ``[T, 1, B]``; None where none is.
        keep: Factors of dropout, ``[T, H, B]``; None: there is none.
        cells_out: How many of the latest cells to return.
        saves: Whether to keep what backward needs.
        half: The type that autocast wants for products of matrices; None: no autocast.
        looks: Takes each step's attention weights, ``[W, B, N]``; None: nobody asks.
    """

    config: ModelConfig
    sizes: Sizes
    norms: CellNorms
    absent: Tensor | None
    ended: Tensor | None
    keep: Tensor | None
    cells_out: int
    saves: bool
    half: torch.dtype | None
    looks: list[Tensor] | None


class Tape(NamedTuple):
    """What a call computes on its way; S is T where backward needs all steps, else 1."""

    joined: Tensor  # [T + 1, I + H, B]: a step's input, and the hidden state before it
    gates: Tensor  # [S, 5H, B]: the query before its scale, then the opened gates i, f, u, o
    query: Tensor  # [S, H, B]
    projected: Tensor  # [rows, 2H, B], rows R + T - 1; 1 where `memory` is all that is needed
    memory: Tensor  # [rows, 2H, B]
    weights: Tensor  # [S, W, N x B]
    mixed: Tensor  # [S, H, B]
    attended: Tensor  # [S, H, B], before its norm
    attention: Tensor  # [S, H, B]
    raw_cells: Tensor  # [S, H, B], before their norm
    cells: Tensor  # [R + T, H, B]
    bounded: Tensor  # [S, H, B], the cells through their activation
    raw_hidden: Tensor  # [S, H, B], before its norm


def tape_shapes(call: Call) -> dict[str, tuple[int, ...]]:
    """Shapes of what a tape holds, but for what shares another's memory."""
    T, B, I, H, N, K, R = call.sizes  # noqa: E741  # the field's name for the input's size
    S = T if call.saves else 1
    rows = R + T - 1
    shapes: dict[str, tuple[int, ...]] = {
        "joined": (T + 1, I + H, B),
        "gates": (S, 5 * H, B),
        "query": (S, H, B),
        "projected": (rows, 2 * H, B),
        "weights": (S, min(K, rows), N * B),
        "mixed": (S, H, B),
        "attended": (S, H, B),
        "cells": (R + T, H, B),
        "bounded": (S, H, B),
    }
    if not shares_memory(call.config):
        shapes["memory"] = shapes["projected"]
        shapes["projected"] = (rows if call.saves else 1, 2 * H, B)
    if call.config.norm != "none":
        shapes |= dict.fromkeys(("attention", "raw_cells", "raw_hidden"), (S, H, B))
    return shapes


def lay_out(call: Call, block: Tensor) -> Tape:
    """A tape in a block of memory; where one step is kept, each step finds it at its place."""
    T, R, I = call.sizes.steps, call.sizes.history, call.sizes.inputs  # noqa: E741  # as above
    shapes = tape_shapes(call)
    parts = dict(zip(shapes, split(block, shapes.values()), strict=True))
    if not call.saves:
        for name, part in parts.items():
            parts[name] = part if len(part) > 1 else part.expand(R + T - 1, -1, -1)
    parts.setdefault("memory", parts["projected"])
    parts.setdefault("attention", parts["attended"])
    parts.setdefault("raw_cells", parts["cells"][R:])
    parts.setdefault("raw_hidden", parts["joined"][1:, I:])
    return Tape(**parts)


class Step(NamedTuple):
    """Where a tape holds what one step computes."""

    joined: Tensor  # [I + H, B]
    gates: Tensor  # [5H, B], of which the next ones are parts
    raw_query: Tensor  # [H, B]
    opened: Tensor  # [4H, B]
    i: Tensor  # [H, B]
    others: Tensor  # [3H, B]: f, u, o
    f: Tensor  # [H, B]
    u: Tensor  # [H, B]
    o: Tensor  # [H, B]
    query: Tensor  # [D, N x B]
    weights: Tensor  # [W, N x B]
    mixed: Tensor  # [H, B]
    attended: Tensor  # [H, B]
    attention: Tensor  # [H, B]
    before: Tensor  # [H, B], the cell before
    raw_cell: Tensor  # [H, B]
    cell: Tensor  # [H, B]
    bounded: Tensor  # [H, B]
    raw_hidden: Tensor  # [H, B]
    hidden: Tensor  # [H, B]


def steps(call: Call, tape: Tape) -> list[Step]:
    """All steps of a tape; made at once, for a view of a tensor takes a microsecond or two."""
    T, B, I, H, N, K, R = call.sizes  # noqa: E741  # the field's name for the input's size
    i, f, u, o = tape.gates[:, H:].chunk(4, dim=1)
    rows = {
        "joined": tape.joined,
        "gates": tape.gates,
        "raw_query": tape.gates[:, :H],
        "opened": tape.gates[:, H:],
        "others": tape.gates[:, 2 * H :],
        "i": i,
        "f": f,
        "u": u,
        "o": o,
        "query": tape.query.view(-1, H // N, N * B),
        "mixed": tape.mixed,
        "attended": tape.attended,
        "attention": tape.attention,
        "before": tape.cells[R - 1 :],
        "raw_cell": tape.raw_cells,
        "cell": tape.cells[R:],
        "bounded": tape.bounded,
        "raw_hidden": tape.raw_hidden,
        "hidden": tape.joined[1:, I:],
    }
    views: dict[str, Sequence[Tensor]] = {n: part[:T].unbind(0) for n, part in rows.items()}
    views["weights"] = [tape.weights[t, : min(K, R + t)] for t in range(T)]
    return [Step(*step) for step in zip(*(views[n] for n in Step._fields), strict=True)]
