"""The objective of this project's searches: train one network on the data that `params` name.

``train_larnn`` works unchanged in a plain `hyperopt.fmin`, and on the service, which gives it a
`TrialContext`. The loss is the validation people's cross-entropy in the epoch that counts (see
`model.training.fit`); accuracy is recorded beside it. Importing this module imports torch: a
worker's child does so before its first reservation, so that no trial waits for it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import data as data_sets
from model.checkpoint import CheckpointError
from model.config import TrialConfig
from model.cpu import cpu_type
from model.data import DataError, Dataset
from model.epochs import DivergedError, Epoch, FitResult
from model.evaluation import evaluate
from model.training import fit
from trials.errors import TrialRefusedError
from trials.objective import TrialContext


def train_larnn(params: Mapping[str, Any], context: TrialContext | None = None) -> dict[str, Any]:
    """Train a classifier and say how well it does on the validation people.

    Args:
        params: Flat settings, as `TrialConfig.from_params` takes them; absent ones have defaults.
        context: The service's; without one nothing is reported, stopped, or kept.

    Returns:
        ``{"loss", "status": "ok", "validation_accuracy", ...}``; ``{"status": "stopped", ...}``
        when the context asked to stop. Both say how and on what it ran. The loss of a training that
        diverged is NaN.

    Raises:
        ValueError: For an unknown parameter, a value outside its range, or unusable data.
        TrialRefusedError: If the data here are not those of the study.
    """
    config = config_of(params, context)
    data = load_data(config) if context is None else data_of_study(config, context.requirements)
    try:
        result = fit_trial(config, data, context)
    except DivergedError as error:
        return {**diverged(error), **origin(config, data)}
    if result.stopped is not None or result.best is None:
        return {"status": "stopped", **how_it_ran(result), **origin(config, data)}
    if context is not None and result.weights is not None:
        context.save_weights(result.weights)
    return {**outcome(result, result.best), **origin(config, data)}


def test_metrics(params: Mapping[str, Any], weights: bytes) -> dict[str, Any]:
    """Look at the test people: once per finished study, for its chosen trial.

    Args:
        params: The trial's.
        weights: What the trial kept.

    Returns:
        ``test_accuracy``, ``test_loss``, ``test_sequences``, ``test_confusion``.

    Raises:
        ValueError: If the weights are damaged or of other data.
    """
    measured = evaluate(weights, load_data(config_of(params, None)), "test")
    return {f"test_{name}": value for name, value in measured.items()}


def config_of(params: Mapping[str, Any], context: TrialContext | None) -> TrialConfig:
    """The configuration that ``params`` mean; the context's seed stands in for an absent one."""
    # Hyperopt hands over numpy's scalars; configurations hold Python's numbers.
    plain = {k: v.item() if hasattr(v, "item") else v for k, v in params.items()}
    if context is not None:
        plain.setdefault("seed", context.seed)
    return TrialConfig.from_params(plain)


def load_data(config: TrialConfig) -> Dataset:
    """The data of a configuration; kept, since a worker's next trial wants them too."""
    return _load(config.data.data, config.data.time_stride)


@functools.lru_cache(maxsize=2)
def _load(name: str, time_stride: int) -> Dataset:
    return data_sets.load(name, time_stride)


def data_of_study(config: TrialConfig, requirements: Mapping[str, Any]) -> Dataset:
    """The data of a configuration, if they are here and those that the study was started with.

    Raises:
        TrialRefusedError: If they are not.
    """
    try:
        data = load_data(config)
        if not _are_wanted(data, requirements):
            _load.cache_clear()  # the file may be another one by now
            data = load_data(config)
    except DataError as error:
        if "data_fingerprint" not in requirements:
            raise
        # The launcher could load them: it is this machine that lacks them.
        raise TrialRefusedError(f"this machine lacks the study's data: {error}") from error
    check_requirements(requirements, data)
    return data


