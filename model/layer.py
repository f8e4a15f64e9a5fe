"""The LARNN as a layer: stacked cells over a sequence, called like ``torch.nn.LSTM``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from model import fused
from model.call import SequenceLayer, State
from model.cell import LARNNCell, Trace
from model.config import ModelConfig
from model.norm import Span, StepBatchNorm, check_training_batch


class LARNNState(NamedTuple):
    """All that a LARNN carries from one piece of a sequence to the next.

    Without a batch dimension, B is missing from each shape.
    """

    hidden: Tensor
    """h of each layer, ``[num_layers, B, H]``."""

    queue: Tensor
    """Each layer's latest cells, oldest first, ``[num_layers, K, B, H]``; slots that hold none yet
    are 0 and are not attended to."""

    steps: Tensor
    """Time steps each sequence has seen, whole numbers ``[B]``: tells how many slots hold a cell,
    and which of batch norm's statistics apply."""

    @property
    def cell(self) -> Tensor:
        """Newest cell of each layer, ``[num_layers, B, H]``."""
        return self.queue[:, -1]


class LARNN(SequenceLayer):
    """Linear Attention Recurrent Neural Network (Chevalier 2018, arXiv 1808.05578, section 3).

    An LSTM-like recurrence in which each time step attends to the layer's own latest cell states.
    The equations are in ``docs/larnn.md``.

    Args:
        input_size: Features of the input, F.
        hidden_size: Features of each layer, H; a multiple of ``num_heads``.
        num_layers: Stacked layers, L.
        num_heads: Attention heads, N.
        window_size: Past cells that a step attends to, K.
        mode: How attention enters the gates: ``residual`` (a matrix of its own) or ``layer`` (one
            matrix over input, hidden state and attention).
        stacking: ``plain``, or ``residual``: layers from the second on add their input to their
            output.
        attention_activation: Activation of queries, keys and values: ``none``, ``elu``, ``relu``,
            ``gelu``, ``tanh``.
        attention_norm: Norm of keys and values: ``none``, ``layer``, ``batch``.
        cell_activation: Activation between cell and hidden state: ``elu`` (as published), or
            ``tanh``, as an LSTM's: hidden values stay within -1 and 1 without a norm, too.
        norm: Norm of attention, cell and hidden state: ``none``, ``layer``, ``batch``.
        positional_encoding: ``static`` shows keys and values a cell's age; ``none``.
        dropout: Share of hidden values dropped in training, drawn anew at each step.
        dropout_on: ``hidden``: the hidden state, which the next step reads (as published), or
            ``output``: what a layer hands on, outside the recurrence, as an LSTM's dropout.
        batch_first: Input and output are ``[B, T, ...]`` rather than ``[T, B, ...]``.
        backend: What computes: ``fused`` (one CPU kernel a layer, built on first use), ``torch``
            (PyTorch's own operations), or ``auto``: the kernel wherever it can. None:
            ``LARNN_BACKEND``, else ``auto``. Both give the same numbers, but for rounding.

    Raises:
        BuildError: With ``fused``, if the kernel cannot be built here.
        ValueError: For a setting that breaks its rule in `ModelConfig`, or a ``hidden_size`` that
            is not a multiple of ``num_heads``.

    Example:
        >>> layer = LARNN(9, 32, num_layers=2, num_heads=4, window_size=16)
        >>> output, state = layer(torch.randn(128, 5, 9))
        >>> output.shape
        torch.Size([128, 5, 32])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,  # as torch.nn.LSTM's; so are plain stacks
        *,
        num_heads: int,
        window_size: int,
        mode: str = ModelConfig.mode,
        stacking: str = "plain",
        attention_activation: str = ModelConfig.attention_activation,
        attention_norm: str = ModelConfig.attention_norm,
        cell_activation: str = ModelConfig.cell_activation,
        norm: str = ModelConfig.norm,
        positional_encoding: str = ModelConfig.positional_encoding,
        dropout: float = ModelConfig.dropout,
        dropout_on: str = ModelConfig.dropout_on,
        batch_first: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(input_size, batch_first=batch_first)
        if input_size < 1:
            raise ValueError(f"input_size must be at least 1, got {input_size}")
        for name, size in (("hidden_size", hidden_size), ("num_heads", num_heads)):
            if not isinstance(size, int) or isinstance(size, bool):
                raise ValueError(f"{name} must be a whole number, got {size!r}")
        if num_heads < 1 or hidden_size < 1 or hidden_size % num_heads:
            raise ValueError(
                "hidden_size must be a positive multiple of num_heads, "
                f"got hidden_size {hidden_size} and num_heads {num_heads}"
            )
        self.config = ModelConfig(
            cell="larnn",
            num_layers=num_layers,
            num_heads=num_heads,
            head_size=hidden_size // num_heads,
            window_size=window_size,
            mode=mode,
            stacking=stacking,
            attention_activation=attention_activation,
            attention_norm=attention_norm,
            cell_activation=cell_activation,
            norm=norm,
            positional_encoding=positional_encoding,
            dropout=dropout,
            dropout_on=dropout_on,
        )
        self.hidden_size = hidden_size
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(LARNNCell(size, self.config) for size in sizes)
        self._wanted_backend = fused.choose_backend(backend)

    @property
    def backend(self) -> str:
        """Name of the path that computes: ``fused``, or ``torch``: PyTorch's own operations."""
        return fused.resolve_backend(self._wanted_backend, next(self.parameters()))

    def extra_repr(self) -> str:
        """Sizes, for ``print(layer)``."""
        config = self.config
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={config.num_layers}, "
            f"num_heads={config.num_heads}, window_size={config.window_size}"
        )

    def forward(
        self, x: Tensor, state: State | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, LARNNState]:
        """Run over sequences: ``x`` ``[T, B, F]`` gives ``[T, B, H]`` and a `LARNNState`.

        Unbatched input, ``lengths`` and what is refused are as `SequenceLayer.forward` says.
        """
        output, after = self._call(x, state, lengths, self.run)
        return output, LARNNState(*after)

    @torch.no_grad()
    def attention(
        self, x: Tensor, state: State | None = None, *, lengths: Tensor | None = None
    ) -> Tensor:
        """Show what each step looks at, as at evaluation (no dropout, learned norms).

        Args:
            x: As for `forward`.
            state: As for `forward`.
            lengths: As for `forward`.

        Returns:
            Weights ``[num_layers, B, N, T, K]``, the newest cell last; they sum to 1 over K, and
            slots without a cell have 0, as have all slots of steps past a sequence's end.
            Unbatched: without B.
        """
        looks: list[list[Tensor]] = [[] for _ in self.cells]
        self._call(x, state, lengths, partial(self.run, looks=looks))
        K = self.config.window_size
        filled = [
            [F.pad(look, (0, 0, 0, 0, K - len(look), 0)) for look in layer] for layer in looks
        ]
        weights = torch.stack([torch.stack(layer) for layer in filled])  # [L, T, K, B, N]
        weights = weights.permute(0, 3, 4, 1, 2)
        if lengths is not None:
            steps = torch.arange(weights.shape[3], device=x.device)
            ended = steps >= lengths.to(x.device)[:, None]  # [B, T]
            weights = weights.masked_fill(ended[:, None, :, None], 0.0)
        return weights[:, 0] if x.dim() == 2 else weights

    def state_shapes(self, batch: tuple[int, ...]) -> dict[str, Sequence[int]]:
        """As `LARNNState`."""
        L, K, H = self.config.num_layers, self.config.window_size, self.hidden_size
        return {"hidden": (L, *batch, H), "queue": (L, K, *batch, H), "steps": batch}

    def run(
        self,
        x: Tensor,
        state: State | None,
        lengths: Tensor | None,
        valid: Tensor | None,
        *,
        looks: list[list[Tensor]] | None = None,
    ) -> tuple[Tensor, LARNNState]:
        """All layers over ``[T, B, F]``; ``looks`` takes what each step looks at in evaluation."""
        before = self._start(x) if state is None else LARNNState(*state)
        if valid is not None and bool(valid[-1].all()):
            lengths = valid = None
        span = self._span(len(x), before.steps, valid, looks)
        rows = torch.arange(span.history, device=x.device)[:, None]
        absent = rows < span.history - 1 - before.steps  # [R, B]
        gap = absent if bool(absent.any()) else None
        hiddens, queues = [], []
        for number, cell in enumerate(self.cells):
            queue = before.queue[number]
            trace: Trace = cell(
                x,
                before.hidden[number],
                queue[-span.history :],
                gap,
                span,
                None if looks is None else looks[number],
            )
            hidden, queue = _latest(trace, before.hidden[number], queue, lengths)
            hiddens.append(hidden)
            queues.append(queue)
            output = trace.hidden
            if self.config.dropout_on == "output":
                output = F.dropout(output, self.config.dropout, training=span.training)
            residual = self.config.stacking == "residual" and number > 0
            x = x + output if residual else output
        steps = before.steps + (span.length if lengths is None else lengths)
        return x, LARNNState(torch.stack(hiddens), torch.stack(queues), steps)

    def _start(self, x: Tensor) -> LARNNState:
        """Before the first step: h = 0, and a queue that holds c_0 = 0."""
        L, K, B, H = self.config.num_layers, self.config.window_size, x.shape[1], self.hidden_size
        return LARNNState(
            x.new_zeros(L, B, H),
            x.new_zeros(L, K, B, H),
            torch.zeros(B, dtype=torch.long, device=x.device),
        )

    def _span(
        self, T: int, steps: Tensor, valid: Tensor | None, looks: list[list[Tensor]] | None
    ) -> Span:
        """The time steps of this call."""
        training = self.training and looks is None
        fused = looks is None and self.backend == "fused"  # the kernel keeps no weights
        seen = steps.tolist()
        if training and any(isinstance(part, StepBatchNorm) for part in self.modules()):
            check_training_batch(seen)
        running = [len(seen)] * T if valid is None else valid.sum(1).tolist()
        history = min(self.config.window_size, max(seen) + 1)
        return Span(steps, T, history, valid, tuple(running), training, fused)


def _latest(
    trace: Trace, hidden: Tensor, queue: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What a layer carries on after each sequence's last real step: ``[B, H]``, ``[K, B, H]``."""
    K = len(queue)
    cells = torch.cat([queue, trace.cells])  # [K + T, B, H]
    if lengths is None:
        return trace.hidden[-1], cells[-K:]
    sequences = torch.arange(len(lengths), device=lengths.device)
    hiddens = torch.cat([hidden[None], trace.hidden])
    rows = torch.arange(K, device=lengths.device)[:, None] + lengths  # [K, B]
    return hiddens[lengths, sequences], cells[rows, sequences]
