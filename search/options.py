"""Options that several commands share, and those that may be given beside the command line.

`option` makes the latter: each has an environment twin and may stand in a file. Arguments and what
a single call is about (names, filters, changes, files to write, ``--watch``, ``--yes``) are typed.

Precedence: option, environment, ``larnn-search.toml`` in the current folder, default.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from model.config import BACKEND_VARIABLE, BACKENDS, DEVICES
from search.history import ALGORITHMS
from search.launch import Request
from search.presets import PRESETS
from search.pruning import RULES
from search.space import parse_assignment
from trials.variables import URI_VARIABLE

if TYPE_CHECKING:
    from search.source import StudyData
    from trials.mongo_store import MongoStore
    from trials.store import TrialStore

CONFIG_FILE = "larnn-search.toml"
Command = TypeVar("Command", bound=Callable[..., Any])


class Setting(click.Option):
    """An option that names, in complaints, where its value came from."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """The option, and the file or variable if it stood there."""
        hint = f"'{self.opts[0]}'"
        source = None if ctx is None else ctx.get_parameter_source(str(self.name))
        if source is click.core.ParameterSource.DEFAULT_MAP:
            return f"{hint} (in {CONFIG_FILE})"
        if source is click.core.ParameterSource.COMMANDLINE:
            return hint
        return super().get_error_hint(ctx)

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """As click's; what stands in the file has TOML's types, and click would bend them.

        Raises:
            click.BadParameter: For a value of the file that is no value of this option.
        """
        if ctx.get_parameter_source(str(self.name)) is click.core.ParameterSource.DEFAULT_MAP:
            many = isinstance(value, list)
            for one in value if many else [value]:
                self._check_kind(ctx, one)
            if many and not self.multiple:
                raise click.BadParameter(f"takes one value, got {value}", ctx, self)
        return super().type_cast_value(ctx, value)

    def _check_kind(self, ctx: click.Context, value: Any) -> None:
        if self.is_flag:
            kind, fits = "true or false", isinstance(value, bool)
        elif isinstance(self.type, click.types.IntParamType):
            kind, fits = "a whole number", type(value) is int
        else:
            kind, fits = "a number or text", type(value) in (int, float, str)
        if not fits:
            raise click.BadParameter(f"takes {kind}, got {value!r}", ctx, self)


def option(name: str, *declarations: str, **settings: Any) -> Callable[[Command], Command]:
    """A click option whose environment twin is ``LARNN_<NAME>``, both shown in ``--help``."""
    twin = "LARNN_" + name.removeprefix("--").replace("-", "_").upper()
    settings.setdefault("cls", Setting)
    settings.setdefault("envvar", twin)
    settings.setdefault("show_envvar", True)
    settings.setdefault("show_default", settings.get("default") is not None)
    return click.option(name, *declarations, **settings)


mongo_option = option(
    "--mongo",
    "mongo",
    metavar="URI",
    envvar=URI_VARIABLE,
    help="MongoDB without password in it; none: a private server on this machine.",
)
json_option = option("--json", "as_json", is_flag=True, help="Print JSON.")
study_argument = click.argument("study")
study_or_file_argument = click.argument("study", metavar="STUDY|FILE.jsonl")
number_argument = click.argument("number", type=click.IntRange(min=0))


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in the order given."""

    def decorate(command: Command) -> Command:
        for add in reversed(options):
            command = add(command)
        return command

    return decorate


def memory_size(text: str | int) -> int:
    """Read an amount of memory such as ``800MB`` or ``4GB`` (powers of 1024); bytes.

    A file of defaults may also hold a plain number.

    Raises:
        click.BadParameter: If it is written otherwise.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)I?B?", str(text).strip().upper())
    if found is None:
        raise click.BadParameter(f"memory is written like 800MB or 4GB, got {text!r}")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))


def study_option(name: str, **settings: Any) -> Callable[[Command], Command]:
    """An option of `run` and `launch`; its default is `Request`'s."""
    default = _REQUEST_DEFAULTS[name.removeprefix("--").replace("-", "_")]
    if default is not dataclasses.MISSING:
        settings["default"] = default
    return option(name, **settings)


