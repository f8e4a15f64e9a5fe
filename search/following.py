"""A study carried to its end from this process: fed, followed, and stopped in good order."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from search.beside import Beside
from search.options import writing
from trials.store import LEASE_SECONDS

if TYPE_CHECKING:
    from trials.store import TrialStore
    from trials.study import Study

LOG_FILE = "workers.log"


def carry_out(
    store: TrialStore, study: Study, folder: Path, *, workers: int | None, device: str,
    ahead: int | None, mongo: str | None, aside: bool = False,
) -> None:  # fmt: skip
    """Run a study to its end with workers of this machine, and show how it goes.

    With ``aside`` on standard error: standard output is for what programs read.
    """
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
    with _resumable(), _feeding(store, study.name, ahead) as feeding, pool:

        def check() -> None:
            feeding.check()
            if not pool.alive:
                raise click.ClickException(f"all workers have ended; their log is {log}")

        try:
            _follow(store, study.name, check, aside)
        finally:
            feeding.stop()  # so that it leaves while the workers do


def feed_to_the_end(
    store: TrialStore, study: Study, *, ahead: int | None, lease_s: float, aside: bool = False
) -> None:
    """Feed a study that workers anywhere carry out, and show how it goes (as in `carry_out`)."""
    if study.state.is_over:
        return
    left = f"left; study {study.name} goes on, `larnn-search stop {study.name}` ends it"
    with _resumable(left), _feeding(store, study.name, ahead, lease_s) as feeding:
        _follow(store, study.name, feeding.check, aside)


def make_folder(path: Path) -> None:
    """Make a folder in which files can be written, before anything depends on it."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()


class _StoppedError(click.ClickException):
    """Ctrl-C stopped a search."""

    exit_code = 130


class _TerminatedError(_StoppedError):
    """SIGTERM did."""

    exit_code = 143


@contextmanager
def _resumable(
    how: str = "stopped; the same command goes on where it left off",
) -> Iterator[None]:
    """End a search that Ctrl-C or SIGTERM stops in good order, and say how it goes on."""
    from trials.signals import on_signals

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        raise _TerminatedError(how)

    try:
        with on_signals(end, signal.SIGTERM):
            yield
    except KeyboardInterrupt:
        raise _StoppedError(how) from None


def _feeding(
    store: TrialStore, study: str, ahead: int | None, lease_s: float = LEASE_SECONDS
) -> Beside:
    """Feeds ``study`` beside this thread; its check tells what ended the feeder too early."""
    from search.feeder import Feeder

    return Beside(Feeder(store, study, ahead=ahead, lease_s=lease_s).run)


def _follow(store: TrialStore, study: str, check: Callable[[], None], aside: bool = False) -> None:
    """Show the live view until the study is over, or ``check`` raises why it never will be."""
    from search.live import LiveView
    from search.tables import plain_console
    from trials.errors import StudyNotFoundError

    with LiveView(store, study, plain_console(stderr=aside)) as view:
        try:
            while not view.refresh().is_over:
                check()
                view.wait()
        except StudyNotFoundError:
            raise click.ClickException(f"study {study} was deleted meanwhile") from None
