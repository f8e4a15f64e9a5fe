"""The LARNN as a layer: stacked cells over a sequence, called like ``torch.nn.LSTM``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from model import fused
from model.call import check_input, check_lengths, check_state
from model.cell import LARNNCell, Trace
from model.config import ModelConfig
from model.norm import Span, StepBatchNorm


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


class LARNN(nn.Module):
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
        num_layers: int = 1,
        *,
        num_heads: int,
        window_size: int,
        mode: str = "residual",
        stacking: str = "plain",
        attention_activation: str = "elu",
        attention_norm: str = "none",
        cell_activation: str = "elu",
        norm: str = "layer",
        positional_encoding: str = "none",
        dropout: float = 0.0,
        dropout_on: str = "hidden",
        batch_first: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if input_size < 1:
            raise ValueError(f"input_size must be at least 1, got {input_size}")
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
        if hidden_size < 2 and "layer" in (norm, attention_norm):
            raise ValueError("layer norm needs a hidden_size of at least 2, got 1: set norm='none'")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.batch_first = batch_first
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(LARNNCell(size, self.config) for size in sizes)
        self._wanted_backend = fused.choose_backend(backend, self.config)

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
        self, x: Tensor, state: LARNNState | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, LARNNState]:
        """Run over sequences.

        Args:
            x: ``[T, B, F]``, ``[B, T, F]`` with ``batch_first``, or unbatched ``[T, F]``.
            state: What an earlier call returned, to go on from there; None: from the start.
            lengths: Steps of each sequence that are real, ``[B]``, 0 to T; None: all. Later steps
                change neither state nor norms, and their output is 0.

        Returns:
            The last layer's output, shaped as ``x`` with H features, and the state after each
            sequence's last real step.

        Raises:
            ValueError: If a shape, type or device does not fit; or in training with batch norm, if
                the batch is one sequence, or its sequences have not seen equally many steps.
        """
        return self._run(x, state, lengths, training=self.training)

    @torch.no_grad()
    def attention(self, x: Tensor, state: LARNNState | None = None) -> Tensor:
        """Show what each step looks at, as at evaluation (no dropout, learned norms).

        Args:
            x: As for `forward`.
            state: As for `forward`.

        Returns:
            Weights ``[num_layers, B, N, T, K]``, the newest cell last; they sum to 1 over K, and
            slots without a cell have 0. Unbatched: without B.
        """
        looks: list[list[Tensor]] = [[] for _ in self.cells]
        self._run(x, state, None, training=False, looks=looks)
        K = self.config.window_size
        filled = [
            [F.pad(look, (0, 0, 0, 0, K - len(look), 0)) for look in layer] for layer in looks
        ]
        weights = torch.stack([torch.stack(layer) for layer in filled])  # [L, T, K, B, N]
        weights = weights.permute(0, 3, 4, 1, 2)
        return weights[:, 0] if x.dim() == 2 else weights

    def _run(
        self,
        x: Tensor,
        state: LARNNState | None,
        lengths: Tensor | None,
        *,
        training: bool,
        looks: list[list[Tensor]] | None = None,
    ) -> tuple[Tensor, LARNNState]:
        """Bring what the caller gave to ``[T, B, F]``, run, and bring the results back."""
        unbatched = x.dim() == 2
        self._check(x, state, lengths)
        if unbatched:
            x = x[:, None]
            if state is not None:
                hidden, queue, steps = state
                state = LARNNState(hidden[:, None], queue[:, :, None], steps[None])
        elif self.batch_first:
            x = x.transpose(0, 1)
        if state is None:
            state = self._start(x)
        fused = looks is None and self.backend == "fused"  # the kernel keeps no weights
        span, lengths = self._span(x, state.steps, lengths, training=training, fused=fused)
        output, after = self._layers(x, state, lengths, span, looks)
        if unbatched:
            hidden, queue, steps = after
            return output[:, 0], LARNNState(hidden[:, 0], queue[:, :, 0], steps[0])
        return output.transpose(0, 1) if self.batch_first else output, after

    def _layers(
        self,
        x: Tensor,
        state: LARNNState,
        lengths: Tensor | None,
        span: Span,
        looks: list[list[Tensor]] | None,
    ) -> tuple[Tensor, LARNNState]:
        """All layers over ``[T, B, F]``."""
        rows = torch.arange(span.history, device=x.device)[:, None]
        absent = rows < span.history - 1 - state.steps  # [R, B]
        gap = absent if bool(absent.any()) else None
        hiddens, queues = [], []
        if span.ended is not None:  # whatever stands there, even NaN, must not reach a gradient
            x = x.masked_fill(span.ended, 0.0)
        for number, cell in enumerate(self.cells):
            queue = state.queue[number]
            trace: Trace = cell(
                x,
                state.hidden[number],
                queue[-span.history :],
                gap,
                span,
                None if looks is None else looks[number],
            )
            hidden, queue = _latest(trace, state.hidden[number], queue, lengths)
            hiddens.append(hidden)
            queues.append(queue)
            output = trace.hidden
            if self.config.dropout_on == "output":
                output = F.dropout(output, self.config.dropout, training=span.training)
            residual = self.config.stacking == "residual" and number > 0
            x = x + output if residual else output
        steps = state.steps + (span.length if lengths is None else lengths)
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
        self, x: Tensor, steps: Tensor, lengths: Tensor | None, *, training: bool, fused: bool
    ) -> tuple[Span, Tensor | None]:
        """The time steps of this call; lengths come back as None where all are T."""
        T, B = x.shape[:2]
        running, valid = [B] * T, None
        if lengths is not None:
            lengths = lengths.to(x.device)
            valid = torch.arange(T, device=x.device)[:, None] < lengths  # [T, B]
            running = valid.sum(1).tolist()
            if running[-1] == B:
                lengths = valid = None
        seen = steps.tolist()
        if training and any(isinstance(part, StepBatchNorm) for part in self.modules()):
            if B < 2:
                raise ValueError(
                    "training with batch norm needs at least 2 sequences in a batch, got 1: "
                    "use a larger batch, eval(), or norm='layer'"
                )
            if min(seen) != max(seen):
                raise ValueError(
                    "training with batch norm needs sequences that have seen equally many steps, "
                    f"got {min(seen)} to {max(seen)}: start anew, or use norm='layer'"
                )
        history = min(self.config.window_size, max(seen) + 1)
        return Span(steps, T, history, valid, tuple(running), training, fused), lengths

    def _check(self, x: Tensor, state: LARNNState | None, lengths: Tensor | None) -> None:
        """Refuse what does not fit, before anything is computed."""
        length, batch = check_input(x, self.input_size, batch_first=self.batch_first)
        self._check_type("x", x)
        if state is not None:
            L, K, H = self.config.num_layers, self.config.window_size, self.hidden_size
            check_state(
                state, {"hidden": (L, *batch, H), "queue": (L, K, *batch, H), "steps": batch}
            )
            self._check_type("state.hidden", state.hidden)
            self._check_type("state.queue", state.queue)
        if lengths is not None:
            check_lengths(lengths, length, batch)

    def _check_type(self, name: str, value: Tensor) -> None:
        """Refuse another type or device than the parameters'; autocast takes any floating type."""
        weight = next(self.parameters())
        found, wanted = (value.device, value.dtype), (weight.device, weight.dtype)
        if torch.is_autocast_enabled(weight.device.type) and value.is_floating_point():
            found = (value.device, weight.dtype)
        if found != wanted:
            raise ValueError(
                f"{name} must be {weight.dtype} on {weight.device}, as the layer's parameters, got "
                f"{value.dtype} on {value.device}: convert one of them with .to()"
            )


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