def check_requirements(requirements: Mapping[str, Any], data: Dataset) -> None:
    """Refuse to train on data other than the study's.

    Raises:
        TrialRefusedError: If the fingerprints differ.
    """
    if not _are_wanted(data, requirements):
        wanted = str(requirements["data_fingerprint"])
        raise TrialRefusedError(
            f"this study's data have fingerprint {wanted[:16]}, data {data.name!r} here have "
            f"{data.fingerprint[:16]}: bring the same source and version of larnn-search here"
        )


def _are_wanted(data: Dataset, requirements: Mapping[str, Any]) -> bool:
    return bool(requirements.get("data_fingerprint", data.fingerprint) == data.fingerprint)


def fit_trial(config: TrialConfig, data: Dataset, context: TrialContext | None) -> FitResult:
    """Train, reporting each epoch to the service, which may stop it; see `model.training.fit`."""
    if context is None:
        return fit(config, data)

    def report(epoch: Epoch) -> None:
        print(  # for `larnn-search logs`
            f"epoch {epoch.epoch}: training loss {epoch.train_loss:.4f}, {_validation(epoch)}"
            f"{epoch.seconds:.1f} s"
        )
        metrics = {
            "validation_accuracy": epoch.validation_accuracy,
            "train_loss": epoch.train_loss,
            "train_accuracy": epoch.train_accuracy,
            "learning_rate": epoch.learning_rate,
        }
        known = {name: value for name, value in metrics.items() if value is not None}
        context.report(epoch.epoch, epoch.loss, **known)

    train = functools.partial(
        fit,
        config,
        data,
        device=context.device,
        threads=context.threads,
        on_epoch=report,
        stop_reason=context.stop_reason,
        save_checkpoint=context.save_checkpoint,
    )
    try:
        return train(checkpoint=context.load_checkpoint())
    except CheckpointError as error:  # another version's, say: its result is the same from anew
        print(f"begins anew: {error}")
        return train()


def _validation(epoch: Epoch) -> str:
    if epoch.validation_loss is None:
        return ""
    return (
        f"validation loss {epoch.validation_loss:.4f}, accuracy {epoch.validation_accuracy:.4f}, "
    )


def outcome(result: FitResult, best: Epoch) -> dict[str, Any]:
    """What the trial reached, and how it ran."""
    validated = (
        {"validation_accuracy": best.validation_accuracy}
        if best.validation_loss is not None
        else {}
    )
    return {
        "loss": best.loss,
        "status": "ok",
        **validated,
        "train_accuracy": best.train_accuracy,
        "train_loss": best.train_loss,
        "best_epoch": best.epoch,
        **how_it_ran(result),
    }


def diverged(error: DivergedError) -> dict[str, Any]:
    """A loss of NaN, why, and how the training ran until then."""
    ran = {} if error.result is None else how_it_ran(error.result)
    return {"loss": math.nan, "status": "ok", "message": str(error), **ran}


def how_it_ran(result: FitResult) -> dict[str, Any]:
    """What every trial keeps, however it ended."""
    return {
        "epochs_run": len(result.history),
        "num_parameters": result.num_parameters,
        "seconds": result.seconds,
        "device": result.device,
        "threads": result.threads,
        "backend": result.backend,
    }


def origin(config: TrialConfig, data: Dataset) -> dict[str, Any]:
    """What is needed to repeat the trial beside its params."""
    return {
        "seed": config.training.seed,
        "data_fingerprint": data.fingerprint,
        "versions": versions(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions and CPU of what computes, and the git revision where this is a checkout."""
    packages = ("larnn-search", "torch", "numpy")
    told = {name: importlib.metadata.version(name) for name in packages}
    told |= {"python": platform.python_version(), "cpu": cpu_type()}
    git, here = shutil.which("git"), Path(__file__).parent.parent
    if git and (here / ".git").exists():
        asked = subprocess.run(
            # With "-dirty" where files differ from it.
            [git, "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0:
            told["git"] = asked.stdout.strip()
    return told
