"""Every hyperparameter, once: its default, its unit, what is valid, and what it does."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

DEVICES = ("auto", "cpu", "cuda")
BACKENDS = ("auto", "fused", "torch")
"""What computes a LARNN. No hyperparameters, these: both give the same numbers."""
BACKEND_VARIABLE = "LARNN_BACKEND"
"""Where layers look for the backend that nobody named."""
DEFAULT_WIDTH = 96
"""Features of a layer of the other cells, where nothing is said."""


def number(
    default: float | int | None,
    doc: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Declare a number and the range in which it is valid."""
    rule = {"at least": at_least, "above": above, "below": below}
    return dataclasses.field(default=default, metadata={"doc": doc, "rule": rule})


def choice(default: str, doc: str, *choices: str) -> Any:
    """Declare a setting that takes one of several names."""
    return dataclasses.field(default=default, metadata={"doc": doc, "choices": choices})


def _check_number(name: str, value: Any, field: dataclasses.Field[Any]) -> None:
    if value is None and field.default is None:
        return
    whole = "int" in str(field.type) and "float" not in str(field.type)
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ValueError(f"{name} must be {kind}, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    holds = {"at least": operator.ge, "above": operator.gt, "below": operator.lt}
    for word, bound in field.metadata["rule"].items():
        if bound is not None and not holds[word](value, bound):
            raise ValueError(f"{name} must be {word} {bound:g}, got {value!r}")


class Config:
    """Base of the frozen configurations: checks each field by its own declaration."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            if "rule" in field.metadata:
                _check_number(field.name, value, field)
            elif "choices" in field.metadata and value not in field.metadata["choices"]:
                choices = ", ".join(field.metadata["choices"])
                raise ValueError(f"{field.name} must be one of {choices}, got {value!r}")

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of all settings, in order of declaration."""
        return tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]  # as above


def _check_unused(cell: str, config: Config) -> None:
    """A setting that ``cell`` has no use for must be at its default."""
    unused = () if cell == "larnn" else LARNN_ONLY
    if cell == "residual-bi-lstm":
        unused = (*unused, "stacking")
    for name in (name for name in unused if hasattr(config, name)):
        value, default = getattr(config, name), getattr(type(config), name)
        if value != default:
            raise ValueError(
                f"cell {cell!r} has no {name}: leave it out (or at its default, "
                f"{default!r}), got {value!r}"
            )


LARNN_ONLY = (
    "num_heads",
    "head_size",
    "window_size",
    "mode",
    "attention_activation",
    "attention_norm",
    "cell_activation",
    "norm",
    "positional_encoding",
    "dropout_on",
    "attention_rate_factor",
)
"""Settings that no other cell has a use for."""


@dataclass(frozen=True)
class ModelConfig(Config):
    """Shape of the network. Fields that a cell has no use for must be left at their defaults."""

    cell: str = choice("larnn", "recurrent cell", "larnn", "lstm", "bn-lstm", "residual-bi-lstm")
    num_layers: int = number(2, "recurrent layers", at_least=1)
    num_heads: int = number(4, "attention heads (larnn)", at_least=1)
    head_size: int = number(8, "features of one head (larnn)", at_least=1)
    hidden_size: int | None = number(
        None,
        f"features of a layer (other cells, default {DEFAULT_WIDTH}; the larnn's is "
        "num_heads x head_size)",
        at_least=1,
    )
    window_size: int = number(16, "past cell states that a step attends to (larnn)", at_least=1)
    mode: str = choice("residual", "how attention enters the gates (larnn)", "residual", "layer")
    stacking: str = choice("residual", "how layers are stacked", "plain", "residual")
    attention_activation: str = choice(
        "elu",
        "activation in the attention's linear layers (larnn)",
        "none",
        "elu",
        "relu",
        "gelu",
        "tanh",
    )
    attention_norm: str = choice(
        "none", "norm of keys and values (larnn)", "none", "layer", "batch"
    )
    cell_activation: str = choice(
        "elu", "activation between cell and hidden state (larnn)", "elu", "tanh"
    )
    norm: str = choice(
        "layer", "norm of attention, cell and hidden state (larnn)", "layer", "batch", "none"
    )
    positional_encoding: str = choice(
        "none", "features of age in the window (larnn)", "none", "static"
    )
    dropout: float = number(0.0, "share of hidden values dropped in training", at_least=0, below=1)
    dropout_on: str = choice(
        "hidden",
        "whether dropout acts in the recurrence or on what a layer hands on (larnn)",
        "hidden",
        "output",
    )

    @property
    def units(self) -> int:
        """Features of a layer, H."""
        return self.hidden_size or self.num_heads * self.head_size

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cell != "larnn" and self.hidden_size is None:
            # Said here, it stands in params, weights and repeat commands of every trial.
            object.__setattr__(self, "hidden_size", DEFAULT_WIDTH)
        if self.cell == "larnn" and self.hidden_size is not None:
            raise ValueError(
                "hidden_size of a larnn follows from num_heads x head_size: set these, "
                f"got hidden_size {self.hidden_size}"
            )
        _check_unused(self.cell, self)
        if self.cell == "residual-bi-lstm" and self.units % 2:
            raise ValueError(
                "hidden_size of a residual-bi-lstm must be even, half for each direction, "
                f"got {self.units}"
            )
        if self.cell == "larnn" and self.units < 2 and "layer" in (self.norm, self.attention_norm):
            raise ValueError("layer norm needs a hidden_size of at least 2, got 1: set norm='none'")

    @property
    def has_batch_norm(self) -> bool:
        """Whether some value is normalised over a batch in training."""
        if self.cell == "larnn":
            return "batch" in (self.norm, self.attention_norm)
        return self.cell != "lstm"


