"""What an objective and the queue expect of each other. No torch, no database: plain protocols.

An objective is a function ``objective(params, context=None)`` that returns
``{"loss": float, "status": "ok", ...}``. Called with params alone it works in `hyperopt.fmin`; on
the service it also gets a `TrialContext`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class StopReason(enum.StrEnum):
    """Why a running trial should come to an end early."""

    PRUNE = "prune"
    """Others did better at this step: return ``{"status": "stopped"}``."""
    INTERRUPT = "interrupt"
    """The worker leaves or the study pauses: save, then return ``{"status": "stopped"}``."""


class TrialContext(Protocol):
    """What a running trial can ask of the service, and tell it."""

    number: int
    """The trial's number in its study."""
    attempt: int
    """1 on the first attempt."""
    seed: int
    """Seed of all of the trial's random draws."""
    threads: int
    """CPU threads that the trial may use."""
    device: str
    """``"cpu"`` or ``"cuda"``; a worker's slot shows its child one GPU only."""
    requirements: Mapping[str, Any]
    """`StudySpec.requirements`; raise `TrialRefusedError` where they cannot be met."""

    def report(self, step: int, loss: float, **metrics: float) -> None:
        """Say how step ``step`` (1, 2, ...) went. Returns at once."""

    def stop_reason(self) -> StopReason | None:
        """Whether to stop now, asked between batches. Cheap; None means go on."""

    def save_checkpoint(self, data: bytes) -> None:
        """Keep where the trial stands, to go on from after an interruption or a lost worker.

        Report a step before saving the checkpoint that follows it, so that none is missing later.
        """

    def load_checkpoint(self) -> bytes | None:
        """What the latest attempt saved, None on a fresh start."""

    def save_weights(self, data: bytes) -> None:
        """Keep what the trial made (for the LARNN: its best epoch's weights, as safetensors)."""


class StopRule(Protocol):
    """Decides which running trials are hopeless. Feeders compute cut-offs, workers compare."""

    def judges(self, step: int) -> bool:
        """Whether a trial may be given up at this step."""

    def cutoff(self, losses: Sequence[float]) -> float | None:
        """The highest loss still allowed at a step; None: any.

        Args:
            losses: The least so far of all trials that reported there, ascending; at least one.
        """
