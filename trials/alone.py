"""One trial of an objective without a queue: what `larnn-search show` prints to repeat one.

``python -P -m trials.alone MODULE:FUNCTION PARAMS`` (-P: a file of the current folder cannot shadow
ours). It runs as in a worker's child: the same seed, threads and kind of device, nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trials.child import call, load_objective
from trials.errors import TrialRefusedError
from trials.objective import StopReason
from trials.plain import plain_result
from trials.process import THREAD_VARIABLES


@dataclass
class LoneContext:
    """The `TrialContext` of a trial that nobody watches: it prints reports and never stops."""

    number: int
    seed: int
    threads: int
    device: str
    attempt: int = 1
    requirements: Mapping[str, Any] = field(default_factory=dict)

    def report(self, step: int, loss: float, **metrics: float) -> None:
        """Print how step ``step`` went."""
        print(f"step {step}: loss {loss}")

    def stop_reason(self) -> StopReason | None:
        """Always None: go on."""
        return None

    def save_checkpoint(self, data: bytes) -> None:
        """Keep nothing."""

    def load_checkpoint(self) -> bytes | None:
        """Always None: a fresh start."""
        return None

    def save_weights(self, data: bytes) -> None:
        """Keep nothing."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trial that the command line describes and print what it returns, as JSON."""
    parser = argparse.ArgumentParser(prog="python -P -m trials.alone")
    parser.add_argument("objective", help="MODULE:FUNCTION")
    parser.add_argument("params", type=json.loads, help="JSON")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args(arguments)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(given.threads)))
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.path.append(os.getcwd())  # last: a user's model.py cannot shadow ours
    context = LoneContext(given.number, given.seed, given.threads, given.device)
    try:
        told = call(load_objective(given.objective), given.params, context)
    except TrialRefusedError as error:
        sys.exit(str(error))
    print(json.dumps(plain_result(told)))


if __name__ == "__main__":
    main()
