"""On a GPU everything is what it is on the CPU. Skipped, and said so, where there is none."""

import copy

import numpy as np
import pytest
import torch

from benchmarks.cuda import measure
from model.baselines import BNLSTM, LSTM, StackedResidualBiLSTM
from model.config import TrialConfig
from model.estimator import LARNNClassifier
from model.evaluation import evaluate, load_classifier
from model.layer import LARNN
from model.training import fit
from tests.model_tests.tiny_data import tiny

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
LARNNS = {
    "defaults": {},
    "layer mode": {"mode": "layer", "attention_activation": "gelu", "stacking": "residual"},
    "batch norm": {"norm": "batch", "attention_norm": "batch"},
    "positions": {"positional_encoding": "static", "attention_norm": "layer", "norm": "none"},
}
BASELINES = {"LSTM": LSTM, "BNLSTM": BNLSTM, "StackedResidualBiLSTM": StackedResidualBiLSTM}


def outcome(layer, x, lengths, device, training):
    """Output, gradients and buffers of one pass on a device, brought back to the CPU."""
    layer = copy.deepcopy(layer).to(device).train(training)
    x = x.to(device).requires_grad_()
    output, _ = layer(x, lengths=None if lengths is None else lengths.to(device))
    if training or isinstance(layer, LARNN):  # cuDNN's LSTMs have gradients in training alone
        weights = torch.linspace(-1, 1, output.numel(), device=device).view_as(output)
        (output * weights).sum().backward()
    found = {"output": output} | ({} if x.grad is None else {"x.grad": x.grad})
    found |= {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    found |= dict(layer.named_buffers())
    return {name: value.detach().cpu() for name, value in found.items()}


def assert_same_on_both(layer, lengths, training):
    torch.manual_seed(1)
    x = torch.randn(7, 5, 3, dtype=torch.float64)
    layer = layer.double()
    expected = outcome(layer, x, lengths, "cpu", training)
    found = outcome(layer, x, lengths, DEVICE, training)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-8, atol=1e-9, msg=lambda told, name=name: f"{name}: {told}"
        )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [None, torch.tensor([7, 3, 5, 2, 7])], ids=["whole", "varying"])
@pytest.mark.parametrize("fields", LARNNS)
def test_a_larnn_is_the_same(fields, lengths, training):
    torch.manual_seed(0)
    layer = LARNN(3, 4, 2, num_heads=2, window_size=3, backend="torch", **LARNNS[fields])
    assert_same_on_both(layer, lengths, training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [None, torch.tensor([7, 3, 0, 2, 7])], ids=["whole", "varying"])
@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_the_same(name, lengths, training):
    torch.manual_seed(0)
    assert_same_on_both(BASELINES[name](3, 4, 2), lengths, training)


def test_a_sequence_in_pieces_and_what_it_looked_at():
    torch.manual_seed(0)
    layer = LARNN(3, 4, 2, num_heads=2, window_size=3).double().eval().to(DEVICE)
    x = torch.randn(9, 5, 3, dtype=torch.float64, device=DEVICE)
    with torch.no_grad():
        whole, end = layer(x)
        first, state = layer(x[:4])
        second, after = layer(x[4:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(after.queue, end.queue)
    looked = layer.attention(x)
    assert looked.device.type == DEVICE
    torch.testing.assert_close(looked, copy.deepcopy(layer).cpu().attention(x.cpu()).to(DEVICE))


@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize("cell", ["larnn", "lstm"])
def test_weights_trained_there_serve_here(cell, precision):
    config = TrialConfig.from_params(
        {"cell": cell, "num_layers": 1, "epochs": 12, "batch_size": 16, "learning_rate": 0.02,
         "precision": precision}
    )  # fmt: skip
    data = tiny(sequences=240, lengths=True)
    result = fit(config, data, device=DEVICE)
    assert result.device == DEVICE
    assert result.best.validation_accuracy > 0.6  # chance: 0.33
    here, there = (evaluate(result.weights, data, "test", device=d) for d in ("cpu", DEVICE))
    assert here["loss"] == pytest.approx(there["loss"], rel=1e-3)
    shares = [load_classifier(result.weights, d).probabilities(data.x) for d in ("cpu", DEVICE)]
    np.testing.assert_allclose(*shares, atol=1e-3)


def test_the_estimator_chooses_the_gpu():
    data = tiny()
    made = LARNNClassifier(epochs=1, num_layers=1, device=DEVICE).fit(data.x, data.y)
    assert made.predict(data.x).shape == (60,)


def test_a_step_takes_a_bounded_multiple_of_cudnns(record_property):
    """Against a step that has become hopeless; `make bench-cuda` gives the figures."""
    cudnn, *others = measure(DEVICE, rounds=3).items()
    for name, seconds in others:
        ratio = seconds / cudnn[1]
        print(f"{name}: {ratio:.1f} times {cudnn[0]}")
        record_property(name, ratio)
        assert ratio < 1000, name  # tens of thousands of small operations against one kernel
