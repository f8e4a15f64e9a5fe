"""Time and memory of the LARNN beside `torch.nn.LSTM` and the baselines.

``python -m benchmarks.layers`` prints the tables and writes them to ``benchmarks/layers.md``. What
a table compares takes turns, and medians count; peak memory is ``ru_maxrss`` of one process each,
imports included.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.steps import (
    BATCH,
    FEATURES,
    HEADS,
    HIDDEN,
    LAYERS,
    ROUNDS,
    TIME,
    WINDOW,
    Case,
    Times,
    measure_company,
    measure_peak,
    measure_times,
)
from trials.process import KEEP_MEMORY, WAIT_ASLEEP

REPORT = Path(__file__).with_suffix(".md")
NAMES = {
    "lstm": "`nn.LSTM`",
    "larnn-fused": "`LARNN`, fused kernel",
    "larnn-torch": "`LARNN`, PyTorch",
    "bn-lstm": "`BNLSTM`",
    "residual-bi-lstm": "`StackedResidualBiLSTM`, H 82",
}
PATHS = tuple(NAMES)[:3]
LETTERS = {"steps": "T", "window": "K", "batch": "B"}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def beside_lstm(times: Iterable[Times]) -> list[str]:
    """Cells of a row: an LSTM's seconds, then seconds and ratio of each other."""
    lstm, *others = times
    cells = [f"{lstm.seconds:.3f}"]
    for other in others:
        cells += [f"{other.seconds:.3f}", f"{other.beside(lstm):.2f}"]
    return cells


HEAD_BESIDE = ["`nn.LSTM` s", "fused s", "ratio", "PyTorch s", "ratio"]


def compare_layers() -> str:
    """All layers at one shape, under both settings of the allocator."""
    cases = [Case(name) for name in NAMES]
    settings = (measure_times(cases), measure_times(cases, os.environ | KEEP_MEMORY))
    peaks = {case: measure_peak(case) for case in cases}
    lstm, rows = cases[0], []
    for case in cases:
        row = [NAMES[case.name]]
        for times in settings:
            row += [f"{times[case].seconds:.3f}", f"{times[case].beside(times[lstm]):.2f}"]
        rows.append([*row, f"{peaks[case]:.0f}", f"{peaks[case] / peaks[lstm]:.2f}"])
    return table(["layer", "s", "ratio", "s, keeping memory", "ratio", "peak MB", "ratio"], rows)


def compare_sizes(field: str, values: Sequence[Any]) -> str:
    """LARNN and LSTM over one size; all of it takes turns, so that rows compare as well."""
    rows_of = {value: [Case(name)._replace(**{field: value}) for name in PATHS] for value in values}
    times = measure_times([case for cases in rows_of.values() for case in cases])
    rows = []
    for value, cases in rows_of.items():
        peaks = [f"{measure_peak(case):.0f}" for case in cases]
        rows.append([str(value), *beside_lstm(times[case] for case in cases), *peaks])
    peaks_head = ["`nn.LSTM` peak MB", "fused", "PyTorch"]
    return table([LETTERS[field], *HEAD_BESIDE, *peaks_head], rows)


def compare_positions() -> str:
    """Both paths without and with positional encoding, for each norm of keys and values."""
    cases = [
        Case(name, positions=kind, attention_norm=norm)
        for name in PATHS[1:]
        for norm in ("none", "layer", "batch")
        for kind in ("none", "static")
    ]
    times = measure_times(cases)
    rows = []
    for without, encoded in zip(cases[::2], cases[1::2], strict=True):
        ratio = times[encoded].beside(times[without])
        peaks = [f"{measure_peak(case):.0f}" for case in (without, encoded)]
        seconds = [f"{times[case].seconds:.3f}" for case in (without, encoded)]
        about = [NAMES[without.name], without.attention_norm]
        rows.append([*about, *seconds, f"{ratio:.2f}", *peaks])
    head = ["layer", "norm of keys", "s without", "s with", "ratio", "peak MB without", "with"]
    return table(head, rows)


def compare_threads() -> str:
    """LARNN and LSTM on one thread and on two, OpenMP's spinning while they wait, or asleep."""
    rows = []
    for threads, waiting in ((1, {}), (2, {}), (2, WAIT_ASLEEP)):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | waiting
        times = measure_times([Case(name) for name in PATHS], environment)
        about = f"{threads}, waiting asleep" if waiting else str(threads)
        rows.append([about, *beside_lstm(times.values())])
    return table(["threads", *HEAD_BESIDE], rows)


def compare_company() -> str:
    """What a training loses to another on the other core."""
    seconds = measure_company(PATHS)
    losses = {name: together / alone - 1 for name, (alone, together) in seconds.items()}
    rows = []
    for name, times in seconds.items():
        beyond = losses[name] - losses["lstm"]
        rows.append(
            [NAMES[name], *(f"{t:.3f}" for t in times), f"{losses[name]:+.0%}", f"{beyond:+.0%}"]
        )
    return table(["layer", "s alone", "s in company", "loses", "beyond `nn.LSTM`"], rows)


def machine() -> str:
    """What this ran on."""
    import torch

    allocator = {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")} or "default"
    about = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    models = [line.partition(": ")[2] for line in about.splitlines() if "model name" in line]
    return (
        f"{models[0] if models else platform.processor()} ({platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores), "
        f"{torch.get_num_threads()} threads, {' '.join(platform.libc_ver())}, "
        f"torch {torch.__version__}, Python {platform.python_version()}; "
        f"allocator settings: {allocator}"
    )


def main() -> None:
    """Measure everything."""
    began = time.monotonic()
    settings, sleep = (
        ", ".join(f"`{name}={value}`" for name, value in part.items())
        for part in (KEEP_MEMORY, WAIT_ASLEEP)
    )
    tables = f"""## All layers, T {TIME}, B {BATCH}, window {WINDOW}

{compare_layers()}

Keeping memory, as workers tell their children to: {settings}.

## Over time

{compare_sizes("steps", (32, 64, TIME, 256, 512))}

## Over the window

{compare_sizes("window", (1, 10, WINDOW, 100))}

## Over the batch

{compare_sizes("batch", (32, 64, 128, BATCH))}

## Positional encoding

{compare_positions()}

## Threads

{compare_threads()}

Waiting asleep, as workers tell their children to: {sleep}.

## Two trainings at once

Two processes of one thread each, in the environment that workers give their children.

{compare_company()}
"""
    shape = f"F {FEATURES}, H {HIDDEN}, {HEADS} heads, {LAYERS} layers"
    report = f"""# Layers: time and memory of a training step

`make bench` made this in {(time.monotonic() - began) / 60:.0f} minutes on {machine()}.

Forward, backward and Adam in float32; {shape}, residual mode and stacking, ELU, batch norm;
T {TIME}, B {BATCH}, window {WINDOW} where nothing else is said. Medians of {ROUNDS} rounds, in
which all of a table takes turns in one process (one for each allocator or number of threads);
ratios are to `nn.LSTM` there, medians of each round's. Peak memory: `ru_maxrss` of a process that
trains one layer, imports included.

{tables}"""
    REPORT.write_text(report)
    print(report)


if __name__ == "__main__":
    main()
