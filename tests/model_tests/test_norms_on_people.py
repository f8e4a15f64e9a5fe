"""After a real training, what a norm shows in training mode holds at evaluation."""

import dataclasses

import numpy as np
import pytest
import torch

from model.config import TrialConfig
from model.data import har
from model.evaluation import Part, load_classifier
from model.norm import StepBatchNorm
from model.training import fit


@pytest.fixture(scope="module")
def people():
    """Every fifth window of the training people, every fourth step; few validation windows."""
    everybody = har.load_har()
    rows = np.concatenate([everybody.indices("train")[::5], everybody.indices("validation")[::9]])
    return dataclasses.replace(
        everybody, x=everybody.x[rows], y=everybody.y[rows], person=everybody.person[rows]
    ).every(4)


def _accuracy(logits, part):
    return logits.argmax(1).eq(part.y).double().mean().item()


# Without batch norm both modes compute the same: test_norm_honesty.py.
@pytest.mark.parametrize("attention_norm", ["none", "batch"])
def test_accuracy_on_the_training_windows_is_the_same_in_both_modes(attention_norm, people):
    differences = []
    # Of single seeds the modes are up to 0.013 apart, and CPUs round differently: as other seeds.
    for seed in range(5):
        config = TrialConfig.from_params(
            {"norm": "batch", "attention_norm": attention_norm, "num_layers": 2, "epochs": 4,
             "batch_size": 32, "learning_rate": 0.01, "time_stride": 4, "keep": "last",
             "patience": 0, "seed": seed}
        )  # fmt: skip
        weights = fit(config, people, device="cpu", threads=1).weights
        trained = load_classifier(weights, "cpu")
        part = Part(people, "train", trained.normalisation, torch.device("cpu"))
        evaluated = _accuracy(part.logits(trained.model), part)
        # All windows as one batch: small batches' own noise is no matter of what was learned.
        with torch.no_grad():
            in_training = _accuracy(trained.model.train()(part.batch(slice(None))[0]), part)
        assert in_training > 0.75  # chance: 0.19
        differences.append(evaluated - in_training)
        for layer in trained.model.modules():  # without what it learned, batch norm would be lost
            if isinstance(layer, StepBatchNorm):
                layer.running_mean.zero_()
                layer.running_var.fill_(1.0)
        assert _accuracy(part.logits(trained.model), part) < in_training - 0.05
    assert np.mean(differences) == pytest.approx(0, abs=0.01)
