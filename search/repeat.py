"""The command that repeats a trial on any machine, without the database that holds it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from model.config import BACKEND_VARIABLE, TrialConfig
from search import author_trials
from search.final import SOURCE, TEST, final_name
from search.launch import DEFAULT_OBJECTIVE, JUDGING_OBJECTIVE
from search.space import assignment
from trials.errors import InvalidValueError
from trials.study import Study
from trials.trial import Trial


class Training(NamedTuple):
    """How a trial was trained: what training it again needs, as far as the trial tells."""

    params: dict[str, Any]  # and its seed
    threads: int
    device: str
    backend: str | None  # None: the environment's, else auto
    requirements: Mapping[str, Any]


def training_of(study: Study, trial: Trial) -> Training:
    """How to train a trial again in this process; ``LARNN_BACKEND``, where set, comes first.

    Raises:
        InvalidValueError: If the study has another objective than the LARNN's.
    """
    if study.spec.objective != DEFAULT_OBJECTIVE:
        raise InvalidValueError(
            "only trials of the LARNN objective can be trained here, study "
            f"{study.spec.name} minimises {study.spec.objective}"
        )
    return Training(
        params={"seed": trial.seed, **trial.params},
        threads=study.spec.threads,
        device=str(trial.result.get("device", "auto")).partition(":")[0],
        backend=None if BACKEND_VARIABLE in os.environ else trial.result.get("backend"),
        requirements=study.spec.requirements,
    )


def repeat_command(study: Study, trial: Trial) -> str | None:
    """A line for a shell; for the LARNN it names every setting, seed, threads and backend.

    On the same CPU type and versions (they are in the trial's result) it gives the same loss to the
    bit. A final is repeated whole, from its search or an export of it, so that its looks at the
    test people are known. None for the paper author's trials: his program is not here.
    """
    if study.spec.objective == author_trials.OBJECTIVE:
        return None
    if study.spec.objective == JUDGING_OBJECTIVE:
        return shlex.join(["larnn-search", "final", *_final_arguments(study), *_computed_by(trial)])
    if study.spec.objective != DEFAULT_OBJECTIVE:
        words = ["python", "-P", "-m", "trials.alone", study.spec.objective]
        words += [json.dumps(dict(trial.params)), "--number", str(trial.number)]
        words += ["--seed", str(trial.seed), "--threads", str(study.spec.threads)]
        if str(trial.result.get("device")).startswith("cuda"):
            words += ["--device", "cuda"]
        return shlex.join(words)
    words = ["larnn-search", "train", "--threads", str(study.spec.threads), *_computed_by(trial)]
    for name, value in _all_settings(trial).items():
        words += ["--fix", assignment(name, value)]
    return shlex.join(words)


def _computed_by(trial: Trial) -> list[str]:
    """Options for the device and backend that the trial ran on, as far as it tells."""
    words = []
    if isinstance(device := trial.result.get("device"), str):
        words += ["--device", device.partition(":")[0]]
    if isinstance(backend := trial.result.get("backend"), str):
        words += ["--backend", backend]
    return words


def _final_arguments(study: Study) -> list[str]:
    """What `final` was asked for: search, trial, seeds, folds, and its name if it is not usual."""
    search, number = str(study.spec.fixed[SOURCE]).split()
    choices = {row["name"]: row["choices"] for row in study.spec.space["rows"]}
    words = [search, "--trial", number, "--seeds", str(len(choices.get("seed", (0,))))]
    folds = None if study.spec.fixed.get("judged") == TEST else len(choices["judged"])
    if folds is not None:
        words += ["--folds", str(folds)]
    if study.name != final_name(search, folds):
        words += ["--name", study.name]
    return words


def _all_settings(trial: Trial) -> Mapping[str, Any]:
    """The trial's params, its seed, and the defaults of everything else: these may change."""
    params = {"seed": trial.seed, **trial.params}
    try:
        params = TrialConfig.from_params(params).to_params()
    except ValueError:  # another version's; training it says what is wrong
        return params
    return {name: value for name, value in params.items() if value is not None}
