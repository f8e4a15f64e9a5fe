"""Real trials to search among: short LARNN trainings with their learning curves, kept as CSV.

    LARNN_STATE_DIR=/tmp/larnn-record python -m benchmarks.search.record

Random settings of `recorded.toml` are trained by this project's own workers (no pruning, nobody
looks at the test people) and written to `recorded.csv`: data set, each setting, and the validation
loss after each epoch, empty from where a training diverged, and the seconds it took. Started again
on the same state folder it goes on where it was; ``--write`` writes what there is.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from search.feeder import Feeder
from search.launch import Request, build_spec
from search.named_spaces import resolve
from search.pool import WorkerPool
from trials.connect import connect
from trials.store import TrialStore
from trials.trial import Trial, TrialState

HERE = Path(__file__).parent
SPACE_FILE = HERE / "recorded.toml"
TABLE = HERE / "recorded.csv"
EPOCHS = 27
"""Five rungs of successive halving: 1, 2, 4, 8 and 16."""
SETS = {
    "uea:BasicMotions": ("batch_size=8", "time_stride=2"),
    "uea:JapaneseVowels": ("batch_size=32",),
    "har": ("batch_size=128", "time_stride=8"),
}
"""What is fixed so that a trial takes seconds."""
SETTINGS = tuple(row.name for row in resolve(str(SPACE_FILE)).rows)
LOSSES = tuple(f"loss_{epoch}" for epoch in range(1, EPOCHS + 1))


def study_of(data: str) -> str:
    """The study that records a data set."""
    return "record-" + re.sub("[^A-Za-z0-9]", "-", data)


def record(store: TrialStore, data: str, trials: int, workers: int) -> None:
    """Train random settings on one data set until there are that many."""
    request = Request(
        study_of(data), data=data, space=str(SPACE_FILE), algorithm="random", pruner="none",
        max_trials=trials, epochs=EPOCHS, fix=SETS[data],
    )  # fmt: skip
    study = store.create_study(build_spec(request, print))
    log = Path(os.environ["LARNN_STATE_DIR"]) / f"{study.name}.log"
    with WorkerPool(
        study.name, workers, mongo=None, objectives=[study.spec.objective], device="cpu", log=log
    ):
        Feeder(store, study.name).run(threading.Event())


def rows(data: str, trials: list[Trial]) -> Iterator[list[object]]:
    """A line of the table for each trial that trained at least one epoch."""
    for trial in trials:
        losses = {report.step: f"{report.loss:.5g}" for report in trial.reports}
        if losses and trial.state in (TrialState.COMPLETE, TrialState.FAILED):
            settings = [trial.params[name] for name in SETTINGS]
            shown = [f"{v:.6g}" if isinstance(v, float) else v for v in settings]
            curve = [losses.get(epoch, "") for epoch in range(1, EPOCHS + 1)]
            yield [data, trial.number, f"{trial.reports[-1].seconds:.3f}", *shown, *curve]


def write(store: TrialStore) -> None:
    """Write all recorded trials to the table."""
    known = {study.name for study in store.list_studies()}
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["data", "number", "seconds", *SETTINGS, *LOSSES])
        for data in SETS:
            if study_of(data) in known:
                table.writerows(rows(data, store.list_trials(study_of(data))))


def main() -> None:
    """Record and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.record")
    parser.add_argument("--trials", type=int, default=400, help="of each data set")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", choices=SETS, action="append", help="this one only; repeatable")
    parser.add_argument("--write", action="store_true", help="only write what was recorded")
    given = parser.parse_args()
    os.nice(19)
    with connect(state_dir=os.environ["LARNN_STATE_DIR"]) as store:
        for data in [] if given.write else given.data or SETS:
            record(store, data, given.trials, given.workers)
        write(store)


if __name__ == "__main__":
    main()
