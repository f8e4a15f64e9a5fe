"""Multi-head attention of one query per time step over the window of past cells.

Head ``n`` of N owns the features n, N + n, 2N + n, ...: with the features of one head far apart,
sums over them run along contiguous memory. Other layouts are permutations of the weights' rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812  # the field's name for it

# In place where that can be: one tensor less to keep, and the gradient needs no exponential.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda value: value,
    "elu": F.elu_,
    "relu": torch.relu_,
    "gelu": F.gelu,
    "tanh": torch.tanh_,
}


def positional_features(window_size: int) -> Tensor:
    """Sines and cosines of a cell's age in the window (the paper, section 3.3).

    Periods double from 2 steps on for cosines and from 4 for sines, up to a quarter of a wave over
    the window, so that any two ages differ.

    Args:
        window_size: Steps, K.

    Returns:
        Oldest first, float64 ``[K, P]`` with ``P = 2 ceil(log2(4 K))``; the newest cell has age 1.
    """
    octaves = torch.arange(1, math.ceil(math.log2(4 * window_size)) + 1, dtype=torch.float64)
    ages = torch.arange(window_size, 0, -1, dtype=torch.float64)[:, None]
    cosines = torch.cos(2 * math.pi * ages / 2**octaves)
    sines = torch.sin(2 * math.pi * ages / 2 ** (octaves + 1))
    return torch.cat([cosines, sines], dim=1)


def split_heads(value: Tensor, num_heads: int) -> Tensor:
    """``[..., B, H]`` to ``[..., D, B, N]``."""
    return value.view(*value.shape[:-1], -1, num_heads).transpose(-3, -2)


def join_heads(value: Tensor) -> Tensor:
    """``[..., D, B, N]`` to ``[..., B, H]``."""
    return value.transpose(-3, -2).flatten(-2)


def attend(
    query: Tensor, keys: Tensor, values: Tensor, num_heads: int, absent: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Let one step look back over a window that is computed anew at each step.

    Args:
        query: ``[B, H]``.
        keys: Oldest first, ``[W, B, H]``.
        values: As ``keys``.
        num_heads: N.
        absent: Slots without a cell, ``[W, B]``; None where all have one.

    Returns:
        The weighted mix of values, ``[B, H]``, and the weights, ``[W, B, N]``.
    """
    query, keys, values = (split_heads(value, num_heads) for value in (query, keys, values))
    scores = (keys * (query / math.sqrt(query.shape[0]))).sum(1)
    if absent is not None:
        scores = scores.masked_fill(absent[..., None], -math.inf)
    weights = scores.softmax(0)
    return join_heads((values * weights[:, None]).sum(0)), weights


