"""A look inside a trained LARNN: where it attends, whom it mistakes, what it does without memory.

Everything here is measured on validation people; the test people are not looked at.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from model.cell import LARNNCell
from model.classifier import SequenceClassifier
from model.data.dataset import Dataset
from model.evaluation import Part, TrainedClassifier
from model.layer import LARNN
from search.compare import wilson
from search.repeat import training_of
from search.source import StudyData, is_file
from trials.errors import InvalidValueError

Floats = NDArray[np.float64]


def winner_weights(
    data: StudyData, study: str, *, file: str | None = None, mongo: str | None = None
) -> bytes:
    """The winner's weights: from a file, from the study's database, or trained again as it was.

    Args:
        data: The study.
        study: Where it was read from, as for `search.source.read_study`.
        file: A file of kept weights; None: of the database.
        mongo: As for `search.source.read_study`.

    Raises:
        InvalidValueError: If no trial is complete, the file cannot be read, or what should be
            trained again is of another objective.
        TrialRefusedError: If the data here are not the study's.
        ValueError: If it was trained on a GPU and there is none.
    """
    best = data.best
    if best is None:
        raise InvalidValueError(f"study {data.study.name} has no complete trial to look into")
    if file is not None:
        try:
            return Path(file).read_bytes()
        except OSError as error:
            raise InvalidValueError(f"{file} holds no weights: {error.strerror}") from error
    if not is_file(study):
        from trials.connect import connect
        from trials.store import WEIGHTS

        with connect(mongo) as store:
            if kept := store.load_blob(data.study.name, best.number, WEIGHTS):
                return kept
    from model.training import fit
    from search.objective import config_of, data_of_study

    again = training_of(data.study, best)
    config = config_of(again.params, None)
    weights = fit(
        config,
        data_of_study(config, again.requirements),
        device=again.device,
        threads=again.threads,
        backend=again.backend,
    ).weights
    if weights is None:
        raise InvalidValueError(f"trial {best.number}, trained again, left no weights")
    return weights


def predictions(trained: TrainedClassifier, data: Dataset) -> pd.DataFrame:
    """What the classifier makes of each validation sequence.

    Returns:
        Columns ``row`` (in the data set), ``person``, ``truth`` and ``predicted`` (class names).
    """
    rows = data.indices("validation")
    part = Part(data, "validation", trained.normalisation, _device(trained))
    guesses = part.logits(trained.model).argmax(1).cpu().numpy()
    names = np.asarray(trained.class_names)
    person = rows if data.person is None else data.person[rows]
    return pd.DataFrame(
        {"row": rows, "person": person, "truth": names[data.y[rows]], "predicted": names[guesses]}
    )


def attention(trained: TrainedClassifier, data: Dataset, rows: Sequence[int]) -> Floats:
    """Where each step of some sequences looks, ``[L, B, N, T, K]``, the newest cell last.

    Steps past a sequence's end are NaN.

    Raises:
        InvalidValueError: If the classifier's cell has no attention.
    """
    _check_cell(trained)
    rows = list(rows)
    x = torch.from_numpy(data.x[rows])
    x = (x - torch.from_numpy(trained.normalisation.mean)) / torch.from_numpy(
        trained.normalisation.std
    )
    ended = torch.zeros(x.shape[:2], dtype=torch.bool)  # [B, T]
    if data.length is not None:
        ended = torch.arange(x.shape[1]) >= torch.from_numpy(data.length[rows])[:, None]
    with torch.no_grad():
        inside = trained.model.input(x.to(_device(trained)).transpose(0, 1))
    weights = trained.model.layer.attention(inside, lengths=(~ended).sum(1))  # type: ignore[operator]  # a LARNN's method
    weights = weights.double().cpu().masked_fill(ended[:, None, :, None], math.nan)
    found: Floats = weights.numpy()
    return found


def attention_spread(weights: Floats, newest: int = 5) -> pd.DataFrame:
    """Over how much of its window each head spreads its weight, mean over sequences and steps.

    Args:
        weights: Of `attention`, ``[L, B, N, T, K]``; steps before the window is full, or as full as
            the longest of these sequences makes it, do not count.
        newest: How many of the newest cells to weigh together.

    Returns:
        Columns ``layer`` and ``head`` (from 1), ``cells`` (the exponential of the entropy: as if
        over so many cells alike, of 1 to ``K``), ``newest`` (share of the weight that the newest
        cells get; ``newest / K`` where it does not matter which).
    """
    longest = int(np.isfinite(weights[0, :, 0, :, 0]).any(0).sum())
    full = weights[:, :, :, min(longest, weights.shape[-1]) - 1 :]
    logs = np.log(full, out=np.zeros_like(full), where=full > 0)
    cells = np.nanmean(np.exp(-(full * logs).sum(-1)), axis=(1, 3))  # [L, N]
    share = np.nanmean(full[..., -newest:].sum(-1), axis=(1, 3))
    layer, head = np.indices(cells.shape).reshape(2, -1) + 1
    return pd.DataFrame(
        {"layer": layer, "head": head, "cells": cells.ravel(), "newest": share.ravel()}
    )


def _check_cell(trained: TrainedClassifier) -> None:
    """Refuse what has no attention.

    Raises:
        InvalidValueError: If the classifier's cell has none.
    """
    if trained.config.model.cell != "larnn":
        raise InvalidValueError(
            f"a {trained.config.model.cell} has no attention to look at; choose a larnn study"
        )


def window_ablation(trained: TrainedClassifier, data: Dataset) -> pd.DataFrame:
    """Validation accuracy when the trained cell may look back less far, with no further training.

    Returns:
        Columns ``window_size`` (1, 2, 4, ... up to the trained one), ``accuracy``, ``low`` and
        ``high`` (its 95 % Wilson interval; sequences of one person resemble each other, so the
        truth is wider), ``sequences``.

    Raises:
        InvalidValueError: If the classifier's cell has no attention.
    """
    _check_cell(trained)
    whole = trained.config.model.window_size
    sizes = [*(2**power for power in range(12) if 2**power < whole), whole]
    models = (_cut(trained.model, size) for size in sizes)
    return pd.DataFrame({"window_size": sizes}).join(_accuracies(trained, data, models))


def attention_ablation(trained: TrainedClassifier, data: Dataset) -> pd.DataFrame:
    """Validation accuracy without parts of a trained cell's attention, with no further training.

    Returns:
        Columns ``attention`` (``as trained``; ``to all alike``: every cell of the window weighs the
        same; ``none``: its result does not reach the gates) and, as of `window_ablation`,
        ``accuracy``, ``low``, ``high``, ``sequences``.

    Raises:
        InvalidValueError: If the classifier's cell has no attention.
    """
    _check_cell(trained)
    without = {
        "as trained": lambda cell: (),
        "to all alike": lambda cell: cell.query.parameters(),  # scores of 0
        "none": lambda cell: cell.attention_gates.parameters(),
    }
    models = (_zeroed(trained.model, of) for of in without.values())
    return pd.DataFrame({"attention": list(without)}).join(_accuracies(trained, data, models))


def _accuracies(
    trained: TrainedClassifier, data: Dataset, models: Iterable[SequenceClassifier]
) -> pd.DataFrame:
    """Of the trained one's variants on the validation people, with 95 % Wilson intervals."""
    part = Part(data, "validation", trained.normalisation, _device(trained))
    count, rows = len(part.y), []
    for model in models:
        accuracy = float((part.logits(model).argmax(1) == part.y).double().mean())
        low, high = wilson(accuracy, count)
        rows.append({"accuracy": accuracy, "low": low, "high": high, "sequences": count})
    return pd.DataFrame(rows)


def _zeroed(
    model: SequenceClassifier, of: Callable[[LARNNCell], Iterable[torch.nn.Parameter]]
) -> SequenceClassifier:
    """The same weights, but for those that ``of`` names in each cell, which are 0."""
    changed = copy.deepcopy(model)
    cells = (part for part in changed.modules() if isinstance(part, LARNNCell))
    with torch.no_grad():
        for weight in (weight for cell in cells for weight in of(cell)):
            weight.zero_()
    return changed


def _cut(model: SequenceClassifier, window_size: int) -> SequenceClassifier:
    """The same weights, looking back less far; how they see a cell's age stays as it was."""
    cut = copy.deepcopy(model)
    for part in cut.modules():
        if isinstance(part, LARNN | LARNNCell):
            part.config = dataclasses.replace(part.config, window_size=window_size)
    return cut


def _device(trained: TrainedClassifier) -> torch.device:
    return next(trained.model.parameters()).device
