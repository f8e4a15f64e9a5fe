"""Time of a training step on a GPU beside cuDNN's LSTM.

``make bench-cuda`` (``python -m benchmarks.cuda``) prints a table. A step is forward, backward and
Adam at the shape of ``benchmarks.steps``; layers take turns, medians count, and the GPU is waited
for.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.steps import BATCH, FEATURES, HEADS, HIDDEN, LAYERS, TIME, WINDOW
from model.baselines import BNLSTM, StackedResidualBiLSTM
from model.layer import LARNN

ROUNDS, WARM_UP = 10, 3


def make_layers() -> dict[str, torch.nn.Module]:
    larnn = functools.partial(
        LARNN, FEATURES, HIDDEN, LAYERS, num_heads=HEADS, window_size=WINDOW, stacking="residual"
    )
    return {
        "`nn.LSTM` (cuDNN)": torch.nn.LSTM(FEATURES, HIDDEN, LAYERS),
        "`LARNN`, layer norm": larnn(norm="layer"),
        "`LARNN`, batch norm": larnn(norm="batch"),
        "`BNLSTM`": BNLSTM(FEATURES, HIDDEN, LAYERS),
        "`StackedResidualBiLSTM`, H 82": StackedResidualBiLSTM(FEATURES, 82, LAYERS),
    }


def make_step(layer: torch.nn.Module, device: str) -> Callable[[], None]:
    layer = layer.to(device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    x = torch.randn(TIME, BATCH, FEATURES, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        output, _ = layer(x)
        output.square().mean().backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(device: str, rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of a step of each layer, cuDNN's LSTM first."""
    steps = {name: make_step(layer, device) for name, layer in make_layers().items()}
    took: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP + rounds):
        for name, step in steps.items():
            spent = seconds(step, device)
            if turn >= WARM_UP:
                took[name].append(spent)
    return {name: statistics.median(times) for name, times in took.items()}


def main(device: str) -> None:
    medians = measure(device)
    first = next(iter(medians.values()))
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else device}, "
          f"torch {torch.__version__}: T {TIME}, B {BATCH}, H {HIDDEN}, {LAYERS} layers, "
          f"window {WINDOW}, {HEADS} heads\n")  # fmt: skip
    print("| layer | ms a step | times cuDNN's LSTM |\n| --- | --- | --- |")
    for name, median in medians.items():
        print(f"| {name} | {1000 * median:.1f} | {median / first:.1f} |")


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("benchmarks.cuda needs a GPU; torch sees none")
    main("cuda")
