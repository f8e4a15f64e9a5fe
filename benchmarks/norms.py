"""Which norm trains best, and does it hold at evaluation? Prints the table of docs/larnn.md.

    python -m benchmarks.norms [SEEDS]

Each training is short and real: every second window of `har`'s training people, every second time
step, 6 epochs. Both modes then see the same training windows and the best epoch's weights; training
mode measures each batch and learns nothing.
"""

import dataclasses
import statistics
import sys

import numpy as np
import torch

from model.config import TrialConfig
from model.data import har
from model.data.dataset import Dataset
from model.epochs import FitResult
from model.evaluation import Part, load_classifier
from model.training import fit

BATCHES = (16, 128)
EPOCHS = 6


def subset() -> Dataset:
    everybody = har.load_har()
    assert everybody.person is not None
    training = everybody.indices("train")[::2]
    rows = np.concatenate([training, everybody.indices("validation")])
    return dataclasses.replace(
        everybody, x=everybody.x[rows], y=everybody.y[rows], person=everybody.person[rows]
    ).every(2)


def accuracies(result: FitResult, data: Dataset, batch_size: int) -> tuple[float, float]:
    """Of the training windows, in training mode and at evaluation."""
    assert result.weights is not None
    trained = load_classifier(result.weights, "cpu")
    part = Part(data, "train", trained.normalisation, torch.device("cpu"))
    evaluated = part.logits(trained.model).argmax(1).eq(part.y)
    model = trained.model.train()
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
    whole = order[: len(part) // batch_size * batch_size]
    held = {name: value.clone() for name, value in model.state_dict().items()}
    right = []
    with torch.no_grad():
        for rows in torch.split(whole, batch_size):
            x, y, _ = part.batch(rows)
            right.append(model(x).argmax(1).eq(y))
            model.load_state_dict(held)
    return float(torch.cat(right).double().mean()), float(evaluated[whole].double().mean())


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    data = subset()
    print("| norm | attention_norm | batch | training mode | evaluation | evaluation better by "
          "| validation loss | validation accuracy |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for batch_size in BATCHES:
        for norm in ("layer", "batch", "none"):
            for attention_norm in ("none", norm) if norm != "none" else ("none",):
                rows = []
                for seed in range(seeds):
                    config = TrialConfig.from_params(
                        {"norm": norm, "attention_norm": attention_norm, "epochs": EPOCHS,
                         "batch_size": batch_size, "time_stride": 2, "seed": seed}
                    )  # fmt: skip
                    result = fit(config, data, device="cpu", threads=1)
                    assert result.best is not None
                    train, evaluated = accuracies(result, data, batch_size)
                    rows.append(
                        (train, evaluated, evaluated - train, result.best.validation_loss,
                         result.best.validation_accuracy)
                    )  # fmt: skip
                columns = list(zip(*rows, strict=True))
                mean = [statistics.mean(column) for column in columns]
                gaps = ", ".join(f"{100 * gap:+.2f}" for gap in columns[2])
                print(
                    f"| {norm} | {attention_norm} | {batch_size} | {mean[0]:.2%} | {mean[1]:.2%} "
                    f"| {gaps} | {mean[3]:.3f} ({min(columns[3]):.3f} to "
                    f"{max(columns[3]):.3f}) | {mean[4]:.2%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
