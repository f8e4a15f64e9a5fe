"""Train one classifier: loop, device, checkpoints. What it minimises and keeps is said in `fit`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from model.checkpoint import CheckpointError, pack, unpack
from model.classifier import SequenceClassifier
from model.config import TrialConfig
from model.cpu import subnormals_flushed, threads_of
from model.data.augmentation import Augmentation
from model.data.dataset import DataError, Dataset, Normalisation
from model.epochs import DivergedError, Epoch, FitResult
from model.evaluation import Part, choose_device, load_weights, pack_weights
from model.fused.build import is_available
from model.optimization import (
    Precision,
    class_weights,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)

INTERRUPT = "interrupt"
"""The stop reason that wants a checkpoint first."""


def fit(
    config: TrialConfig,
    data: Dataset,
    *,
    device: str = "auto",
    threads: int | None = None,
    backend: str | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    stop_reason: Callable[[], str | None] = lambda: None,
    checkpoint: bytes | None = None,
    save_checkpoint: Callable[[bytes], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FitResult:
    """Train on the training people, choose the epoch on the validation people.

    The best epoch is the one of lowest validation cross-entropy. It is also what a search should
    minimise: accuracy on some 1,800 windows moves in steps and ties, cross-entropy tells close
    settings apart. Test people's values are not read. With ``config.training.keep`` last, and where
    the data name no validation people (settings were chosen before), the last epoch counts instead.

    Every random draw follows from ``config.training.seed``; the caller's generators stay untouched.
    On one CPU type, backend and number of threads the result is the same to the bit, also when the
    training was stopped and resumed in between.

    Args:
        config: Network, training and data settings.
        data: Loaded with ``config.data.time_stride``.
        device: auto, cpu or cuda.
        threads: CPU threads of torch during the training; None leaves them.
        backend: What computes a larnn: auto, fused or torch; None: ``LARNN_BACKEND``, else auto. A
            checkpoint goes on with the backend it was saved with, where that runs here.
        on_epoch: Told of each epoch when it ended.
        stop_reason: Asked after every batch; anything but None ends the training, ``"interrupt"``
            with a checkpoint first.
        checkpoint: What ``save_checkpoint`` got earlier, to go on from there.
        save_checkpoint: Given the complete state on an interruption and after each epoch
            but the last.
        clock: Seconds.

    Raises:
        ValueError: If CUDA or mixed precision is asked for and there is no GPU; if the data do not
            fit the configuration (`DataError`); if the checkpoint is damaged or another training's
            (`CheckpointError`).
        DivergedError: If the loss is no longer finite.
    """
    place = choose_device(device)
    cuda = [torch.cuda.current_device()] if place.type == "cuda" else []
    stopped = None
    with threads_of(threads), subnormals_flushed(), torch.random.fork_rng(devices=cuda):
        saved = None if checkpoint is None else unpack(checkpoint)
        if saved is not None:
            backend = _backend_of(saved[1], place, backend)
        training = _Training(config, data, place, backend, clock)
        if saved is not None:
            training.restore(*saved)
        try:
            training.run(on_epoch, stop_reason, save_checkpoint)
        except _StopTraining as stop:
            stopped = stop.reason
            if stopped == INTERRUPT and save_checkpoint is not None:
                save_checkpoint(training.checkpoint())
        except DivergedError as error:
            error.result = training.result("diverged")
            raise
        return training.result(stopped)


def _backend_of(saved: dict[str, Any], place: torch.device, otherwise: str | None) -> str | None:
    """The backend of a checkpoint, or ``otherwise`` where the kernel it used cannot run."""
    told: str | None = saved.get("backend")
    if told == "fused" and not (place.type == "cpu" and is_available()):
        return otherwise
    return told


class _StopTraining(Exception):  # noqa: N818  # not an error
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = str(reason)


class _Training:
    """The state of one training, and what changes it."""

    def __init__(
        self,
        config: TrialConfig,
        data: Dataset,
        device: torch.device,
        backend: str | None,
        clock: Callable[[], float],
    ) -> None:
        if data.time_stride != config.data.time_stride:
            raise DataError(
                f"data must be loaded with time_stride {config.data.time_stride}, "
                f"got {data.time_stride}"
            )
        self.config, self.data, self.device, self.clock = config, data, device, clock
        self.settings = config.training
        rows = data.indices("train")
        length = None if data.length is None else data.length[rows]
        self.normalisation = Normalisation.of(data.x[rows], length)
        self.train = Part(data, "train", self.normalisation, device)
        self.validation = (
            Part(data, "validation", self.normalisation, device)
            if data.count("validation")
            else None
        )
        self.augment = Augmentation(self.settings.augmentation, data, self.train.std)
        # With a smaller batch at the end, batch norm would see other moments there: leave it out.
        self.batch_size = min(self.settings.batch_size, len(self.train))
        self.steps_per_epoch = len(self.train) // self.batch_size
        # torch.manual_seed would seed every GPU of the caller's as well.
        torch.default_generator.manual_seed(self.settings.seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(self.settings.seed)
        classes = len(data.class_names)
        self.model = SequenceClassifier(config.model, data.x.shape[2], classes, backend=backend).to(
            device
        )
        self.optimizer = make_optimizer(self.model, self.settings)
        self.precision = Precision(self.settings.precision, device)
        self.class_weights = class_weights(self.settings.class_weights, self.train.y, data)
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.best_state: dict[str, Tensor] = {}
        self.order = torch.empty(0, dtype=torch.long)
        self.batch = 0  # of the current epoch, done
        self.loss_sum, self.correct = 0.0, 0
        self.seconds_before, self.started = 0.0, clock()

    @property
    def seconds(self) -> float:
        """Training time so far, earlier attempts included."""
        return self.seconds_before + self.clock() - self.started

    def run(
        self,
        on_epoch: Callable[[Epoch], None],
        stop_reason: Callable[[], str | None],
        save_checkpoint: Callable[[bytes], None] | None,
    ) -> None:
        """Train to the end; `_StopTraining` leaves a state that `checkpoint` can save."""

        def ask() -> None:
            if (reason := stop_reason()) is not None:
                raise _StopTraining(reason)

        self.model.train()
        while not self._finished():
            if self.batch == 0:
                self.order = torch.randperm(len(self.train))
            while self.batch < self.steps_per_epoch:
                self._train_batch()
                ask()
            self._end_epoch(*self._validate(ask))
            on_epoch(self.history[-1])
            if save_checkpoint is not None and not self._finished():
                save_checkpoint(self.checkpoint())

    def _finished(self) -> bool:
        done, patience = len(self.history), self.settings.patience
        waited = done - self.best.epoch if self.best else 0
        return done >= self.settings.epochs or bool(patience and waited >= patience)

    def _train_batch(self) -> None:
        start = self.batch * self.batch_size
        rows = self.order[start : start + self.batch_size].to(self.device)
        x, target, lengths = self.train.batch(rows, self.augment)
        set_learning_rate(self.optimizer, self._learning_rate(self.batch))
        with self.precision.autocast():
            logits = self.model(x, lengths)
            loss = F.cross_entropy(
                logits,
                target,
                self.class_weights,
                label_smoothing=self.settings.label_smoothing,
            )
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the training loss became {value} in epoch {len(self.history) + 1}, batch "
                f"{self.batch + 1}: try a lower learning_rate or a gradient_clip"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.precision.step(loss, self.optimizer, self.model, self.settings.gradient_clip)
        self.loss_sum += value
        self.correct += int((logits.argmax(1) == target).sum())
        self.batch += 1

    def _learning_rate(self, batch: int) -> float:
        """Learning rate of a batch (0, 1, ...) of the current epoch."""
        step = len(self.history) * self.steps_per_epoch + batch
        return learning_rate(self.settings, step, self.steps_per_epoch)

    def _validate(self, ask: Callable[[], None]) -> tuple[float | None, float | None]:
        """Loss and accuracy of the validation people, where there are some."""
        if self.validation is None:
            return None, None
        logits, target = self.validation.logits(self.model, before_batch=ask), self.validation.y
        loss = float(F.cross_entropy(logits.double(), target))
        return loss, float((logits.argmax(1) == target).double().mean())

    def _end_epoch(self, validation_loss: float | None, validation_accuracy: float | None) -> None:
        epoch = Epoch(
            epoch=len(self.history) + 1,
            train_loss=self.loss_sum / self.steps_per_epoch,
            train_accuracy=self.correct / (self.steps_per_epoch * self.batch_size),
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            learning_rate=self._learning_rate(self.steps_per_epoch - 1),
            seconds=self.seconds,
        )
        if not math.isfinite(epoch.loss):
            raise DivergedError(
                f"the validation loss became {epoch.loss} in epoch {epoch.epoch}: "
                "try a lower learning_rate or a gradient_clip"
            )
        self.history.append(epoch)
        takes_last = self.settings.keep == "last" or self.validation is None
        if self.best is None or takes_last or epoch.loss < self.best.loss:
            self.best = epoch
            self.best_state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.batch, self.loss_sum, self.correct = 0, 0.0, 0

    def result(self, stopped: str | None) -> FitResult:
        """What `fit` returns."""
        weights = None
        if self.best is not None:
            metrics = dataclasses.asdict(self.best)
            weights = pack_weights(
                self.best_state, self.config, self.data, self.normalisation, metrics
            )
        return FitResult(
            history=tuple(self.history),
            best=self.best,
            weights=weights,
            stopped=stopped,
            num_parameters=self.model.num_parameters,
            device=self.device.type,
            threads=torch.get_num_threads(),
            backend=self.model.backend,
            seconds=self.seconds,
        )

    def _belongs_to(self) -> dict[str, Any]:
        """By what a checkpoint is recognised as this training's."""
        return {"config": self.config.to_params(), "data_fingerprint": self.data.fingerprint}

    def _is_own(self, told: Any) -> bool:
        """Whether a checkpoint is this training's; settings that came later had their defaults."""
        try:
            same = TrialConfig.from_params(told["config"]) == self.config
            return same and bool(told["data_fingerprint"] == self.data.fingerprint)
        except (KeyError, TypeError, ValueError):
            return False

    def checkpoint(self) -> bytes:
        """Pack all that the rest of the training depends on."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in self.best_state.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": t for name, t in state.items()}
        tensors |= {"order": self.order, "rng.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        values = {
            "belongs_to": self._belongs_to(),
            "backend": self.model.backend,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
            "best_epoch": self.best.epoch if self.best else None,
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "seconds": self.seconds,
            "scaler": self.precision.scaler.state_dict(),
        }
        return pack(tensors, values)

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Undo `checkpoint`, from what it unpacks to.

        Raises:
            CheckpointError: If it is another training's.
        """
        if not self._is_own(values.get("belongs_to")):
            raise CheckpointError(
                "a checkpoint must come from the same settings and data as the training it "
                f"resumes; it tells of {values.get('belongs_to')}"
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        load_weights(self.model, parts["model"])
        self.best_state = {name: t.to(self.device) for name, t in parts["best"].items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, rest = name.partition(".")
            moments.setdefault(int(index), {})[rest] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.history = [Epoch(**told) for told in values["history"]]
        best = values["best_epoch"]
        self.best = self.history[best - 1] if best else None
        self.order, self.batch = tensors["order"], values["batch"]
        self.loss_sum, self.correct = values["loss_sum"], values["correct"]
        self.seconds_before, self.started = values["seconds"], self.clock()
        if values["scaler"]:  # else it was saved where nothing has to be scaled
            self.precision.scaler.load_state_dict(values["scaler"])
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
