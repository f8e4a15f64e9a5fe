"""The one table of ranges: the named spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.words import did_you_mean
from search.parameter import Parameter
from search.space import Space
from search.space_file import read_space

_TRAINING_ROWS = (
    Parameter("learning_rate", "loguniform", 3e-4, 3e-2),
    Parameter("dropout", "uniform", 0.0, 0.5),
    Parameter("weight_decay", "loguniform", 1e-5, 1e-1),
)
# 2 to 8 heads of 4 to 16 features give hidden sizes of 8 to 128, the range of the other cells.
_CARD_ROWS = (
    Parameter("window_size", "logint", 4, 64),
    Parameter("num_heads", "int", 2, 8),
    Parameter("head_size", "int", 4, 16),
    Parameter("num_layers", "int", 1, 3),
    Parameter("attention_activation", "choice", choices=("none", "elu", "relu", "gelu", "tanh")),
    Parameter("mode", "choice", choices=("residual", "layer")),
    Parameter("norm", "choice", choices=("layer", "batch", "none")),
    *_TRAINING_ROWS,
)


_WIDTH = Parameter("hidden_size", "logint", 8, 128)
# Half of it is each direction's.
_EVEN_WIDTH = Parameter("hidden_size", "choice", choices=(8, 12, 16, 24, 32, 48, 64))


def _baseline(cell: str, doc: str, width: Parameter = _WIDTH) -> Space:
    """Space of a cell without attention: no rows that it has no use for."""
    layers = Parameter("num_layers", "int", 1, 3)
    return Space(cell, (width, layers, *_TRAINING_ROWS), {"cell": cell}, doc=doc)


def _paper_round(
    number: int,
    epochs: int,
    rates: tuple[float, float],
    l2: float,
    hidden: tuple[float, float],
    rows: tuple[Parameter, ...],
    **fixed: Any,
) -> Space:
    """A round of the author's search (README and train.py of the paper's repository, 2018).

    Args:
        number: 1 or 2.
        epochs: Epochs of each trial.
        rates: Middle of the learning rate, and how far its logarithm reaches to both sides.
        l2: Middle of the L2 weight; its logarithm reaches 1.3 to both sides.
        hidden: As ``rates``, of the hidden size before it is divided among the heads.
        rows: The rows that are ranges as they stand.
        **fixed: What this round did not vary.
    """

    def around(name: str, middle: float, reach: float) -> Parameter:
        low, high = middle * math.exp(-reach), middle * math.exp(reach)
        return Parameter(name, "loguniform", low, high)

    common = (
        around("learning_rate", *rates),
        around("weight_decay", l2, 1.3),
        around("hidden_size", *hidden),
        Parameter("dropout", "uniform", 0.05, 0.5),
        Parameter("mode", "choice", choices=("residual", "layer")),
        Parameter("positional_encoding", "choice", choices=("none", "static")),
    )
    protocol = {
        "epochs": epochs,
        "batch_size": 256,
        "optimizer": "adam",
        "schedule": "step",
        "decay_factor": 0.75,
        "norm": "batch",
        "attention_norm": "batch",
    }
    return Space(
        f"paper-round-{number}",
        common + rows,
        {**protocol, **fixed},
        derive="head_size_from_hidden_size",
        doc=f"the ranges of round {number} of the paper's search, {epochs} epochs a trial",
    )


NAMED_SPACES: Mapping[str, Space] = {
    space.name: space
    for space in (
        Space("card", _CARD_ROWS, doc="the LARNN: window, heads, layers, switches and training"),
        _baseline("lstm", "plain LSTM"),
        _baseline("bn-lstm", "LSTM with batch normalisation"),
        _baseline("residual-bi-lstm", "stacked residual bidirectional LSTM", _EVEN_WIDTH),
        _paper_round(
            1,
            25,
            rates=(0.005, 0.5),
            l2=0.005,
            hidden=(64, 0.6),
            rows=(
                Parameter("num_heads", "int", 6, 36),
                Parameter("window_size", "int", 10, 50),
                Parameter("decay_every", "int", 3, 10),
                Parameter("num_layers", "int", 2, 3),
                Parameter("attention_activation", "choice", choices=("none", "elu")),
                Parameter("stacking", "choice", choices=("plain", "residual")),
            ),
        ),
        _paper_round(
            2,
            100,
            rates=(0.006, 0.4),
            l2=0.002,
            hidden=(68, 0.3),
            rows=(
                Parameter("num_heads", "int", 20, 40),
                Parameter("window_size", "int", 25, 100),
                Parameter("decay_every", "int", 6, 50),
            ),
            num_layers=3,
            attention_activation="elu",
            stacking="residual",
        ),
    )
}


def resolve(name_or_file: str) -> Space:
    """A named space, or one read from a TOML file.

    Raises:
        ValueError: If there is neither, or the file breaks a rule (with the line).
    """
    if name_or_file in NAMED_SPACES:
        return NAMED_SPACES[name_or_file]
    path = Path(name_or_file)
    if path.suffix == ".toml" or path.is_file():
        return read_space(path)
    raise ValueError(
        f"unknown space {name_or_file!r}; {did_you_mean(name_or_file, tuple(NAMED_SPACES))}; "
        "or a file ending in .toml"
    )
