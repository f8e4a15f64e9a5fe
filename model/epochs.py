"""What a training tells: of each epoch, and in the end."""

from __future__ import annotations

from dataclasses import dataclass


class DivergedError(ArithmeticError):
    """The training loss became NaN or infinite: try a lower learning rate or gradient clipping."""

    result: FitResult | None = None
    """How far the training came."""


@dataclass(frozen=True)
class Epoch:
    """How one epoch went. Losses are mean cross-entropies in nats."""

    epoch: int
    """1, 2, ..."""
    train_loss: float
    """As minimised: in training mode, with class weights, smoothing and augmentation."""
    train_accuracy: float
    validation_loss: float | None
    """Of the validation people, each sequence alike, without smoothing; None: there are none."""
    validation_accuracy: float | None
    learning_rate: float
    """At the epoch's last step."""
    seconds: float
    """Training time so far, earlier attempts included."""

    @property
    def loss(self) -> float:
        """The validation people's, else what was minimised."""
        return self.train_loss if self.validation_loss is None else self.validation_loss


@dataclass(frozen=True)
class FitResult:
    """What came out of a training, finished or stopped."""

    history: tuple[Epoch, ...]
    best: Epoch | None
    """The one that counts: of lowest validation loss (the first, if several); the last so far with
    ``keep`` last or where nobody validates; None before the first epoch ended."""
    weights: bytes | None
    """That epoch's, with configuration and normalisation: see `model.evaluation`."""
    stopped: str | None
    """The stop reason; None when the training ran to its end."""
    num_parameters: int
    device: str
    threads: int
    backend: str
    seconds: float
