"""Kept weights: what one blob holds, and what the classifier in it makes of sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from model.checkpoint import CheckpointError, pack, unpack
from model.classifier import SequenceClassifier
from model.config import DEVICES, TrialConfig
from model.data.arrays import check_values
from model.data.dataset import PARTS, DataError, Dataset, Normalisation

WEIGHTS_FORMAT = "larnn-classifier-2"
BATCH = 256
"""Sequences evaluated at once; results do not depend on it beyond rounding."""


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device; auto takes CUDA where there is one.

    Raises:
        ValueError: For another name, or where CUDA is asked for and missing.
    """
    if name not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {name!r}")
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
        "data_card": _data_card(data),
        "metrics": dict(metrics),
    }
    return pack(tensors, about)


def _data_card(data: Dataset) -> dict[str, Any]:
    """What people should know of the data that a model saw."""
    people = None if data.person is None else {p: list(data.split[p]) for p in PARTS}
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "licence": data.licence,
        "source": data.source,
        "time_stride": data.time_stride,
        "steps": data.x.shape[1],
        "channel_names": list(data.channel_names),
        "class_names": list(data.class_names),
        "sequences": {part: data.count(part) for part in PARTS},
        "people": people,
    }


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A classifier as its training left it, in eval mode, and what it knows of its data."""

    model: SequenceClassifier
    config: TrialConfig
    normalisation: Normalisation
    class_names: tuple[str, ...]
    channel_names: tuple[str, ...]
    about: Mapping[str, Any]
    """What else the blob tells: ``data``, ``data_fingerprint``, ``data_card``, ``metrics``."""

    @torch.no_grad()
    def probabilities(
        self, x: NDArray[Any], length: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """How probable each class is.

        Args:
            x: Sequences as recorded, ``[n, T, F]``: in the training data's units, at their full
                rate (``time_stride`` is applied here).
            length: Valid steps of each, ``[n]``; None where all have T.

        Returns:
            ``[n, classes]``, each row summing to 1.

        Raises:
            DataError: If ``x`` has other channels, or values that are not finite.
        """
        x, length = check_values(x, length)
        if x.shape[2] != len(self.channel_names):
            raise DataError(
                f"x must have the model's {len(self.channel_names)} channels "
                f"({', '.join(self.channel_names)}), got {x.shape[2]}"
            )
        stride = self.config.data.time_stride
        place = next(self.model.parameters()).device
        mean, std = self.normalisation.mean, self.normalisation.std
        rows = torch.from_numpy((x[:, ::stride] - mean) / std)
        steps = None if length is None else torch.from_numpy(-(-length // stride))
        scores = []
        for start in range(0, len(rows), BATCH):
            part = slice(start, start + BATCH)
            lengths = None if steps is None else steps[part].to(place)
            scores.append(self.model(rows[part].to(place), lengths))
        found: NDArray[np.float64] = torch.cat(scores).double().softmax(1).cpu().numpy()
        return found


def about_weights(weights: bytes) -> dict[str, Any]:
    """All that `pack_weights`' blob tells beside its tensors.

    Raises:
        CheckpointError: If the bytes are damaged or hold something else.
    """
    return _unpack_weights(weights)[1]


def _unpack_weights(weights: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, about = unpack(weights)
    if about.get("format") != WEIGHTS_FORMAT:
        raise CheckpointError(
            f"weights must have format {WEIGHTS_FORMAT!r}, got {about.get('format')!r}"
        )
    return tensors, about


def load_weights(model: SequenceClassifier, state: Mapping[str, Tensor]) -> None:
    """Give a network its weights.

    Raises:
        CheckpointError: If they are of another network, or of another version's.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        told = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"the weights do not fit the network, as of another version of larnn-search: {told}"
        ) from error


def load_classifier(
    weights: bytes, device: str = "auto", backend: str | None = None
) -> TrainedClassifier:
    """Rebuild a classifier from `pack_weights`' blob.

    Args:
        weights: The blob.
        device: auto, cpu or cuda.
        backend: What computes a larnn (see `model.layer.LARNN`).

    Raises:
        CheckpointError: If the bytes are damaged or hold something else.
        ValueError: As `choose_device`.
    """
    tensors, about = _unpack_weights(weights)
    config = TrialConfig.from_params(about["config"])
    classes, channels = about.pop("class_names"), about.pop("channel_names")
    model = SequenceClassifier(config.model, len(channels), len(classes), backend=backend)
    prefix = "model."
    state = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    load_weights(model, state)
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
        ``accuracy``, ``loss`` (mean cross-entropy in nats), ``sequences``, ``confusion``: counts by
        true class (rows) and predicted class (columns), and where people are named ``people``:
        ``{person: [correct, sequences]}``.

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
    correct = predicted == held.y
    return {
        "accuracy": float(correct.double().mean()),
        "loss": float(F.cross_entropy(logits.double(), held.y)),
        "sequences": len(held),
        "confusion": counts.view(classes, classes).tolist(),
        **_by_person(data, part, correct.cpu().numpy()),
    }


def _by_person(data: Dataset, part: str, correct: NDArray[np.bool_]) -> dict[str, Any]:
    if data.person is None:
        return {}
    person = data.person[data.indices(part)]
    return {
        "people": {
            str(who): [int(correct[person == who].sum()), int((person == who).sum())]
            for who in np.unique(person)
        }
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