@dataclass(frozen=True)
class TrainingConfig(Config):
    """How the network is trained."""

    epochs: int = number(20, "passes over the training data", at_least=1)
    batch_size: int = number(128, "sequences a step", at_least=1)
    optimizer: str = choice("adamw", "update rule", "adamw", "adam")
    learning_rate: float = number(0.003, "highest learning rate", above=0)
    attention_rate_factor: float = number(
        1.0, "share of learning_rate at which attention learns (larnn)", above=0
    )
    weight_decay: float = number(1e-3, "pull of the weights towards 0", at_least=0)
    schedule: str = choice(
        "one_cycle", "learning rate over the run", "constant", "step", "cosine", "one_cycle"
    )
    decay_every: int = number(5, "epochs between two decays (schedule step)", at_least=1)
    decay_factor: float = number(0.75, "learning rate's factor at a decay (schedule step)", above=0)
    label_smoothing: float = number(
        0.0, "share of the target spread over all classes", at_least=0, below=1
    )
    gradient_clip: float = number(1.0, "largest gradient norm; 0: no clipping", at_least=0)
    keep: str = choice("best", "whose epoch's weights and loss count", "best", "last")
    patience: int = number(
        0,
        "epochs without improvement on validation people before the end; 0: run all epochs",
        at_least=0,
    )
    class_weights: str = choice("none", "weight of a class in the loss", "none", "balanced")
    augmentation: str = choice(
        "none", "random changes to training sequences", "none", "jitter", "scale", "rotate", "all"
    )
    precision: str = choice(
        "float32", "arithmetic (mixed: bfloat16 or float16 on CUDA)", "float32", "mixed"
    )
    # Databases and random generators take 64 bits.
    seed: int = number(0, "seed of weights, order and dropout", at_least=0, below=2**63)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep == "last" and self.patience:
            raise ValueError(
                "patience ends a training after its best epoch, keep 'last' wants all epochs: "
                f"set patience 0 or keep 'best', got patience {self.patience}"
            )


@dataclass(frozen=True)
class DataConfig(Config):
    """What the network sees."""

    data: str = dataclasses.field(default="har", metadata={"doc": "data set"})
    time_stride: int = number(1, "keep every n-th time step", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.data, str):
            raise ValueError(f"data must be the name of a data set, got {self.data!r}")


@dataclass(frozen=True)
class TrialConfig:
    """All that one training needs: what `params` of a trial mean."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        _check_unused(self.model.cell, self.training)
        if self.model.has_batch_norm and self.training.batch_size < 2:
            raise ValueError("batch norm needs a batch_size of at least 2, got 1")

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Sort flat ``params`` into the three configurations; absent ones take their defaults.

        Raises:
            ValueError: For an unknown name, or a value that breaks its field's rule.
        """
        parts = (ModelConfig, TrainingConfig, DataConfig)
        known = [name for part in parts for name in part.field_names()]
        for name in params:
            if name not in known:
                raise ValueError(f"unknown parameter {name!r}; known ones: {', '.join(known)}")
        made = [part(**{n: params[n] for n in part.field_names() if n in params}) for part in parts]
        return cls(*made)  # type: ignore[arg-type]  # the list is in the fields' order

    def to_params(self) -> dict[str, Any]:
        """The flat form, every parameter named; `from_params` of it gives an equal one."""
        return {
            **dataclasses.asdict(self.model),
            **dataclasses.asdict(self.training),
            **dataclasses.asdict(self.data),
        }
