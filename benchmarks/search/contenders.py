"""Who searches. Each gives the course of one search: what was best after how much work."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import hyperopt
import numpy as np
import optuna

from benchmarks.search.problems import Params, Problem
from search.feeder import Feeder
from search.parameter import Parameter
from search.suggest import hyperopt_space
from trials.memory_store import MemoryStore
from trials.store import WorkerInfo
from trials.study import StudySpec
from trials.trial import Outcome, Report, Trial, TrialState


@dataclass(frozen=True)
class Point:
    """How a search stood when a trial had ended."""

    trials: int
    epochs: int
    """Of all trials so far, pruned ones too; with pruning also of those that still ran."""
    best: float
    """Least loss of a trial that was trained to its end."""


Contender = Callable[[Problem, int, int], list[Point]]
"""Problem, seed and number of trials, whose epochs are the budget too, to the course."""


class Course:
    """Writes down how a search goes; a trial's loss is its best epoch's, as for the LARNN."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.points: list[Point] = []

    def whole(self, params: Params) -> float:
        """Train to the end."""
        loss = min(self._problem.curve(params))
        epochs = (len(self.points) + 1) * self._problem.epochs
        self.add(epochs, loss)
        return loss

    def add(self, epochs: int, loss: float = math.inf) -> None:
        """A trial has ended."""
        best = min(self.points[-1].best if self.points else math.inf, loss)
        self.points.append(Point(len(self.points) + 1, epochs, best))


def hyperopts(algorithm: Callable[..., Any]) -> Contender:
    """Hyperopt's own loop; its random search draws what its TPE starts with."""

    def search(problem: Problem, seed: int, trials: int) -> list[Point]:
        course = Course(problem)
        hyperopt.fmin(
            course.whole, hyperopt_space(problem.space), algorithm, trials,
            rstate=np.random.default_rng(seed), show_progressbar=False, verbose=False,
        )  # fmt: skip
        return course.points

    return search


def optuna_tpe(problem: Problem, seed: int, trials: int) -> list[Point]:
    """Optuna's TPE as it comes."""
    course = Course(problem)

    def objective(trial: optuna.Trial) -> float:
        params: dict[str, object] = {}
        for row in problem.space.rows:
            if problem.space.is_active(row, params):
                params[row.name] = _ask(trial, row)
        return course.whole(params)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed)).optimize(objective, trials)
    return course.points


def _ask(trial: optuna.Trial, row: Parameter) -> object:
    if row.kind == "choice":
        return trial.suggest_categorical(row.name, row.choices)
    low, high = row.bounds
    if row.is_integer:
        return trial.suggest_int(row.name, int(low), int(high), log=row.is_log)
    return trial.suggest_float(row.name, low, high, log=row.is_log)


class Simulation:
    """This service with its real feeder, in simulated time; only the training is left out.

    Args:
        problem: What is searched.
        seed: Of the study, and of how long trials take (up to a few times longer or shorter).
        trials: Budget; with a pruner, the epochs of so many whole trials.
        workers: Slots that train at the same time.
        pruner: The name of one.
    """

    def __init__(
        self, problem: Problem, seed: int, trials: int, *, workers: int, pruner: str
    ) -> None:
        self._problem = problem
        self._epochs_left = trials * problem.epochs
        self._prunes = pruner != "none"
        self._now = datetime(2026, 1, 1, tzinfo=UTC)
        self._store = MemoryStore(lambda: self._now)
        spec = StudySpec(
            "s", "benchmark:none", problem.space.to_dict(), seed=seed,
            max_trials=None if self._prunes else trials, pruner={"name": pruner},
        )  # fmt: skip
        self._store.create_study(spec)
        self._feeder = Feeder(self._store, "s", clock=lambda: self._now.timestamp())
        self._rng = np.random.default_rng([seed, workers])
        self._ids = itertools.count()
        self._idle = workers
        slots = tuple({"device": "cpu", "study": "s"} for _ in range(workers))
        self._host = WorkerInfo("worker", "host", 1, slots)
        self._agenda: list[tuple[datetime, int, Iterator[float]]] = []
        self._course = Course(problem)
        self._epochs = 0

    def run(self) -> list[Point]:
        """Search until the budget is used up."""
        while self._feed() and self._epochs < self._epochs_left:
            self._now, _, training = heapq.heappop(self._agenda)
            self._go_on(training)
        return self._course.points

    def _feed(self) -> bool:
        self._store.beat_worker(self._host)
        is_going_on = self._feeder.step()
        while self._idle and (trial := self._reserve()) is not None:
            self._idle -= 1
            self._go_on(self._train(trial))
            self._store.beat_worker(self._host)
            self._feeder.step()
        return is_going_on and bool(self._agenda)

    def _reserve(self) -> Trial | None:
        return self._store.reserve("s", "worker", "host", f"token-{next(self._ids)}", 1e9)

    def _go_on(self, training: Iterator[float]) -> None:
        for seconds in training:
            due = self._now + timedelta(seconds=seconds)
            heapq.heappush(self._agenda, (due, next(self._ids), training))
            return
        self._idle += 1

    def _train(self, trial: Trial) -> Iterator[float]:
        """Yields how long the next stretch of the training takes."""
        curve = self._problem.curve(trial.params)
        seconds = self._problem.seconds(trial.params) * self._rng.lognormal(0.0, 0.5)
        if self._prunes:
            for step, loss in enumerate(curve, start=1):
                yield seconds / len(curve)
                self._epochs += 1
                self._store.report(trial.claim, [Report(step, loss)])
                cutoffs = self._store.beat(trial.claim, 1e9).cutoffs
                if min(curve[:step]) > cutoffs.get(step, math.inf):
                    self._store.finish(trial.claim, Outcome(TrialState.PRUNED, loss))
                    self._course.add(self._epochs)
                    return
        else:
            yield seconds
            self._epochs += len(curve)
        self._store.finish(trial.claim, Outcome(TrialState.COMPLETE, min(curve)))
        self._course.add(self._epochs, min(curve))


def ours(workers: int, pruner: str = "none") -> Contender:
    """This service with so many workers; with a pruner it has half of the epochs."""

    def search(problem: Problem, seed: int, trials: int) -> list[Point]:
        budget = trials if pruner == "none" else trials // 2
        return Simulation(problem, seed, budget, workers=workers, pruner=pruner).run()

    return search


CONTENDERS: dict[str, Contender] = {
    "random": hyperopts(hyperopt.rand.suggest),
    "fmin": hyperopts(hyperopt.tpe.suggest),
    "optuna": optuna_tpe,
    "ours-1": ours(1),
    "ours-8": ours(8),
    "asha-1": ours(1, "asha"),
    "asha-8": ours(8, "asha"),
}
