"""The objective of a final: train with settings that a search chose, then judge them.

The people who are judged took no part in the training, and nothing is chosen by how well they are
recognised: the last epoch counts, and they are looked at once, when it is over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from model.data import DataError, Dataset
from model.epochs import DivergedError
from model.evaluation import evaluate
from search.final import FOLD, SOURCE, TEST
from search.objective import (
    config_of,
    data_of_study,
    diverged,
    fit_trial,
    how_it_ran,
    load_data,
    origin,
    outcome,
)
from trials.objective import TrialContext


def train_and_judge(
    params: Mapping[str, Any], context: TrialContext | None = None
) -> dict[str, Any]:
    """Train a classifier on all people but the judged ones, and say how well it does on those.

    Args:
        params: Flat settings, as `TrialConfig.from_params` takes them, and ``judged``: ``test``
            (trained on training and validation people) or ``fold 3 of 10`` (trained on the people
            of the nine other folds, test people included). ``settings_of`` is for people only.
        context: As for `search.objective.train_larnn`.

    Returns:
        ``{"loss", "accuracy", "people": {person: [correct, sequences]}, "confusion", ...}``, all of
        the judged people; ``validation_people`` are those by whom the search chose its settings.

    Raises:
        ValueError: As `train_larnn`, or if ``judged`` is written otherwise.
        TrialRefusedError: As `train_larnn`.
    """
    settings = {name: value for name, value in params.items() if name != SOURCE}
    judged = settings.pop("judged", TEST)
    config = config_of(settings, context)
    data = load_data(config) if context is None else data_of_study(config, context.requirements)
    chose = () if data.person is None else data.split["validation"]
    told = {"judged": judged, "validation_people": [str(who) for who in chose]}
    told |= origin(config, data)
    data = data.resplit(split_for(data, judged))
    try:
        result = fit_trial(config, data, context)
    except DivergedError as error:
        return {**diverged(error), **told}
    if result.stopped is not None or result.best is None or result.weights is None:
        return {"status": "stopped", **how_it_ran(result), **told}
    if context is not None:
        context.save_weights(result.weights)
    return {
        **outcome(result, result.best),
        **told,
        **evaluate(result.weights, data, "test", device=result.device),
    }


def split_for(data: Dataset, judged: str) -> dict[str, tuple[int, ...]]:
    """Who is trained on and who is judged; nobody validates.

    Folds are stratified by class, of whole people (or, where nobody is named, of sequences), and
    follow from the data alone.

    Raises:
        DataError: If ``judged`` is neither ``test`` nor a fold that these data have.
    """
    if judged == TEST:
        seen = (*data.split["train"], *data.split["validation"])
        return {"train": seen, "validation": (), "test": data.split["test"]}
    found = re.fullmatch(FOLD.format(number=r"(\d+)", folds=r"(\d+)"), judged)
    owner = data.owner
    people = np.unique(owner)
    if found is None or not 1 <= int(found[1]) <= int(found[2]) <= len(people):
        raise DataError(
            f"judged is {TEST!r}, or {FOLD.format(number=3, folds=10)!r} with at most as many "
            f"folds as people ({len(people)}), got {judged!r}"
        )
    splitter = StratifiedGroupKFold(int(found[2]), shuffle=True, random_state=0)
    folds = list(splitter.split(owner, data.y, owner))
    held = np.unique(owner[folds[int(found[1]) - 1][1]])
    return {
        "train": tuple(np.setdiff1d(people, held).tolist()),
        "validation": (),
        "test": tuple(held.tolist()),
    }
