"""Multi-head attention of one query per time step over the window of past cells, both directions.

Features come first, ``[H, B]``. Head ``n`` of N owns the features n, N + n, 2N + n, ...: seen as
``[D, N x B]`` with head size D, what one head multiplies lies in one lane, and sums over a head or
over the window run along contiguous memory. Other layouts are permutations of the weights' rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from model.config import ModelConfig
from model.passes import NormPass

aten = torch.ops.aten


class Activation(NamedTuple):
    """An activation, and how to go back through it."""

    apply: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]  # from the result's gradient, and what is kept
    in_place: bool = True  # the result takes the input's place, and is what is kept


ACTIVATIONS = {
    "none": Activation(lambda value: value, lambda gradient, _result: gradient),
    "elu": Activation(F.elu_, lambda g, result: aten.elu_backward(g, 1, 1, 1, True, result)),
    "relu": Activation(torch.relu_, lambda g, result: aten.threshold_backward(g, result, 0)),
    "gelu": Activation(F.gelu, aten.gelu_backward, in_place=False),
    "tanh": Activation(torch.tanh_, aten.tanh_backward),
}


def positional_features(window_size: int, octaves: int | None = None) -> Tensor:
    """Sines and cosines of a cell's age in the window (the paper, section 3.3).

    Periods double from 2 steps on for cosines and from 4 for sines, up to a quarter of a wave over
    the window, so that any two ages differ.

    Args:
        window_size: Steps, K.
        octaves: How many periods, P / 2; None: ``ceil(log2(4 K))``.

    Returns:
        Oldest first, float64 ``[K, P]``; the newest cell has age 1.
    """
    octaves = octaves or math.ceil(math.log2(4 * window_size))
    powers = torch.arange(1, octaves + 1, dtype=torch.float64)
    ages = torch.arange(window_size, 0, -1, dtype=torch.float64)[:, None]
    cosines = torch.cos(2 * math.pi * ages / 2**powers)
    sines = torch.sin(2 * math.pi * ages / 2 ** (powers + 1))
    return torch.cat([cosines, sines], dim=1)


class Window:
    """What each step looks back at: keys and values that a cell has from the start.

    Args:
        config: Activation, heads, K.
        norms: Of keys and values.
        absent: Slots of the call's first cells that hold none, ``[R, B]``; None where all do.
        first: Row of the newest cell at step 0, R - 1.
        projected: Of each cell the key's H features and the value's, ``[rows, 2H, B]``.
        memory: Keys and values, as ``projected``: the same memory where `shares_memory`.
    """

    def __init__(
        self,
        config: ModelConfig,
        norms: tuple[NormPass, NormPass],
        absent: Tensor | None,
        first: int,
        projected: Tensor,
        memory: Tensor,
    ) -> None:
        self.activation = ACTIVATIONS[config.attention_activation]
        self.norms, self.absent, self.first = norms, absent, first
        self.projected, self.memory = projected, memory
        rows, features, batch = projected.shape
        self.window_size = config.window_size
        self.head_size, self.lanes = features // 2 // config.num_heads, config.num_heads * batch
        self.scale = 1 / math.sqrt(self.head_size)
        widest = min(config.window_size, rows)
        # Of one step at a time
        self.scores = projected.new_empty(widest, self.lanes)
        self.products = projected.new_empty(widest, self.head_size, self.lanes)
        self.gradient = projected  # see `restart`

    def enter(self, row: int) -> None:
        """Make key and value of a cell whose projection has been written."""
        active = self.activation.apply(self.projected[row])
        if self.memory is not self.projected:
            self.memory[row] = self._normalise(active[None], row - self.first)[0]

    def _normalise(self, active: Tensor, step: int) -> Tensor:
        """Through the norms of keys and values, ``[W, 2H, B]``."""
        if not self.norms[0].changes:
            return active
        parts = zip(self.norms, active.chunk(2, 1), strict=True)
        return torch.cat([norm(part, step) for norm, part in parts], dim=1)

    def _normalise_back(self, gradient: Tensor, active: Tensor, step: int) -> Tensor:
        if not self.norms[0].changes:
            return gradient
        parts = zip(self.norms, gradient.chunk(2, 1), active.chunk(2, 1), strict=True)
        return torch.cat([norm.backward(into, part, step) for norm, into, part in parts], dim=1)

    def rows(self, newest: int) -> slice:
        """The rows that a step sees whose newest cell is this one."""
        return slice(max(0, newest + 1 - self.window_size), newest + 1)

    def look(self, newest: int, query: Tensor, weights: Tensor, mixed: Tensor) -> None:
        """Let one step look back.

        Args:
            newest: Row of its newest cell.
            query: Times 1 / sqrt(D), ``[D, N x B]``.
            weights: Takes the attention weights, oldest first, ``[W, N x B]``.
            mixed: Takes the weighted mix of values, ``[D, N x B]``.
        """
        rows = self.rows(newest)
        keys, values = self._window(rows)
        scores = _dot(keys, query, self.scores[: len(keys)])
        if self.absent is not None and rows.start < len(self.absent):
            absent = self.absent[rows]
            lanes = scores[: len(absent)].view(len(absent), -1, absent.shape[1])
            lanes.masked_fill_(absent[:, None], -math.inf)
        torch.softmax(scores, 0, out=weights)
        products = torch.mul(values, weights[:, None], out=self.products[: len(keys)])
        torch.sum(products, 0, out=mixed)

    def restart(self, gradient: Tensor) -> None:
        """Begin to go back.

        Args:
            gradient: Zeros, shaped as ``projected``: what later steps want of a row's key and
                value, and once its cell has left, of its projection.
        """
        self.gradient = gradient

    def look_back(self, newest: int, query: Tensor, weights: Tensor, mixed: Tensor) -> Tensor:
        """Go back through `look`: from the gradient of ``mixed`` to that of ``query``."""
        rows = self.rows(newest)
        keys, values = self._window(rows)
        into_keys, into_values = self._gradients(rows)
        into_values.addcmul_(weights[:, None], mixed)
        scores = _dot(values, mixed, self.scores[: len(keys)]).mul_(weights)
        scores.addcmul_(weights, scores.sum(0), value=-1)  # through the softmax
        into_keys.addcmul_(scores[:, None], query)
        products = torch.mul(keys, scores[:, None], out=self.products[: len(keys)])
        self._spread(rows)
        return products.sum(0)

    def position_gradient(self) -> Tensor | None:
        """Of what age adds, ``[K, 2H, 1]``: nothing here."""
        return None

    def leave(self, row: int) -> Tensor:
        """Go back through `enter`: the gradient of a cell's projection, ``[2H, B]``."""
        gradient, kept = self.gradient[row], self.projected[row]
        into = gradient
        if self.norms[0].changes:
            active = kept if self.activation.in_place else self.activation.apply(kept)
            into = self._normalise_back(gradient[None], active[None], row - self.first)[0]
        into = self.activation.backward(into, kept)
        return into if into is gradient else gradient.copy_(into)

    def _window(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Keys and values, ``[W, D, N x B]`` each."""
        return self._split(self.memory[rows])

    def _gradients(self, rows: slice) -> tuple[Tensor, Tensor]:
        """What takes their gradients."""
        return self._split(self.gradient[rows])

    def _spread(self, rows: slice) -> None:
        """Hand on what `_gradients` took."""

    def _split(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = memory.view(len(memory), 2, self.head_size, self.lanes).unbind(1)
        return keys, values


def shares_memory(config: ModelConfig) -> bool:
    """Whether a cell's projection becomes its key and value where it lies, or is all it leaves."""
    in_place = ACTIVATIONS[config.attention_activation].in_place
    aged = config.positional_encoding != "none"
    return aged or (in_place and config.attention_norm == "none")


class AgedWindow(Window):
    """Keys and values that change with a cell's age: only its projection is made once.

    Args:
        position: What age adds to projections, oldest first, ``[K, 2H, 1]``.
        config: As for `Window`, and so are the rest.
    """

    def __init__(
        self,
        position: Tensor,
        config: ModelConfig,
        norms: tuple[NormPass, NormPass],
        absent: Tensor | None,
        first: int,
        projected: Tensor,
    ) -> None:
        super().__init__(config, norms, absent, first, projected, memory=projected)
        self.position = position
        # Of the window that was looked at last, with and without its activation
        self._active = self._aged = projected[:0]

    def enter(self, row: int) -> None:
        """A projection is all there is."""

    def restart(self, gradient: Tensor) -> None:
        """Begin to go back, see `Window.restart`."""
        super().restart(gradient)
        self._into_position = torch.zeros_like(self.position)
        self._into_memory = torch.empty_like(self.projected[: self.window_size])

    def position_gradient(self) -> Tensor:
        """Of what age adds, ``[K, 2H, 1]``."""
        return self._into_position

    def leave(self, row: int) -> Tensor:
        """The gradient of a cell's projection: all steps have handed on their share."""
        return self.gradient[row]

    def _window(self, rows: slice) -> tuple[Tensor, Tensor]:
        projected = self.projected[rows]
        self._aged = projected + self.position[-len(projected) :]
        self._active = self.activation.apply(self._aged)
        return self._split(self._normalise(self._active, rows.stop - 1 - self.first))

    def _gradients(self, rows: slice) -> tuple[Tensor, Tensor]:
        return self._split(self._into_memory[: rows.stop - rows.start].zero_())

    def _spread(self, rows: slice) -> None:
        into = self._into_memory[: len(self._aged)]
        into = self._normalise_back(into, self._active, rows.stop - 1 - self.first)
        into = self.activation.backward(into, self._aged)
        self.gradient[rows] += into
        self._into_position[-len(into) :] += into.sum(2, keepdim=True)


def _dot(rows: Tensor, one: Tensor, total: Tensor) -> Tensor:
    """Products of ``[W, D, lanes]`` with ``[D, lanes]``, summed over D to ``[W, lanes]``."""
    first, *others = rows.unbind(1)
    torch.mul(first, one[0], out=total)
    for row, other in zip(others, one[1:], strict=True):
        total.addcmul_(row, other)
    return total
