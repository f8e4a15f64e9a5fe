"""Commands for one configuration: train it, use it."""

from __future__ import annotations

import csv
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model.config import TrialConfig
from search.options import (
    backend_option,
    device_option,
    json_option,
    looking_at,
    mistakes,
    mongo_option,
    option,
    read_fix,
    typed,
    writing,
)

if TYPE_CHECKING:
    from model.epochs import Epoch, FitResult
    from search.repeat import Training

CHECKPOINT = "checkpoint.safetensors"
STOPPED = 130


@click.command()
@option("--fix", multiple=True, metavar="NAME=VALUE", help="A setting; may be repeated.")
@click.option(
    "--from",
    "source",
    nargs=2,
    type=(str, click.IntRange(min=0)),
    metavar="STUDY|FILE.jsonl NUMBER",
    help="Start from a trial's settings and seed; of those below, only what is typed changes them.",
)
@option("--data", help="Data set; see `datasets`.")
@device_option
@backend_option
@option("--seed", type=click.IntRange(min=0), help="Seed of weights, order and dropout.")
@option("--threads", type=click.IntRange(min=1), help="CPU threads; none: the trial's, or all.")
@click.option(
    "-o",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Save the model there; none: only say how well it does.",
)
@mongo_option
@json_option
def train(
    fix: tuple[str, ...], source: tuple[str, int] | None, data: str | None, device: str,
    seed: int | None, threads: int | None, folder: Path | None, mongo: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Train one configuration, without a study; settings not given have their defaults.

    The validation people choose the epoch; the test people are not looked at. Ctrl-C keeps a
    checkpoint in DIR, and the same command goes on from it.
    """
    if source is not None:  # what stands elsewhere is for trainings in general
        fix = fix if typed("fix") else ()
        data = data if typed("data") else None
        seed = seed if typed("seed") else None
        threads = threads if typed("threads") else None
    fixed = read_fix(fix, "data", "seed")
    params: dict[str, Any] = {}
    requirements: Mapping[str, Any] = {}
    backend = None  # --backend is left in the environment
    if source is not None:
        again = _source(*source, mongo)
        params, backend, threads = again.params, again.backend, threads or again.threads
        if data is None and "data" not in fixed:
            requirements = again.requirements
    given = {"data": data, "seed": seed}
    params |= {name: value for name, value in given.items() if value is not None}
    with mistakes():
        config = TrialConfig.from_params(params | fixed)
        return _train(config, requirements, device, threads, backend, folder, as_json)


def _source(study: str, number: int, mongo: str | None) -> Training:
    """How the trial to start from was trained."""
    from search.repeat import training_of

    with looking_at(study, mongo) as (store, name):
        found, trial = store.get_study(name), store.get_trial(name, number)
    with mistakes():
        return training_of(found, trial)


def _train(
    config: TrialConfig,
    requirements: Mapping[str, Any],
    device: str,
    threads: int | None,
    backend: str | None,
    folder: Path | None,
    as_json: bool,
) -> int:
    from model import saved
    from search.commands.reading import print_json
    from search.objective import check_requirements, load_data, origin, outcome
    from search.results import to_plain

    if folder is not None:
        saved.check_free(folder)
    click.echo(f"Loading data {config.data.data} …", err=True)
    data = load_data(config)
    check_requirements(requirements, data)
    result = _fit(config, data, device, threads, backend, folder)
    if result.stopped is not None or result.best is None or result.weights is None:
        where = (
            f"; the same command goes on from {folder}" if folder else "; without -o, all is lost"
        )
        click.echo(f"larnn-search: stopped{where}", err=True)
        return STOPPED
    told = to_plain({**outcome(result, result.best), **origin(config, data)})
    if folder is not None:
        saved.save(folder, result.weights, told)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    if as_json:
        print_json(told)
    else:
        best = result.best
        click.echo(f"loss {best.validation_loss:.6f}, accuracy {best.validation_accuracy:.2%} on "
                   f"validation people (epoch {best.epoch} of {len(result.history)}), "
                   f"{result.num_parameters} parameters, {result.seconds:.0f} s, "
                   f"{result.device}")  # fmt: skip
        if folder is not None:
            click.echo(f"Saved in {folder}; use it: larnn-search predict {folder} FILE.npz")
    return 0


def _fit(
    config: TrialConfig,
    data: Any,
    device: str,
    threads: int | None,
    backend: str | None,
    folder: Path | None,
) -> FitResult:
    """Train with a line for each epoch; from the folder's checkpoint, where it has one."""
    from model.checkpoint import CheckpointError
    from model.epochs import DivergedError
    from model.fused.build import BuildError
    from model.training import INTERRUPT, fit
    from trials.signals import noting_signals

    kept = folder / CHECKPOINT if folder is not None else None
    try:
        checkpoint = kept.read_bytes() if kept is not None and kept.exists() else None
    except OSError as error:
        raise ValueError(f"{kept} cannot be read: {error.strerror}") from error
    try:
        with noting_signals() as received:
            return fit(
                config,
                data,
                device=device,
                threads=threads,
                backend=backend,
                on_epoch=lambda epoch: click.echo(_line(epoch, config.training.epochs), err=True),
                stop_reason=lambda: INTERRUPT if received else None,
                checkpoint=checkpoint,
                save_checkpoint=None if kept is None else functools.partial(_keep, kept),
            )
    except (DivergedError, BuildError) as error:
        raise click.ClickException(str(error)) from error
    except CheckpointError as error:
        raise ValueError(f"{kept}: {error}; remove it, or choose another folder") from error


def _keep(path: Path, checkpoint: bytes) -> None:
    """Write a checkpoint; a full disk does not end a training."""
    from model.saved import write_whole

    try:
        write_whole(path, checkpoint)
    except OSError as error:
        click.echo(f"no checkpoint: {path} cannot be written: {error.strerror}", err=True)


def _line(epoch: Epoch, epochs: int) -> str:
    return (
        f"epoch {epoch.epoch}/{epochs}  train loss {epoch.train_loss:.4f}  "
        f"validation loss {epoch.validation_loss:.4f}  "
        f"accuracy {epoch.validation_accuracy:.2%}  {epoch.seconds:.0f} s"
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.npz")
@click.option(
    "-o",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.csv",
    help="Where to write; none: standard output.",
)
@device_option
def predict(folder: Path, file: Path, target: Path | None, device: str) -> None:
    """Say what a saved model takes sequences for: class and probabilities, as CSV.

    FILE.npz holds x [n, T, F], raw as the training data were, and optionally length [n].
    """
    with mistakes():
        rows = _predictions(folder, file, device)
    if target is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        return
    with writing(target), target.open("w", encoding="utf-8", newline="") as opened_file:
        csv.writer(opened_file, lineterminator="\n").writerows(rows)


def _predictions(folder: Path, file: Path, device: str) -> list[Sequence[object]]:
    """A header, and for each sequence its number, its class and how probable each class is."""
    from model import saved
    from model.data.npz import ARRAYS, read_arrays
    from model.evaluation import load_classifier

    model = load_classifier(saved.load(folder), device)
    arrays, _ = read_arrays(file, ARRAYS, ("x",))
    told, wanted = list(map(str, arrays.get("channel_names", ()))), list(model.channel_names)
    if told and told != wanted:
        raise ValueError(
            "channels must be those of the training, in their order: "
            f"{', '.join(wanted)}; {file} has {', '.join(told)}"
        )
    shares = model.probabilities(arrays["x"], arrays.get("length"))
    names = model.class_names
    rows: list[Sequence[object]] = [("sequence", "class", *names)]
    for number, share in enumerate(shares):
        rows.append((number, names[share.argmax()], *(f"{value:.6f}" for value in share)))
    return rows


COMMANDS = (train, predict)
