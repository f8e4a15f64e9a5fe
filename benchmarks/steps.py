"""Training steps of the LARNN, `torch.nn.LSTM` and the baselines, in processes of their own.

A step is forward, backward and Adam in float32.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from trials.process import child_environment

FEATURES, HIDDEN, HEADS, LAYERS = 9, 81, 27, 3
TIME, BATCH, WINDOW = 128, 256, 38
ROUNDS = 5


class Case(NamedTuple):
    """A layer and the size of its batch; `larnn-` and `backend` name the LARNN's two paths."""

    name: str
    steps: int = TIME
    batch: int = BATCH
    window: int = WINDOW
    positions: str = "none"
    attention_norm: str = "none"


def make_step(case: Case) -> Callable[[], None]:
    """One training step of a layer of the benchmark's shape."""
    import torch

    from model.baselines import BNLSTM, StackedResidualBiLSTM
    from model.layer import LARNN

    torch.manual_seed(0)
    if case.name == "lstm":
        layer: torch.nn.Module = torch.nn.LSTM(FEATURES, HIDDEN, LAYERS)
    elif case.name == "bn-lstm":
        layer = BNLSTM(FEATURES, HIDDEN, LAYERS)
    elif case.name == "residual-bi-lstm":
        layer = StackedResidualBiLSTM(FEATURES, HIDDEN + 1, LAYERS)
    else:
        layer = LARNN(
            FEATURES,
            HIDDEN,
            LAYERS,
            num_heads=HEADS,
            window_size=case.window,
            mode="residual",
            stacking="residual",
            attention_activation="elu",
            norm="batch",
            attention_norm=case.attention_norm,
            positional_encoding=case.positions,
            backend=case.name.removeprefix("larnn-"),
        )
    optimizer = torch.optim.Adam(layer.parameters())
    x = torch.randn(case.steps, case.batch, FEATURES)

    def step() -> None:
        optimizer.zero_grad()
        layer(x)[0][-1].square().mean().backward()
        optimizer.step()

    return step


def serve(cases: Sequence[Case]) -> None:
    """Be the other end of a `Trainer`."""
    from model.cpu import subnormals_flushed

    with subnormals_flushed():  # as in every training: over 256 steps gradients fade into them
        steps = [make_step(case) for case in cases]
        for line in sys.stdin:
            begin = time.perf_counter()
            steps[int(line)]()
            seconds = time.perf_counter() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps([seconds, peak]), flush=True)


class Trainer:
    """A process that holds layers, and takes a training step of the one it is told to.

    Args:
        cases: The layers, addressed by their place.
        environment: Of the process.
    """

    def __init__(self, cases: Sequence[Case], environment: Mapping[str, str] = os.environ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.steps", json.dumps(cases)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def begin(self, place: int) -> None:
        """Let a step begin."""
        print(place, file=self._process.stdin, flush=True)

    def end(self) -> tuple[float, float]:
        """Wait for the step: its seconds, and the process's peak memory in MB."""
        assert self._process.stdout is not None
        seconds, peak = json.loads(self._process.stdout.readline())
        return seconds, peak

    def step(self, place: int) -> tuple[float, float]:
        self.begin(place)
        return self.end()


class Times(NamedTuple):
    """What a layer's training steps took, round by round."""

    rounds: Sequence[float]

    @property
    def seconds(self) -> float:
        """Of a step: the median."""
        return statistics.median(self.rounds)

    def beside(self, other: Times) -> float:
        """Ratio to another layer's: the median over rounds, each of which saw one machine."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(mine / its for mine, its in pairs)


def measure_times(
    cases: Sequence[Case], environment: Mapping[str, str] = os.environ
) -> dict[Case, Times]:
    """Times of a step of each, taking turns in one process after a warm-up."""
    with Trainer(cases, environment) as trainer:
        rounds = [[trainer.step(i)[0] for i in range(len(cases))] for _ in range(ROUNDS + 1)]
    return dict(zip(cases, map(Times, zip(*rounds[1:], strict=True)), strict=True))


def measure_peak(case: Case) -> float:
    """Peak memory in MB of a process that trains this layer alone; Adam has its moments by then."""
    with Trainer([case]) as trainer:
        return [trainer.step(0)[1] for _ in range(2)][-1]


def measure_company(names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Median seconds of a step by itself, and while another process does the same.

    What counts is a difference of differences: there are more rounds than elsewhere, each process
    is also measured alone, and each order takes its turn.
    """
    cases = [Case(name) for name in names]
    one_thread = child_environment(os.environ, "cpu", 1)
    alone: dict[str, list[float]] = {name: [] for name in names}
    together: dict[str, list[float]] = {name: [] for name in names}
    with Trainer(cases, one_thread) as first, Trainer(cases, one_thread) as second:
        companies = [[first], [second], [first, second]]
        for number in range(3 * ROUNDS + 1):
            companies.append(companies.pop(0))
            for place, name in enumerate(names):
                for company in companies:
                    for trainer in company:
                        trainer.begin(place)
                    seconds = [trainer.end()[0] for trainer in company]
                    if number > 0:
                        (alone if len(company) == 1 else together)[name] += seconds
    return {
        name: (statistics.median(alone[name]), statistics.median(together[name])) for name in names
    }


if __name__ == "__main__":
    serve([Case(*case) for case in json.loads(sys.argv[1])])
