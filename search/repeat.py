"""The command that repeats a trial on any machine, without the database that holds it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from model.config import TrialConfig
from search import author_trials
from search.launch import DEFAULT_OBJECTIVE
from search.space import parse_assignment
from trials.study import Study
from trials.trial import Trial


def repeat_command(study: Study, trial: Trial) -> str | None:
    """A line for a shell; for the LARNN it names every setting, the seed and the threads.

    On the same CPU type, backend and versions (they are in the trial's result) it gives the same
    loss to the bit. None for the paper author's trials: his program is not here.
    """
    if study.spec.objective == author_trials.OBJECTIVE:
        return None
    module, _, function = study.spec.objective.partition(":")
    if study.spec.objective != DEFAULT_OBJECTIVE:
        program = f"from {module} import {function}; print({function}({dict(trial.params)!r}))"
        return shlex.join(["python", "-c", program])
    words = ["larnn-search", "train", "--threads", str(study.spec.threads)]
    if isinstance(device := trial.result.get("device"), str):
        words += ["--device", device.partition(":")[0]]
    for name, value in _all_settings(trial).items():
        words += ["--fix", f"{name}={_written(value)}"]
    return shlex.join(words)


def _all_settings(trial: Trial) -> Mapping[str, Any]:
    """The trial's params, its seed, and the defaults of everything else: these may change."""
    params = {"seed": trial.seed, **trial.params}
    try:
        params = TrialConfig.from_params(params).to_params()
    except ValueError:  # another version's; training it says what is wrong
        return params
    return {name: value for name, value in params.items() if value is not None}


def _written(value: Any) -> str:
    """As `parse_assignment` reads it back."""
    if isinstance(value, str) and parse_assignment(f"name={value}") == ("name", value):
        return value
    return json.dumps(value)
