"""Commands that make a search happen: run, launch, feed, worker."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search.following import carry_out, feed_to_the_end, make_folder
from search.history import DEAF
from search.launch import DEFAULT_OBJECTIVE
from search.options import (
    ahead_option,
    backend_option,
    device_option,
    given,
    is_lost,
    json_option,
    mistakes,
    mongo_option,
    opened,
    option,
    read_fix,
    study_options,
)
from trials.store import HEARTBEAT_SECONDS, LEASE_SECONDS

if TYPE_CHECKING:
    from trials.store import TrialStore
    from trials.study import Study

log = logging.getLogger("larnn.search")
output_option = option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("results"),
    help="Folder for figures and logs; each study has its own inside.",
)  # fmt: skip
workers_option = option(
    "--workers",
    type=click.IntRange(min=1),
    help="Worker processes on this machine, which share its GPUs; none: 2, or as few as its cores "
    "take, or one for each GPU.",
)
no_test_option = option(
    "--no-test", is_flag=True, help="Look at no test people when the study is over."
)
lease_option = option(
    "--lease",
    type=click.FloatRange(min=0, min_open=True),
    default=LEASE_SECONDS,
    metavar="SECONDS",
    help="Time without a sign of life until others take over.",
)


@click.command()
@study_options
@workers_option
@device_option
@backend_option
@ahead_option
@no_test_option
@output_option
@mongo_option
@json_option
def run(
    workers: int | None, device: str, ahead: int | None, no_test: bool, output: Path,
    mongo: str | None, as_json: bool, **request: Any,
) -> int:  # fmt: skip
    """Search on this machine: feeder, workers, live view, and the answer at the end.

    Ctrl-C stops cleanly; the same command resumes. A finished study shows its answer again.
    """
    from trials.devices import detect_slots

    _check_use(request)
    detect_slots(device=device)
    with opened(mongo) as store:
        study = _launch(store, request, runs_here=True, output=output)
        folder = output / study.name
        carry_out(
            store, study, folder, workers=workers, device=device, ahead=ahead, mongo=mongo,
            aside=as_json,
        )  # fmt: skip
        return _show_answer(store, study.name, folder, no_test, as_json)


@click.command()
@study_options
@ahead_option
@lease_option
@no_test_option
@output_option
@click.option("--no-wait", is_flag=True, help="Write the study and leave; a `feed` carries it on.")
@mongo_option
@json_option
def launch(
    ahead: int | None, lease: float, no_test: bool, output: Path, no_wait: bool,
    mongo: str | None, as_json: bool, **request: Any,
) -> int:  # fmt: skip
    """Start a search that workers on any machine carry out, and follow it to its answer."""
    _check_use(request)
    for name in ("ahead", "lease", "no_test", "output"):
        if no_wait and is_lost(name, to="no_wait"):
            raise click.UsageError(
                f"--{name.replace('_', '-')} is for a launcher that stays, got --no-wait too: "
                "leave one of the two out"
            )
    with opened(mongo) as store:
        study = _launch(store, request, runs_here=False, output=None if no_wait else output)
        if no_wait:
            if as_json:
                click.echo(json.dumps({"study": study.name, "state": str(study.state)}))
            else:
                click.echo(
                    f"Study {study.name} is in the queue; follow it: "
                    f"larnn-search status {study.name} --watch"
                )
            return 0
        feed_to_the_end(store, study, ahead=ahead, lease_s=lease, aside=as_json)
        return _show_answer(store, study.name, output / study.name, no_test, as_json)


@click.command()
@option("--study", help="Feed this study only; none: every study.")
@ahead_option
@lease_option
@mongo_option
def feed(study: str | None, ahead: int | None, lease: float, mongo: str | None) -> None:
    """Stand by and suggest trials for studies whose launcher is gone."""
    from search.beside import Beside
    from search.feeding import feed_all
    from trials.signals import SIGNAL_SECONDS, noting_signals
    from trials.study import check_study_name

    if study is not None:
        check_study_name(study)
    with opened(mongo) as store, noting_signals() as received:
        log.info("feeding %s; Ctrl-C ends it", study or "every study")
        feeding = functools.partial(feed_all, store, only=study, ahead=ahead, lease_s=lease)
        with Beside(feeding) as beside:
            while not received:
                beside.check()
                time.sleep(SIGNAL_SECONDS)


@click.command()
@option("--study", "studies", multiple=True, help="Serve this study only; may be repeated.")
@option(
    "--slots",
    default="auto",
    metavar="auto|N",
    help="Trials at a time, fewer where their threads need more cores than there are; auto: one "
    "per GPU, else one per core.",
)
@device_option
@backend_option
@option(
    "--allow-objective",
    "allowed",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="Also run this objective of your own; may be repeated.",
)
@lease_option
@option(
    "--heartbeat",
    type=click.FloatRange(min=0, min_open=True),
    default=HEARTBEAT_SECONDS,
    metavar="SECONDS",
    help="Time between two signs of life, and how soon pause and cancel are seen.",
)
@click.option("--with-parent", type=int, hidden=True, help="Leave when this process is gone.")
@mongo_option
def worker(
    studies: tuple[str, ...], slots: str, device: str, allowed: tuple[str, ...],
    lease: float, heartbeat: float, with_parent: int | None, mongo: str | None,
) -> None:  # fmt: skip
    """Pull trials from the queue and run them, until told to stop."""
    from search.launch import OWN_OBJECTIVES
    from trials.devices import detect_slots, usable_cores
    from trials.study import check_study_name
    from trials.worker import WorkerSettings, run_worker

    for name in studies:
        check_study_name(name)  # an impossible one would be waited for without end
    devices = detect_slots(slots, device=device)
    if with_parent is not None:
        _leave_with(with_parent)
    settings = WorkerSettings(
        slots=devices,
        cores=max(usable_cores(), len(devices)) if "cpu" in devices else None,
        objectives=(*OWN_OBJECTIVES, *allowed),
        studies=studies or None,
        # Workers of `run` have no other search to wait for.
        exit_when_done=studies if with_parent is not None else (),
        lease_s=lease,
        heartbeat_s=heartbeat,
    )
    with opened(mongo) as store:
        run_worker(store, settings)


COMMANDS = (run, launch, feed, worker)


def _check_use(request: Mapping[str, Any]) -> None:
    """Refuse options that would be read and then ignored, before anything is started."""
    objective, algorithm = request["objective"], request["algorithm"]
    if objective not in (None, DEFAULT_OBJECTIVE) and is_lost("preset", to="objective"):
        raise click.UsageError(
            f"--preset sizes the LARNN objective, got --objective {objective}: leave it out, and "
            "give --max-trials and --fix instead"
        )
    if algorithm in DEAF and is_lost("from_study", to="algorithm"):
        raise click.UsageError(
            f"--from-study is for algorithms that learn, got --algorithm {algorithm}: leave one "
            "of the two out"
        )
    read_fix(request["fix"], "epochs", "data")


def _launch(
    store: TrialStore, request: dict[str, Any], *, runs_here: bool, output: Path | None
) -> Study:
    """Write the study that was asked for, or find the one that it continues.

    Args:
        store: Where studies are kept.
        request: The options that make a `Request`.
        runs_here: Whether workers of this machine will run its objective.
        output: Where a folder for the study will be needed; None: nowhere.
    """
    from search.enqueue import add_points, complete_points
    from search.history import other_trials
    from search.launch import Request, build_spec, spec_again
    from trials.study import StudyState

    asked, known = Request(**request), {study.name: study for study in store.list_studies()}

    def say(line: str) -> None:
        click.echo(line, err=True)

    with mistakes():
        if asked.study in known:
            spec = spec_again(known[asked.study].spec, asked, given(request), say)
        else:
            spec = build_spec(asked, say)
        points = complete_points(spec, request["enqueue"])
        if output is not None:
            make_folder(output / spec.name)
        if runs_here:
            _check_objective(spec.objective)
        if spec.name not in known:
            other_trials(store, spec)
        study = store.create_study(spec)
        add_points(store, study, points)
    if study.state is StudyState.PAUSED:
        click.echo(
            f"Study {study.name} is paused; it goes on with: larnn-search resume {study.name}",
            err=True,
        )
    return study


def _check_objective(name: str) -> None:
    """Import the objective as the workers of this machine will, before they are started.

    Raises:
        ValueError: If it cannot be imported, or is no function.
    """
    from trials.child import load_objective
    from trials.errors import TrialRefusedError

    sys.path.append(os.getcwd())  # last: a user's model.py cannot shadow ours
    try:
        load_objective(name)
    except TrialRefusedError as error:
        raise ValueError(str(error)) from error


def _show_answer(store: TrialStore, study: str, folder: Path, no_test: bool, as_json: bool) -> int:
    from search.answer import answer
    from search.screens import print_answer

    result = answer(store, study, folder, look_at_test=not no_test)
    if not as_json:
        print_answer(result)
    else:
        click.echo(json.dumps(result.to_json(), allow_nan=False))
    if result.undrawn:
        click.echo(result.undrawn, err=True)
    return 0 if result.best is not None else 1


def _leave_with(parent: int) -> None:
    """Tell this process to stop (as SIGTERM does) once the launcher ``parent`` is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            threading.Event().wait(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
