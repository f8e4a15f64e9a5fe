"""The call shape that all layers share: what they refuse, and unbatched sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]
"""The batch is the second last axis of each part; steps ``[B]``, if any, come last."""

Run = Callable[[Tensor, State | None, Tensor | None, Tensor | None], tuple[Tensor, State]]
"""What `SequenceLayer.run` is."""


def check_input(x: Tensor, input_size: int, *, batch_first: bool) -> tuple[int, tuple[int, ...]]:
    """Refuse an input that does not fit, before anything is computed.

    Args:
        x: Should be ``[T, B, F]``, ``[B, T, F]`` with ``batch_first``, or unbatched ``[T, F]``.
        input_size: F.
        batch_first: Which of the first two it is.

    Returns:
        T, and what stands for the batch in shapes: ``(B,)``, or ``()`` of an unbatched sequence.

    Raises:
        ValueError: If it is of another shape, empty, or no tensor.
    """
    layout = "[B, T, F]" if batch_first else "[T, B, F]"
    if not isinstance(x, Tensor):
        raise ValueError(
            f"x must be a tensor {layout} or [T, F], got {type(x).__name__}: give sequences of "
            "different lengths filled up, as pad_packed_sequence gives them, and their lengths="
        )
    if x.dim() not in (2, 3) or x.shape[-1] != input_size:
        raise ValueError(f"x must be {layout} or [T, F] with F = {input_size}, got {list(x.shape)}")
    if 0 in x.shape:
        raise ValueError(f"x must hold at least one step and one sequence, got {list(x.shape)}")
    if x.dim() == 2:
        return x.shape[0], ()
    length, batch = x.shape[:2][:: -1 if batch_first else 1]
    return length, (batch,)


def check_type(name: str, value: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse another type or device; autocast takes any floating type for another.

    Raises:
        ValueError: If it is another.
    """
    casts = torch.is_autocast_enabled(device.type) and dtype.is_floating_point
    fits = value.dtype == dtype or (casts and value.is_floating_point())
    if not fits or value.device != device:
        raise ValueError(
            f"{name} must be {dtype} on {device} for this layer, got {value.dtype} on "
            f"{value.device}: convert one of them with .to()"
        )


def check_state(state: State, shapes: dict[str, Sequence[int]], weight: Tensor) -> None:
    """Refuse a state whose parts do not fit.

    Args:
        state: Should have parts of the type and device of ``weight``, but for whole ``steps``.
        shapes: Of its parts, by name.
        weight: A parameter of the layer.

    Raises:
        ValueError: If a part has another shape, type or device, or there are more or fewer parts.
    """
    if len(state) != len(shapes):
        raise ValueError(f"state must be ({', '.join(shapes)}), got {len(state)} parts")
    for (name, shape), part in zip(shapes.items(), state, strict=True):
        if tuple(part.shape) != tuple(shape):
            raise ValueError(
                f"state.{name} must be {list(shape)} for this x, got {list(part.shape)}"
            )
        dtype = torch.long if name == "steps" else weight.dtype
        check_type(f"state.{name}", part, dtype, weight.device)
        if name == "steps" and part.numel() and int(part.min()) < 0:
            raise ValueError(f"state.steps must not be negative, got {int(part.min())}")


def check_lengths(lengths: Tensor, length: int, batch: tuple[int, ...]) -> Tensor:
    """Refuse lengths that are not one whole number from 0 to ``length`` for each of a batch.

    Returns:
        The lengths as int64, ``[B]``: PyTorch would take uint8 for a mask.

    Raises:
        ValueError: If they are not.
    """
    if not isinstance(lengths, Tensor):
        raise ValueError(f"lengths must be a tensor of whole numbers [B], got {lengths!r}")
    whole = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
    if lengths.shape != batch or not batch or not whole:
        raise ValueError(
            "lengths must be whole numbers [B], one for each sequence of a batch, "
            f"got {lengths.dtype} {list(lengths.shape)}"
        )
    lengths = lengths.long()
    if int(lengths.min()) < 0 or int(lengths.max()) > length:
        raise ValueError(
            f"lengths must lie between 0 and the {length} steps of x, "
            f"got {int(lengths.min())} to {int(lengths.max())}"
        )
    return lengths


class SequenceLayer(nn.Module):
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
            state: What an earlier call returned, of the class's `state_shapes`; None: from the
                start.
            lengths: Steps of each sequence that are real, ``[B]``, 0 to T; None: all. Later steps
                change neither state nor norms, and their output is 0.

        Returns:
            Output, shaped as ``x`` with H features, and the state after each sequence's last real
            step; unbatched: without B.

        Raises:
            ValueError: If a shape, type or device does not fit; or in training with batch norm, if
                the batch is one sequence, or its sequences have not seen equally many steps.
        """
        return self._call(x, state, lengths, self.run)

    def _call(
        self, x: Tensor, state: State | None, lengths: Tensor | None, run: Run
    ) -> tuple[Tensor, State]:
        """Bring what the caller gave to ``[T, B, F]``, run, and bring the results back."""
        length, batch = check_input(x, self.input_size, batch_first=self.batch_first)
        weight = next(self.parameters())
        check_type("x", x, weight.dtype, weight.device)
        if state is not None:
            check_state(state, self.state_shapes(batch), weight)
        valid = None
        if lengths is not None:
            lengths = check_lengths(lengths, length, batch).to(x.device)
            valid = torch.arange(length, device=x.device)[:, None] < lengths  # [T, B]
        if not batch:
            x = x[:, None]
            if state is not None:
                state = tuple(p.unsqueeze(-2) if p.dim() else p[None] for p in state)
        elif self.batch_first:
            x = x.transpose(0, 1)
        if valid is not None:  # what stands there, even NaN, must not reach a gradient
            x = x.masked_fill(~valid[..., None], 0.0)
        output, after = run(x, state, lengths, valid)
        if not batch:
            return output[:, 0], tuple(p.select(-2, 0) if p.dim() > 1 else p[0] for p in after)
        return (output.transpose(0, 1) if self.batch_first else output), after

    def state_shapes(self, batch: tuple[int, ...]) -> dict[str, Sequence[int]]:
        """Names and shapes of a state's parts; ``batch`` is ``(B,)``, or ``()`` unbatched."""
        raise NotImplementedError

    def run(
        self, x: Tensor, state: State | None, lengths: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, State]:
        """Run over ``[T, B, F]``; ``valid`` ``[T, B]`` says what ``lengths`` says."""
        raise NotImplementedError