class Window:
    """Keys and values of one layer over one call, each projected once, when its cell is made.

    They lie in one preallocated buffer, of which a step's window is a slice. The steps' backward
    passes add to one buffer of gradients; a token that autograd hands from step to step makes them
    run in reverse order, so that a row's gradient is complete when its own step takes it.

    Args:
        keys: Of the cells the call starts with, oldest first, ``[R, B, H]`` with ``1 <= R <= K``;
            their shape and type count, `fill` takes them in.
        steps: Time steps of the call, T.
        window_size: K.
        num_heads: N.
        absent: Slots of the R that hold no cell, ``[R, B]``; None where all do.
        looks: Takes each step's weights, ``[W, B, N]``, oldest first; None: nobody asks.
    """

    def __init__(
        self,
        keys: Tensor,
        steps: int,
        window_size: int,
        num_heads: int,
        absent: Tensor | None,
        looks: list[Tensor] | None,
    ) -> None:
        rows, batch, hidden = keys.shape
        self.num_heads = num_heads
        self.window_size = window_size
        self.absent = absent
        self.looks = looks
        self.scale = math.sqrt(num_heads / hidden)  # 1 / sqrt(head_size)
        self.newest = rows - 1
        lanes, head_size = batch * num_heads, hidden // num_heads
        # [keys or values, D, rows, B x N]
        self.memory = keys.new_empty(2, head_size, rows + steps - 1, lanes)
        # Of one step at a time, [D, W, B x N] and [W, B x N]
        self.products = keys.new_empty(head_size, min(window_size, rows + steps - 1), lanes)
        self.scores = torch.empty_like(self.products[0])
        self.gradient: Tensor | None = None

    def fill(self, keys: Tensor, values: Tensor) -> Tensor:
        """Take in the cells the call starts with; the first token.

        The caller keeps the token. Kept here it would close a circle, from the window to a step's
        node in autograd's graph and back, which no garbage collector sees.
        """
        token: Tensor = _Fill.apply(keys, values, self)  # type: ignore[no-untyped-call]  # torch
        return token

    def attend(
        self, token: Tensor, query: Tensor, key: Tensor | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Let one step look back.

        Args:
            token: Of the step before.
            query: ``[B, H]``.
            key: Key of the cell that the step before made, ``[B, H]``; None at a call's first step.
            value: As ``key``.

        Returns:
            The weighted mix of values, ``[B, H]``, and this step's token.
        """
        if key is not None:
            self.newest += 1
        mixed, token = _Attend.apply(query, key, value, token, self)  # type: ignore[no-untyped-call]  # torch
        return mixed, token

    def weigh(self, asked: Tensor, rows: slice) -> Tensor:
        """Weights of a step's window, ``[W, B x N]``, for its query ``[D, 1, B x N]``."""
        keys = self.memory[0, :, rows]
        scores = _dot(keys, asked, self.scores[: keys.shape[1]])
        if self.absent is not None and rows.start < len(self.absent):
            absent = self.absent[rows]
            lanes = scores[: len(absent)].view(*absent.shape, -1)
            lanes.masked_fill_(absent[..., None], -math.inf)
        return scores.softmax(0)

    def split(self, value: Tensor) -> Tensor:
        """``[..., B, H]`` to ``[..., D, B x N]``, in the buffer's type."""
        return split_heads(value, self.num_heads).flatten(-2).to(self.memory.dtype)

    def join(self, value: Tensor) -> Tensor:
        """``[..., D, B x N]`` to ``[..., B, H]``."""
        return join_heads(value.view(*value.shape[:-1], -1, self.num_heads))


def _dot(rows: Tensor, one: Tensor, total: Tensor) -> Tensor:
    """Products of ``[D, W, lanes]`` with ``[D, 1, lanes]``, summed over D to ``[W, lanes]``."""
    torch.mul(rows[0], one[0], out=total)
    for row, other in zip(rows[1:], one[1:], strict=True):
        total.addcmul_(row, other)
    return total


class _Fill(torch.autograd.Function):
    """Write the cells that a call starts with into the window; gives the first token."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, values: Tensor, window: Window) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.window = window
        for memory, rows in zip(window.memory, (keys, values), strict=True):
            memory[:, : len(rows)] = window.split(rows).transpose(0, 1)
        ctx.rows = len(keys)
        return keys.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        window = ctx.window
        if token is None:
            return None, None, None
        keys, values = (window.join(g[:, : ctx.rows].transpose(0, 1)) for g in window.gradient)
        window.gradient = None
        return keys, values, None


class _Attend(torch.autograd.Function):
    """Write the newest key and value into the window, then attend to its latest K rows."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        token: Tensor,
        window: Window,
    ) -> tuple[Tensor, Tensor]:
        rows = slice(max(0, window.newest + 1 - window.window_size), window.newest + 1)
        if key is not None and value is not None:
            for memory, part in zip(window.memory, (key, value), strict=True):
                heads = split_heads(part, window.num_heads)  # [D, B, N]
                memory[:, window.newest].view(heads.shape).copy_(heads)
        asked = (window.split(query) * window.scale)[:, None]  # [D, 1, B x N]
        weights = window.weigh(asked, rows)
        if window.looks is not None:
            window.looks.append(weights.view(len(weights), -1, window.num_heads))
        products = window.products[:, : len(weights)]
        mixed = torch.mul(window.memory[1, :, rows], weights, out=products).sum(1)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(asked, weights)
        ctx.window, ctx.rows, ctx.entered = window, rows, key is not None
        return window.join(mixed), token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, mixed: Tensor | None, token: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor, None]:
        window: Window = ctx.window
        asked, weights = ctx.saved_tensors
        if (
            token is None or window.gradient is None
        ):  # the last step that this backward pass reaches
            window.gradient = torch.zeros_like(window.memory)
        key_gradient, value_gradient = window.gradient[:, :, ctx.rows]
        query = None
        if mixed is not None:
            keys, values = window.memory[:, :, ctx.rows]
            mixed = window.split(mixed)[:, None]  # [D, 1, B x N]
            value_gradient.addcmul_(weights, mixed)
            scores = _dot(values, mixed, window.scores[: len(weights)]).mul_(weights)
            scores.addcmul_(weights, scores.sum(0), value=-1)  # through the softmax, [W, B x N]
            key_gradient.addcmul_(scores, asked)
            products = torch.mul(keys, scores, out=window.products[:, : len(weights)])
            query = window.join(products.sum(1) * window.scale)
        if not ctx.entered:
            return query, None, None, asked.new_zeros(()), None
        return (
            query,
            window.join(key_gradient[:, -1]),
            window.join(value_gradient[:, -1]),
            asked.new_zeros(()),
            None,
        )
