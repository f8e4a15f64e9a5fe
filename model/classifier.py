"""From a sequence to a class: input layer, recurrent stack, head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.baselines import BNLSTM, LSTM, StackedResidualBiLSTM
from model.config import ModelConfig
from model.layer import LARNN


def make_layer(config: ModelConfig, input_size: int, backend: str | None = None) -> nn.Module:
    """Build the recurrent stack of a configuration, time-major, ``config.units`` wide.

    Args:
        config: Shape of the network.
        input_size: Features of a step.
        backend: What computes a larnn (see `LARNN`); the other cells are PyTorch's.
    """
    H, L = config.units, config.num_layers
    if config.cell == "larnn":
        return LARNN(
            input_size,
            H,
            L,
            num_heads=config.num_heads,
            window_size=config.window_size,
            mode=config.mode,
            stacking=config.stacking,
            attention_activation=config.attention_activation,
            attention_norm=config.attention_norm,
            cell_activation=config.cell_activation,
            norm=config.norm,
            positional_encoding=config.positional_encoding,
            dropout=config.dropout,
            dropout_on=config.dropout_on,
            backend=backend,
        )
    if config.cell == "residual-bi-lstm":
        return StackedResidualBiLSTM(input_size, H, L, dropout=config.dropout)
    baseline = LSTM if config.cell == "lstm" else BNLSTM
    return baseline(input_size, H, L, stacking=config.stacking, dropout=config.dropout)


class SequenceClassifier(nn.Module):
    """Input layer F -> H, recurrent stack, mean over the valid steps, linear head.

    The head reads the mean over time rather than the last step: it serves both directions of a
    bidirectional stack alike, and trains better. On har (time_stride 2, 6 epochs, two seeds) the
    default larnn's lowest validation loss was 0.21 and 0.21 with the mean, 0.31 and 0.30 with the
    last step; an LSTM's of 64 (8 epochs) 0.36 and 0.37, against 0.44 and 0.45.

    Args:
        config: Shape of the network.
        input_size: Features of a step, F.
        num_classes: Classes to tell apart.
        backend: As for `make_layer`.
    """

    def __init__(
        self,
        config: ModelConfig,
        input_size: int,
        num_classes: int,
        *,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        # A bias straight before bn-lstm's batch norm would be subtracted again.
        self.input = nn.Linear(input_size, config.units, bias=config.cell != "bn-lstm")
        self.layer = make_layer(config, config.units, backend)
        self.head = nn.Linear(config.units, num_classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Score every class.

        Args:
            x: Normalised sequences, ``[B, T, F]``.
            lengths: Valid steps of each, at least 1, ``[B]``; None where all have T.

        Returns:
            Logits, ``[B, classes]``.
        """
        T = x.shape[1]
        steps: int | Tensor = T
        if lengths is not None:
            steps = lengths[:, None]
            # Whatever stands past a sequence's end, even NaN, must not reach a gradient.
            ended = torch.arange(T, device=x.device) >= steps  # [B, T]
            x = x.masked_fill(ended[..., None], 0.0)
        output, _ = self.layer(self.input(x.transpose(0, 1)), lengths=lengths)
        # Steps past a sequence's end are 0 in the output: they add nothing to the sum.
        return self.head(output.sum(0) / steps)  # type: ignore[no-any-return]  # untyped module

    @property
    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(weight.numel() for weight in self.parameters())

    @property
    def backend(self) -> str:
        """Which path the recurrent stack computes by."""
        return str(getattr(self.layer, "backend", "torch"))