_REQUEST_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Request)}
_SECONDS: dict[str, Any] = {
    "type": click.FloatRange(min=0, min_open=True),
    "metavar": "SECONDS",
}
study_options = together(
    study_option("--preset", type=click.Choice(list(PRESETS)),
                 help="Sizes and budget to start from; every option below overrides it. "
                 + "; ".join(f"{preset.name}: {preset.doc}" for preset in PRESETS.values()) + "."),
    study_option("--study", required=True,
                 help="Name of the study; an existing one is resumed, as it was where nothing else "
                 "is said."),
    study_option("--data", help="Data set; see `datasets`."),
    study_option("--space", metavar="NAME|FILE.toml", help="What is searched; see `spaces`."),
    study_option("--objective", metavar="MODULE:FUNCTION", help="What is minimised."),
    study_option("--algorithm", type=click.Choice(ALGORITHMS),
                 help="How settings are suggested; grid: every combination, of choices and whole "
                 "numbers only."),
    study_option("--pruner", type=click.Choice(list(RULES)),
                 help="How trials are given up that do worse than others did at the same epoch."),
    study_option("--from-study", multiple=True, metavar="STUDY",
                 help="Also learn from this study's finished trials; may be repeated."),
    study_option("--enqueue", multiple=True, metavar="FILE.json",
                 type=click.Path(exists=True, dir_okay=False, path_type=Path),
                 help="Try these settings first, as JSON or as `best --json` prints them; may be "
                 "repeated."),
    study_option("--max-trials", type=click.IntRange(min=1),
                 help="Trials to finish; pruned and failed ones count."),
    study_option("--timeout", **_SECONDS,
                 help="Start no trial when the study is older; pauses count."),
    study_option("--until-loss", type=float, help="End once a trial is as good as this."),
    study_option("--patience", type=click.IntRange(min=1), metavar="TRIALS",
                 help="End after that many trials without a better one."),
    study_option("--epochs", type=click.IntRange(min=1), help="Epochs of each trial."),
    study_option("--fix", multiple=True, metavar="NAME=VALUE",
                 help="Pin a parameter; may be repeated."),
    study_option("--seed", type=click.IntRange(min=0),
                 help="Seed of suggestions and trials. Alone it fixes all suggestions with one "
                 "worker, --ahead 0 and --pruner none; else those of the random start phase."),
    study_option("--threads", type=click.IntRange(min=1), help="CPU threads of each trial."),
    study_option("--priority", type=click.IntRange(min=1), help="Share of the workers."),
    study_option("--max-retries", type=click.IntRange(min=0),
                 help="Times that a trial which crashed is tried again."),
    study_option("--trial-timeout", **_SECONDS, help="Longest one attempt may take."),
    study_option("--stall-timeout", **_SECONDS,
                 help="Longest time between two reports of a trial."),
    study_option("--memory-limit", type=memory_size, metavar="SIZE",
                 help="Most memory of one trial, such as 4GB."),
)  # fmt: skip
ahead_option = option(
    "--ahead", type=click.IntRange(min=0), metavar="TRIALS",
    help="Trials suggested beside one for each free slot; none: as few as keep all slots busy.",
)  # fmt: skip


def _choose_backend(ctx: click.Context, parameter: click.Parameter, value: str) -> None:
    """Leave the choice where layers look for it, in this process and in those that it starts."""
    if ctx.get_parameter_source("backend") is not click.core.ParameterSource.DEFAULT:
        os.environ[BACKEND_VARIABLE] = value


backend_option = option(
    "--backend",
    type=click.Choice(BACKENDS),
    default=BACKENDS[0],
    expose_value=False,
    callback=_choose_backend,
    help="What computes a LARNN on CPU: a fused kernel, or PyTorch; auto: the kernel if it builds.",
)
device_option = option(
    "--device", type=click.Choice(DEVICES), default=DEVICES[0],
    help="What trials run on; auto: the GPUs, where there are some.",
)  # fmt: skip


_PLACES = (
    click.core.ParameterSource.COMMANDLINE,
    click.core.ParameterSource.ENVIRONMENT,
    click.core.ParameterSource.DEFAULT_MAP,
)
"""Where options are given, by precedence."""


def is_lost(name: str, to: str) -> bool:
    """Whether a parameter was given for nothing, as another one takes its use away.

    Not where that other one goes before it: what the file and the environment say is for all
    commands, and may be of no use to this one.
    """
    context = click.get_current_context()
    given, taker = (context.get_parameter_source(parameter) for parameter in (name, to))
    return given in _PLACES and taker in _PLACES[_PLACES.index(given) :]


def given(names: Iterable[str]) -> set[str]:
    """Which of these parameters the user gave, anywhere; the others have their defaults."""
    context = click.get_current_context()
    return {name for name in names if context.get_parameter_source(name) in _PLACES}


def typed(name: str) -> bool:
    """Whether the user gave a parameter on the command line itself."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def read_fix(fix: Iterable[str], *own: str) -> dict[str, Any]:
    """What ``--fix`` pins.

    Args:
        fix: The option's values.
        own: Settings that have an option of their own.

    Raises:
        click.UsageError: If one of these is given by both, or ``fix`` holds no assignments.
    """
    with mistakes():
        pinned = dict(map(parse_assignment, fix))
    for name in own:
        if name in pinned and is_lost(name, to="fix"):
            value = click.get_current_context().params[name]
            raise click.UsageError(
                f"a setting is given once, got --{name} {value} and --fix {name}={pinned[name]}: "
                "leave one of the two out"
            )
    return pinned


@contextmanager
def opened(mongo: str | None, *, any_schema: bool = False) -> Iterator[MongoStore]:
    """The store that ``--mongo``, the environment, or the private server stands for."""
    from trials.connect import connect

    with connect(uri_from_option(mongo), any_schema=any_schema) as store:
        yield store


@contextmanager
def looking_at(study: str, mongo: str | None) -> Iterator[tuple[TrialStore, str]]:
    """The store that a study to look at is in, and its name: a file of ``export`` gets its own."""
    from search import source

    if source.is_file(study):
        yield source.store_of_file(Path(study))
        return
    with opened(mongo) as store:
        yield store, study


def read_data(study: str, mongo: str | None) -> StudyData:
    """A study to look at: from the database, or from a file of ``export``."""
    from search.source import read_study

    return read_study(study, uri_from_option(mongo))


def uri_from_option(mongo: str | None) -> str | None:
    """The address given as an option; None where it came from the environment.

    `trials.connect` allows a password in the environment but not on the command line, so it has to
    know which of the two it was.
    """
    source = click.get_current_context().get_parameter_source("mongo")
    return None if source is click.core.ParameterSource.ENVIRONMENT else mongo


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Show that ``path`` cannot be written as the user's mistake."""
    try:
        yield
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def mistakes() -> Iterator[None]:
    """Show a ValueError about what the user wrote as the user's mistake (exit status 2)."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error
