"""The classifier as a scikit-learn estimator: for people with arrays and no search."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GroupShuffleSplit, train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from model import saved
from model.config import ModelConfig, TrainingConfig, TrialConfig
from model.data.arrays import check_training_classes, check_values
from model.data.dataset import DataError, Dataset, fingerprint
from model.evaluation import about_weights, load_classifier
from model.training import fit

ESTIMATOR = "estimator.json"
_M, _T = ModelConfig, TrainingConfig


class LARNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Classify sequences ``[n, T, F]`` with a LARNN or one of the cells it is compared with.

    Fits clone, pickle, `cross_val_score`, grid search and pipelines whose other steps take three
    dimensions. Channels are normalised here. Sequences of different lengths are filled up with NaN
    at their end; NaN elsewhere is refused.

    A share of the training sequences is kept back to choose the epoch; give ``groups`` to `fit`
    where several sequences come from one person, so that nobody is on both sides.

    Every setting but these five is a field of `model.config.ModelConfig` or `TrainingConfig`, which
    say what it does and what is valid. Settings that a cell has no use for stay at their defaults.

    Args:
        validation_fraction: Share of sequences (of groups, where given) kept back, between 0 and 1.
        random_state: Seed of weights, order, dropout and the validation split; a ``RandomState`` or
            None draws one at each fit.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads of torch in training; None leaves them.
        backend: What computes a larnn (see `model.layer.LARNN`): ``auto``, ``fused`` or ``torch``;
            None: ``LARNN_BACKEND``, else ``auto``.

    Attributes:
        classes_: Labels, sorted, ``[classes]``.
        n_features_in_: Channels, F.
        history_: An `model.epochs.Epoch` for each epoch.
        weights_: The model of the best epoch (with ``keep="last"`` of the last): what
            `model.evaluation.load_classifier` reads.

    Example:
        >>> classifier = LARNNClassifier(epochs=10, window_size=20).fit(X, y, groups=person)
        >>> classifier.score(X_new, y_new)
    """

    def __init__(
        self,
        *,
        cell: str = _M.cell,
        num_layers: int = _M.num_layers,
        num_heads: int = _M.num_heads,
        head_size: int = _M.head_size,
        hidden_size: int | None = _M.hidden_size,
        window_size: int = _M.window_size,
        mode: str = _M.mode,
        stacking: str = _M.stacking,
        attention_activation: str = _M.attention_activation,
        attention_norm: str = _M.attention_norm,
        cell_activation: str = _M.cell_activation,
        norm: str = _M.norm,
        positional_encoding: str = _M.positional_encoding,
        dropout: float = _M.dropout,
        dropout_on: str = _M.dropout_on,
        epochs: int = _T.epochs,
        batch_size: int = _T.batch_size,
        optimizer: str = _T.optimizer,
        learning_rate: float = _T.learning_rate,
        attention_rate_factor: float = _T.attention_rate_factor,
        weight_decay: float = _T.weight_decay,
        schedule: str = _T.schedule,
        decay_every: int = _T.decay_every,
        decay_factor: float = _T.decay_factor,
        label_smoothing: float = _T.label_smoothing,
        gradient_clip: float = _T.gradient_clip,
        keep: str = _T.keep,
        patience: int = _T.patience,
        class_weights: str = _T.class_weights,
        augmentation: str = _T.augmentation,
        precision: str = _T.precision,
        validation_fraction: float = 0.2,
        random_state: int | np.random.RandomState | None = _T.seed,
        device: str = "auto",
        threads: int | None = None,
        backend: str | None = None,
    ) -> None:
        # scikit-learn's rule: keep what was given, check it in fit.
        given = locals()
        for name in list(inspect.signature(LARNNClassifier.__init__).parameters)[1:]:
            setattr(self, name, given[name])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Train.

        Args:
            X: Sequences, ``[n, T, F]``; NaN from a sequence's end on.
            y: Labels, ``[n]``.
            groups: Who each sequence comes from, ``[n]``; None: each stands for itself.

        Raises:
            model.fused.BuildError: If backend is fused and the kernel cannot be built here.
            ValueError: If a setting or the data break a rule, or CUDA is asked for and missing.
            model.epochs.DivergedError: If the loss is no longer finite.
        """
        x, length = _sequences(X)
        labels = np.asarray(y)
        if labels.shape != (len(x),):
            raise DataError(f"y must have one label for each of {len(x)} sequences, [n], got shape "
                            f"{labels.shape}")  # fmt: skip
        if any(label is None or label != label for label in labels):
            raise DataError("y must have a label for each sequence, some are missing")
        check_classification_targets(labels)
        classes, numbers = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"y must hold at least 2 classes, found {len(classes)}")
        seed = self._seed()
        split = self._split(numbers, groups, seed)
        digest = hashlib.sha256(x.tobytes() + numbers.tobytes()).hexdigest()
        data = Dataset(
            name=type(self).__name__,
            x=x,
            y=numbers.astype(np.int64),
            person=None,
            length=length,
            class_names=tuple(str(label) for label in classes),
            channel_names=tuple(f"channel {i}" for i in range(x.shape[2])),
            split=split,
            fingerprint=fingerprint(digest, 1, split),
            licence="your own",
            source="arrays",
        )
        check_training_classes(
            data,
            "all its groups are kept back for validation, so add groups, lower validation_fraction "
            "or take another random_state",
        )
        result = fit(
            self._config(seed),
            data,
            device=self.device,
            threads=self.threads,
            backend=self.backend,
        )
        self.classes_ = classes
        self.n_features_in_ = x.shape[2]
        self.history_ = result.history
        self.weights_ = cast(bytes, result.weights)  # None only of a training that was stopped
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """How probable each of `classes_` is, ``[n, classes]``; ``X`` as for `fit`."""
        check_is_fitted(self)
        trained = load_classifier(self.weights_, self.device, self.backend)
        return trained.probabilities(*_sequences(X))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each sequence, ``[n]``; ``X`` as for `fit`."""
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def save(self, folder: str | Path) -> None:
        """Write the fitted model as `larnn-search train -o` does: safetensors and JSON.

        Raises:
            model.saved.SavedModelError: If the folder holds a model or cannot be written.
        """
        check_is_fitted(self)
        told = {
            "validation_fraction": self.validation_fraction,
            "device": self.device,
            "threads": self.threads,
            "backend": self.backend,
            "classes": self.classes_.tolist(),
            "dtype": self.classes_.dtype.str,
        }
        saved.save(Path(folder), self.weights_, also={ESTIMATOR: told})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a model that `save`, `larnn-search train -o` or `best --save` wrote.

        `history_` is not kept. Models that a search trained have their classes' names as labels.

        Raises:
            model.saved.SavedModelError: If there is none.
        """
        folder = Path(folder)
        weights = saved.load(folder)
        about = about_weights(weights)
        params, card = about["config"], about["data_card"]
        settings = {name: params[name] for name in _settings()}
        told: dict[str, Any] = {"classes": card["class_names"], "dtype": None}
        if (folder / ESTIMATOR).exists():
            told = json.loads((folder / ESTIMATOR).read_text(encoding="utf-8"))
        classes = np.array(told.pop("classes"), dtype=told.pop("dtype"))
        made = cls(**settings, random_state=params["seed"], **told)
        made.classes_ = classes
        made.n_features_in_ = len(card["channel_names"])
        made.weights_ = weights
        return made

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _config(self, seed: int) -> TrialConfig:
        given = {name: getattr(self, name) for name in _settings()}
        # Searches hand over numpy's scalars; configurations hold Python's numbers.
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in given.items()}
        return TrialConfig.from_params({**plain, "seed": seed})

    def _split(
        self, y: NDArray[np.intp], groups: ArrayLike | None, seed: int
    ) -> dict[str, tuple[int, ...]]:
        """Numbers of the sequences to train on and of those kept back."""
        rows, share = np.arange(len(y)), self.validation_fraction
        if not 0 < share < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1, got {share!r}")
        seed %= 2**32  # what scikit-learn takes
        try:
            if groups is None:
                train, held = train_test_split(rows, test_size=share, stratify=y, random_state=seed)
            else:
                splitter = GroupShuffleSplit(1, test_size=share, random_state=seed)
                train, held = next(splitter.split(rows, y, groups))
        except ValueError as error:
            raise ValueError(
                f"validation_fraction {share} splits {len(rows)} sequences (groups as a whole, "
                f"else each class) in no way: {error}"
            ) from error
        return {"train": tuple(train.tolist()), "validation": tuple(held.tolist()), "test": ()}


def _settings() -> tuple[str, ...]:
    """Names of the settings that are fields of the configurations."""
    names = (*ModelConfig.field_names(), *TrainingConfig.field_names())
    return tuple(name for name in names if name != "seed")


def _sequences(X: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Sequences and, where some end early in NaN, their lengths."""
    x = np.asarray(X)
    if x.ndim != 3 or 0 in x.shape:
        raise DataError(f"X must be [n, T, F] and not empty, got shape {x.shape}")
    if x.dtype.kind != "f" or not np.isnan(x).any():
        return check_values(x, None)
    present = ~np.isnan(x).all(axis=2)  # [n, T]
    length = x.shape[1] - present[:, ::-1].argmax(axis=1)
    if not present.any(axis=1).all():
        empty = int(np.flatnonzero(~present.any(axis=1))[0])
        raise DataError(
            f"X must hold at least one step of each sequence, {empty} is NaN throughout"
        )
    return check_values(x, None if (length == x.shape[1]).all() else length)
