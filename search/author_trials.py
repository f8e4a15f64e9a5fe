"""The trials behind the paper, as its author published them in 2018.

github.com/guillaume-chevalier/Linear-Attention-Recurrent-Neural-Network keeps one JSON file a trial
in ``results_round_1/UCIHAR`` and ``results_round_2/UCIHAR``. Three things to know of them: their
"validation" people are UCI HAR's test people; epoch and trial were chosen on these; and the cells'
own weights were never trained (docs/larnn.md).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from search.named_spaces import NAMED_SPACES
from trials.study import Study, StudySpec, StudyState
from trials.trial import Report, Trial, TrialState

OBJECTIVE = "larnn_2018.train:optimize_model"
"""Names the author's own program, which no worker here runs."""
MESSAGE = (
    "the paper author's trials; chosen and measured on UCI HAR's test people, with cells that "
    "were never trained"
)


def read(folder: Path, now: datetime) -> list[tuple[Study, list[Trial]]]:
    """Read the published trials, one study a round.

    The loss is the cross-entropy of the best epoch, as in this project's own searches; what the
    author minimised (minus the best accuracy) is ``author_loss`` in the result. When the trials ran
    was not published.

    Args:
        folder: A clone of the author's repository, or one of the folders below it.
        now: The time of the import.

    Returns:
        Studies ``author-round-1`` and ``author-round-2``, as far as they are there.

    Raises:
        ValueError: If there are none, or a file has another layout; says which.
    """
    files: dict[int, list[Path]] = defaultdict(list)
    for file in folder.resolve().rglob("*.json"):
        if found := re.search(r"/results_round_([12])/", file.as_posix()):
            files[int(found[1])].append(file)
    if not files:
        raise ValueError(
            f"{folder} holds no results_round_1/UCIHAR/*.json: expected a clone of the paper "
            "author's repository, or a file of `larnn-search export`"
        )
    return [_read_round(number, files[number], now) for number in sorted(files)]


def _read_round(number: int, files: Sequence[Path], now: datetime) -> tuple[Study, list[Trial]]:
    space = NAMED_SPACES[f"paper-round-{number}"]
    spec = StudySpec(
        name=f"author-round-{number}",
        objective=OBJECTIVE,
        space=space.to_dict(),
        fixed={"cell": "larnn", "data": "uci-har"},
        max_trials=len(files),
    )
    trials = []
    # In which order they ran was not published; by name, trials would come sorted by accuracy.
    for index, file in enumerate(sorted(files, key=lambda file: file.name.rpartition("_")[2])):
        try:
            trials.append(_read_trial(spec, index, json.loads(file.read_text()), now))
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(
                f"{file} is no trial as the author published them: {type(error).__name__} {error}"
            ) from error
    return Study(spec, StudyState.COMPLETE, now, message=MESSAGE), trials


def _read_trial(spec: StudySpec, number: int, told: Mapping[str, Any], now: datetime) -> Trial:
    history = told["history"]
    reports = zip(
        history["validation_losses"],
        history["validation_accuracies"],
        history["validation_f1_scores"],
        strict=True,
    )
    kept = ("best_train_accuracy", "best_train_f1_score", "best_validation_f1_score", "model_name")
    return Trial(
        study=spec.name,
        number=number,
        state=TrialState.COMPLETE,
        params={**spec.space["fixed"], **spec.fixed, **_params(told["space"])},
        seed=0,
        created_at=now,
        attempt=1,
        loss=float(told["real_best_loss"]),
        result={
            "test_people_accuracy": told["best_validation_accuracy"],
            "author_loss": told["loss"],
            **{name: told[name] for name in kept},
        },
        reports=tuple(
            Report(step, loss, {"test_people_accuracy": accuracy, "test_people_f1_score": f1})
            for step, (loss, accuracy, f1) in enumerate(reports, start=1)
        ),
        suggestion={"origin": "author"},
    )


def _params(space: Mapping[str, Any]) -> dict[str, Any]:
    """The author's names and switches as this project's."""
    return {
        "learning_rate": space["learning_rate"],
        "weight_decay": space["l2_weight_reg"],
        "dropout": space["dropout_drop_proba"],
        "num_heads": space["attention_heads"],
        "head_size": space["hidden_size"] // space["attention_heads"],
        "window_size": space["larnn_window_size"],
        "num_layers": space["num_layers"],
        "mode": space["larnn_mode"],
        "stacking": "residual" if space["is_stacked_residual"] else "plain",
        "attention_activation": "elu" if space["activation_on_keys_and_values"] else "none",
        "positional_encoding": "static" if space["use_positional_encoding"] else "none",
        "decay_every": space["decay_each_N_epoch"],
        "batch_size": space["batch_size"],
        "epochs": space["training_epochs"],
    }
