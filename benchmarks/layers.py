"""Time and memory of the LARNN beside `torch.nn.LSTM` and the baselines.

``python -m benchmarks.layers`` prints the tables and writes them to ``benchmarks/layers.md``.
A step is forward, backward and Adam. Layers of one row take turns in one process, and medians
count; peak memory is ``ru_maxrss`` of one process each, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

FEATURES, HIDDEN, HEADS, LAYERS = 9, 81, 27, 3
TIME, BATCH, WINDOW = 128, 256, 38
REPORT = Path(__file__).with_suffix(".md")
NAMES = {
    "lstm": "`nn.LSTM`",
    "larnn-fused": "`LARNN`, fused kernel",
    "larnn-torch": "`LARNN`, PyTorch",
    "bn-lstm": "`BNLSTM`",
    "residual-bi-lstm": "`StackedResidualBiLSTM`, H 82",
}
# Keep freed memory in the process: by default glibc hands large blocks back at every step, and a
# third of an LSTM's time goes into page faults.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


def make_step(name: str, steps: int, batch: int, window: int) -> Callable[[], object]:
    """One training step of a layer of the benchmark's shape."""
    import torch

    from model.baselines import BNLSTM, StackedResidualBiLSTM
    from model.layer import LARNN

    torch.manual_seed(0)
    if name == "lstm":
        layer: torch.nn.Module = torch.nn.LSTM(FEATURES, HIDDEN, LAYERS)
    elif name == "bn-lstm":
        layer = BNLSTM(FEATURES, HIDDEN, LAYERS)
    elif name == "residual-bi-lstm":
        layer = StackedResidualBiLSTM(FEATURES, HIDDEN + 1, LAYERS)
    else:
        layer = LARNN(
            FEATURES,
            HIDDEN,
            LAYERS,
            num_heads=HEADS,
            window_size=window,
            mode="residual",
            stacking="residual",
            attention_activation="elu",
            norm="batch",
            backend=name.removeprefix("larnn-"),
        )
    optimizer = torch.optim.Adam(layer.parameters())
    x = torch.randn(steps, batch, FEATURES)

    def step() -> None:
        optimizer.zero_grad()
        layer(x)[0][-1].square().mean().backward()
        optimizer.step()

    return step


def measure_times(
    names: list[str], steps: int, batch: int, window: int, rounds: int
) -> dict[str, float]:
    """Median seconds of a step of each layer, taking turns after a warm-up."""
    step_of = {name: make_step(name, steps, batch, window) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(rounds + 1):
        for name, step in step_of.items():
            begin = time.perf_counter()
            step()
            if round_number > 0:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_peak(names: list[str], steps: int, batch: int, window: int) -> dict[str, float]:
    """Peak memory in MB of this process after a few steps of one layer."""
    step = make_step(names[0], steps, batch, window)
    for _ in range(3):
        step()
    return {names[0]: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_a_process(what: str, names: list[str], size: tuple[int, int, int], **settings: str) -> dict:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.layers", what, ",".join(names)]
    command += [str(number) for number in size]
    answer = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | settings
    )
    return json.loads(answer.stdout.splitlines()[-1])


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def compare_layers() -> str:
    """All layers at one shape, under both settings of the allocator."""
    names, size = list(NAMES), (TIME, BATCH, WINDOW)
    default = in_a_process("time", names, size)
    keeping = in_a_process("time", names, size, **KEEP_MEMORY)
    peaks = {name: in_a_process("memory", [name], size)[name] for name in names}
    rows = []
    for name in names:
        row = [NAMES[name]]
        for seconds in (default, keeping):
            row += [f"{seconds[name]:.3f}", f"{seconds[name] / seconds['lstm']:.1f}"]
        rows.append([*row, f"{peaks[name]:.0f}", f"{peaks[name] / peaks['lstm']:.1f}"])
    head = ["layer", "s", "ratio", "s, keeping memory", "ratio", "peak MB", "ratio"]
    return table(head, rows)


def compare_sizes() -> str:
    """LARNN and LSTM over time, window and batch."""
    names = ["lstm", "larnn-fused", "larnn-torch"]
    sizes = [(TIME, BATCH, WINDOW)]
    sizes += [(steps, BATCH, WINDOW) for steps in (32, 64, 256)]
    sizes += [(TIME, BATCH, window) for window in (1, 10, 100)]
    sizes += [(TIME, batch, WINDOW) for batch in (32, 64, 128)]
    rows = []
    for size in sizes:
        seconds = in_a_process("time", names, size)
        row = [str(number) for number in size] + [f"{seconds['lstm']:.3f}"]
        for name in names[1:]:
            row += [f"{seconds[name]:.3f}", f"{seconds[name] / seconds['lstm']:.1f}"]
        rows.append(row)
    head = ["T", "B", "K", "`nn.LSTM` s", "fused s", "ratio", "PyTorch s", "ratio"]
    return table(head, rows)


def machine() -> str:
    """What this ran on."""
    import torch

    allocator = {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")} or "default"
    return (
        f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.libc_ver()[0]} "
        f"{platform.libc_ver()[1]}, torch {torch.__version__}, "
        f"Python {platform.python_version()}; allocator settings: {allocator}"
    )


def main() -> None:
    """Measure everything, or, with arguments, one thing for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("time", "memory"))
    parser.add_argument("names", nargs="?", default="")
    parser.add_argument("size", nargs="*", type=int, metavar="T B K")
    arguments = parser.parse_args()
    names = arguments.names.split(",")
    if arguments.what == "time":
        print(json.dumps(measure_times(names, *arguments.size, rounds=5)))
    elif arguments.what == "memory":
        print(json.dumps(measure_peak(names, *arguments.size)))
    else:
        shape = f"F {FEATURES}, H {HIDDEN}, {HEADS} heads, {LAYERS} layers"
        report = f"""# Layers: time and memory of a training step

`make bench` made this on {machine()}.

Forward, backward and Adam in float32; {shape}, residual mode and stacking, ELU, batch norm. Medians
of five rounds, the layers taking turns in one process; ratios are to `nn.LSTM` in that process.
Peak memory: `ru_maxrss` of a process that trains one layer, imports included.

## All layers, T {TIME}, B {BATCH}, window {WINDOW}

{compare_layers()}

Keeping memory: {", ".join(f"`{name}={value}`" for name, value in KEEP_MEMORY.items())}.

## Over time, batch and window

{compare_sizes()}
"""
        REPORT.write_text(report)
        print(report)


if __name__ == "__main__":
    main()
