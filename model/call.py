"""The call shape that all layers share: what they refuse, and unbatched sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]
"""Of a baseline: parts have the batch as their second axis; steps ``[B]``, if any, come last."""


def check_input(x: Tensor, input_size: int, *, batch_first: bool) -> tuple[int, tuple[int, ...]]:
    """Refuse an input that does not fit, before anything is computed.

    Args:
        x: Should be ``[T, B, F]``, ``[B, T, F]`` with ``batch_first``, or unbatched ``[T, F]``.
        input_size: F.
        batch_first: Which of the first two it is.

    Returns:
        T, and what stands for the batch in shapes: ``(B,)``, or ``()`` of an unbatched sequence.

    Raises:
        ValueError: If it is of another shape, or empty.
    """
    if x.dim() not in (2, 3) or x.shape[-1] != input_size:
        layout = "[B, T, F]" if batch_first else "[T, B, F]"
        raise ValueError(f"x must be {layout} or [T, F] with F = {input_size}, got {list(x.shape)}")
    if 0 in x.shape:
        raise ValueError(f"x must hold at least one step and one sequence, got {list(x.shape)}")
    if x.dim() == 2:
        return x.shape[0], ()
    length, batch = x.shape[:2][:: -1 if batch_first else 1]
    return length, (batch,)


def check_state(state: Iterable[Tensor], shapes: dict[str, Sequence[int]]) -> None:
    """Refuse a state whose parts have other shapes than these.

    Raises:
        ValueError: If a part has another shape, or there are more or fewer parts.
    """
    parts = tuple(state)
    if len(parts) != len(shapes):
        raise ValueError(f"state must be ({', '.join(shapes)}), got {len(parts)} parts")
    for (name, shape), part in zip(shapes.items(), parts, strict=True):
        if tuple(part.shape) != tuple(shape):
            raise ValueError(
                f"state.{name} must be {list(shape)} for this x, got {list(part.shape)}"
            )


def check_lengths(lengths: Tensor, length: int, batch: tuple[int, ...]) -> None:
    """Refuse lengths that are not one whole number from 0 to ``length`` for each of a batch.

    Raises:
        ValueError: If they are not.
    """
    if lengths.shape != batch or not batch or lengths.is_floating_point():
        raise ValueError(
            "lengths must be whole numbers [B], one for each sequence of a batch, "
            f"got {lengths.dtype} {list(lengths.shape)}"
        )
    if int(lengths.min()) < 0 or int(lengths.max()) > length:
        raise ValueError(
            f"lengths must lie between 0 and the {length} steps of x, "
            f"got {int(lengths.min())} to {int(lengths.max())}"
        )


class Baseline(nn.Module):
    """A layer's call shape: checks, unbatched input, ``batch_first``, padding.

    Args:
        input_size: Features of a step, F.
        batch_first: Whether ``x`` and ``output`` begin with the batch.
    """

    def __init__(self, input_size: int, *, batch_first: bool) -> None:
        super().__init__()
        self.input_size = input_size
        self.batch_first = batch_first

    def forward(
        self, x: Tensor, state: State | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run over sequences.

        Args:
            x: ``[T, B, F]``, ``[B, T, F]`` with ``batch_first``, or unbatched ``[T, F]``.
            state: What an earlier call returned, of the class's `state_shapes`.
            lengths: Steps of each sequence that are real, ``[B]``, 0 to T; None: all.

        Returns:
            Output, shaped as ``x`` with H features, and the state after each sequence's last real
            step; unbatched: without B.

        Raises:
            ValueError: If a shape does not fit, or a norm over the batch has one sequence to train.
        """
        length, batch = check_input(x, self.input_size, batch_first=self.batch_first)
        if state is not None:
            check_state(state, self.state_shapes(batch))
        valid = None
        if lengths is not None:
            check_lengths(lengths, length, batch)
            lengths = lengths.to(x.device, torch.long)
            valid = torch.arange(length, device=x.device)[:, None] < lengths  # [T, B]
        if not batch:
            x = x[:, None]
            if state is not None:
                state = tuple(part[:, None] if part.dim() else part[None] for part in state)
        elif self.batch_first:
            x = x.transpose(0, 1)
        if valid is not None:  # what stands there, even NaN, must not reach a gradient
            x = x.masked_fill(~valid[..., None], 0.0)
        output, after = self.run(x, state, lengths, valid)
        if not batch:
            return output[:, 0], tuple(p[:, 0] if p.dim() > 1 else p[0] for p in after)
        return (output.transpose(0, 1) if self.batch_first else output), after

    def state_shapes(self, batch: tuple[int, ...]) -> dict[str, Sequence[int]]:
        """Names and shapes of a state's parts; ``batch`` is ``(B,)``, or ``()`` unbatched."""
        raise NotImplementedError

    def run(
        self, x: Tensor, state: State | None, lengths: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, State]:
        """Run over ``[T, B, F]``; ``valid`` ``[T, B]`` says what ``lengths`` says."""
        raise NotImplementedError
