"""The LARNN's sequences in one fused CPU kernel; ``docs/kernel.md`` says how it works.

The kernel computes what `model.sequence.run_sequence` computes, several times faster. It is C++
that is built once, on first use; where it cannot be built, or for what it does not know, the layer
runs on PyTorch's own operations.
"""

from __future__ import annotations

from model.fused.build import BuildError
from model.fused.sequence import choose_backend, resolve_backend, run_kernel, takes

__all__ = [
    "BuildError",
    "choose_backend",
    "resolve_backend",
    "run_kernel",
    "takes",
]
