"""What a failed attempt leads to: the retry policy of each kind, and the signs of each kind."""

from __future__ import annotations

import signal
from pathlib import Path

from trials.trial import Failure, FailureKind, Outcome, TrialState

RETRIED = frozenset(
    {FailureKind.CRASH, FailureKind.OUT_OF_MEMORY, FailureKind.TIMEOUT, FailureKind.STALL}
)
"""May go better next time, or elsewhere. An exception or a NaN would come again."""


def outcome_of(failure: Failure, retries: int, max_retries: int) -> Outcome:
    """Whether the trial is tried again or has failed.

    Args:
        failure: What happened. A lost worker's is written by the store, never here.
        retries: How many attempts counted as retries before.
        max_retries: `StudySpec.max_retries`.
    """
    if failure.kind in RETRIED and retries < max_retries:
        return Outcome(TrialState.WAITING, failure=failure, counts_as_retry=True)
    return Outcome(TrialState.FAILED, failure=failure)


def needs_fresh_child(failure: Failure) -> bool:
    """Whether the process may be spoiled: its memory is full, or its CUDA context is broken."""
    return failure.kind is FailureKind.OUT_OF_MEMORY or "CUDA error" in failure.message


def death(returncode: int, killed_for_memory: bool) -> tuple[FailureKind, str]:
    """Why a child died that nobody told to.

    Args:
        returncode: As `subprocess.Popen.returncode`: negative for a signal.
        killed_for_memory: Whether the kernel killed something for want of memory meanwhile.
    """
    if returncode >= 0:
        return FailureKind.CRASH, f"the trial's process exited with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if name == "SIGKILL" and killed_for_memory:
        return FailureKind.OUT_OF_MEMORY, "killed by the kernel: the machine ran out of memory"
    return FailureKind.CRASH, f"the trial's process was killed by {name}"


def kernel_oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """How many processes Linux has killed for want of memory since it started; elsewhere 0."""
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
