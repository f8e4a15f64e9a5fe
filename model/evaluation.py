"""Kept weights: what one blob holds, and what the classifier in it makes of sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from model.checkpoint import CheckpointError, pack, unpack
from model.classifier import SequenceClassifier
from model.config import TrialConfig
from model.data.dataset import DataError, Dataset, Normalisation

WEIGHTS_FORMAT = "larnn-classifier-1"
BATCH = 256
"""Sequences evaluated at once; results do not depend on it beyond rounding."""


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device; auto takes CUDA where there is one.

    Raises:
        ValueError: For another name, or where CUDA is asked for and missing.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be one of auto, cpu, cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device 'cuda' needs a CUDA GPU, torch {torch.__version__} sees none: use device 'cpu'"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class Part:
    """One part of a data set on a device, normalised batch by batch.

    Args:
        data: The data set.
        part: train, validation or test.
        normalisation: Measured on the training people.
        device: Where batches are computed on.
    """

    def __init__(
        self, data: Dataset, part: str, normalisation: Normalisation, device: torch.device
    ) -> None:
        rows = data.indices(part)
        self.x = torch.from_numpy(data.x[rows]).to(device)
        self.y = torch.from_numpy(data.y[rows]).to(device)
        self.lengths = (
            None if data.length is None else torch.from_numpy(data.length[rows]).to(device)
        )
        self.mean = torch.from_numpy(normalisation.mean).to(device)
        self.std = torch.from_numpy(normalisation.std).to(device)

    def __len__(self) -> int:
        return len(self.y)

    def batch(
        self, rows: Tensor | slice, change: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalised sequences ``[B, T, F]`` (``change`` sees raw ones), labels, lengths."""
        x = self.x[rows] if change is None else change(self.x[rows])
        lengths = None if self.lengths is None else self.lengths[rows]
        return (x - self.mean) / self.std, self.y[rows], lengths

    @torch.no_grad()
    def logits(
        self, model: SequenceClassifier, before_batch: Callable[[], None] = lambda: None
    ) -> Tensor:
        """Score every sequence in eval mode, ``[n, classes]``; the model's mode comes back."""
        was_training = model.training
        model.eval()
        try:
            scores = []
            for start in range(0, len(self), BATCH):
                before_batch()
                x, _, lengths = self.batch(slice(start, start + BATCH))
                scores.append(model(x, lengths))
            return torch.cat(scores)
        finally:
            model.train(was_training)


def pack_weights(
    state: Mapping[str, Tensor],
    config: TrialConfig,
    data: Dataset,
    normalisation: Normalisation,
    metrics: Mapping[str, Any],
) -> bytes:
    """Make the blob that `load_classifier` reads: weights and all that is needed to use them."""
    tensors = {f"model.{name}": tensor for name, tensor in state.items()}
    tensors["normalisation.mean"] = torch.from_numpy(normalisation.mean)
    tensors["normalisation.std"] = torch.from_numpy(normalisation.std)
    about = {
        "format": WEIGHTS_FORMAT,
        "config": config.to_params(),
        "class_names": data.class_names,
        "channel_names": data.channel_names,
        "data": data.name,
        "data_fingerprint": data.fingerprint,
        "metrics": dict(metrics),
    }
    return pack(tensors, about)


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A classifier as its training left it, in eval mode, and what it knows of its data."""

    model: SequenceClassifier
    config: TrialConfig
    normalisation: Normalisation
    class_names: tuple[str, ...]
    channel_names: tuple[str, ...]
    about: Mapping[str, Any]
    """Everything else the blob tells: ``data``, ``data_fingerprint``, ``metrics``."""


def load_classifier(weights: bytes, device: str = "auto") -> TrainedClassifier:
    """Rebuild a classifier from `pack_weights`' blob.

    Raises:
        CheckpointError: If the bytes are damaged or hold something else.
        ValueError: As `choose_device`.
    """
    tensors, about = unpack(weights)
    if about.get("format") != WEIGHTS_FORMAT:
        raise CheckpointError(
            f"weights must have format {WEIGHTS_FORMAT!r}, got {about.get('format')!r}"
        )
    config = TrialConfig.from_params(about["config"])
    classes, channels = about.pop("class_names"), about.pop("channel_names")
    model = SequenceClassifier(config.model, len(channels), len(classes))
    prefix = "model."
    state = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    model.load_state_dict(state)
    normalisation = Normalisation(
        tensors["normalisation.mean"].numpy(), tensors["normalisation.std"].numpy()
    )
    return TrainedClassifier(
        model.to(choose_device(device)).eval(),
        config,
        normalisation,
        tuple(classes),
        tuple(channels),
        about,
    )


def evaluate(
    weights: bytes, data: Dataset, part: str = "test", *, device: str = "auto"
) -> dict[str, Any]:
    """Measure kept weights on one part of the data they were trained on.

    Args:
        weights: `FitResult.weights`.
        data: The same data set, at the same time stride.
        part: train, validation or test. Test people are looked at once per finished study.
        device: auto, cpu or cuda.

    Returns:
        ``accuracy``, ``loss`` (mean cross-entropy in nats), ``sequences``, and ``confusion``:
        counts by true class (rows) and predicted class (columns).

    Raises:
        DataError: If ``data`` is not what the weights were trained on.
        CheckpointError: As `load_classifier`.
    """
    trained = load_classifier(weights, device)
    _check_same_data(trained, data)
    place = next(trained.model.parameters()).device
    held = Part(data, part, trained.normalisation, place)
    logits = held.logits(trained.model)
    predicted = logits.argmax(1)
    classes = len(trained.class_names)
    counts = torch.bincount(held.y * classes + predicted, minlength=classes**2)
    return {
        "accuracy": float((predicted == held.y).double().mean()),
        "loss": float(F.cross_entropy(logits.double(), held.y)),
        "sequences": len(held),
        "confusion": counts.view(classes, classes).tolist(),
    }


def _check_same_data(trained: TrainedClassifier, data: Dataset) -> None:
    told = trained.about["data_fingerprint"]
    if data.fingerprint != told:
        raise DataError(
            f"these weights were trained on data {trained.about['data']!r} with fingerprint "
            f"{told[:16]}, got {data.name!r} with {data.fingerprint[:16]}"
        )
    stride = trained.config.data.time_stride
    if data.time_stride != stride:
        raise DataError(f"these weights need time_stride {stride}, got {data.time_stride}")
