"""A study carried to its end from this process: fed, followed, and stopped in good order."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from search.options import writing
from trials.store import LEASE_SECONDS

if TYPE_CHECKING:
    from trials.store import TrialStore
    from trials.study import Study

LOG_FILE = "workers.log"


def carry_out(
    store: TrialStore, study: Study, folder: Path, *, workers: int | None, device: str,
    ahead: int | None, mongo: str | None,
) -> None:  # fmt: skip
    """Run a study to its end with workers of this machine, and show how it goes."""
    from search.pool import WorkerPool, fitting_workers
    from trials.devices import visible_gpus

    if study.state.is_over:
        return
    gpus = visible_gpus() if device != "cpu" else []
    workers = workers or fitting_workers(study.spec.threads, gpus)
    log = folder / LOG_FILE
    objectives = [study.spec.objective]
    pool = WorkerPool(
        study.name, workers, mongo=mongo, objectives=objectives, device=device, gpus=gpus, log=log
    )
    make_folder(folder)
    with _resumable(), pool, _feeding(store, study.name, ahead) as check_feeder:

        def check() -> None:
            check_feeder()
            if not pool.alive:
                raise click.ClickException(f"all workers have ended; their log is {log}")

        _follow(store, study.name, check)


def feed_to_the_end(store: TrialStore, study: Study, *, ahead: int | None, lease_s: float) -> None:
    """Feed a study that workers anywhere carry out, and show how it goes."""
    if study.state.is_over:
        return
    with _resumable(), _feeding(store, study.name, ahead, lease_s) as check:
        _follow(store, study.name, check)


def make_folder(path: Path) -> None:
    """Make a folder in which files can be written, before anything depends on it."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()


class _StoppedError(click.ClickException):
    """Ctrl-C stopped a search."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("stopped; the same command goes on where it left off")


class _TerminatedError(_StoppedError):
    """SIGTERM did."""

    exit_code = 143


@contextmanager
def _resumable() -> Iterator[None]:
    """End a search that Ctrl-C or SIGTERM stops in good order, and say how it goes on."""
    from trials.signals import on_signals

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        raise _TerminatedError

    try:
        with on_signals(end, signal.SIGTERM):
            yield
    except KeyboardInterrupt:
        raise _StoppedError from None


@contextmanager
def _feeding(
    store: TrialStore, study: str, ahead: int | None, lease_s: float = LEASE_SECONDS
) -> Iterator[Callable[[], None]]:
    """Feed ``study`` from a thread of this process while the block runs.

    Yields a check that raises what ended the feeder, if anything did before the study was over.
    """
    from search.feeder import Feeder

    feeder, stop = Feeder(store, study, ahead=ahead, lease_s=lease_s), threading.Event()
    ended: list[Exception] = []

    def feed() -> None:
        try:
            feeder.run(stop)
        except Exception as error:  # for the main thread, which would wait without end
            ended.append(error)

    def check() -> None:
        if ended:
            raise ended[0]

    thread = threading.Thread(target=feed, name="feeder")
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join()


def _follow(store: TrialStore, study: str, check: Callable[[], None]) -> None:
    """Show the live view until the study is over, or ``check`` raises why it never will be."""
    from search.live import LiveView

    with LiveView(store, study) as view:
        while not view.refresh().is_over:
            check()
            view.wait()
