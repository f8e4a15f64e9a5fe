"""Lanes in which no sequence runs stay finite: they are normalised by moments they have no part in.

By others' moments, or by learned ones, a lane may be scaled up by as much as 316 a step.
"""

import pytest
import torch

from model.cpu import threads_of
from model.layer import LARNN


@pytest.fixture(autouse=True)
def one_thread():
    with threads_of(1):
        yield


def signals(steps, batch, mean, features=9, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(steps, batch, features, generator=generator)


def make_layer(x, backend, num_layers=2, attention_norm="none"):
    torch.manual_seed(0)
    return LARNN(
        x.shape[2],
        32,
        num_layers,
        num_heads=4,
        window_size=16,
        stacking="residual",
        norm="batch",
        attention_norm=attention_norm,
        backend=backend,
    )


def assert_finite(layer, x, lengths=None):
    output, state = layer(x, lengths=lengths)
    output.square().mean().backward()
    gradients = {name: value.grad for name, value in layer.named_parameters()}
    made = {"output": output, "hidden": state.hidden, "queue": state.queue, **gradients}
    for name, value in (made | dict(layer.named_buffers())).items():
        assert value.isfinite().all(), name


@pytest.mark.parametrize("attention_norm", ["none", "batch"])
def test_most_sequences_end_early(backend, attention_norm):
    x = signals(29, 32, mean=1)
    lengths = torch.full((32,), 7)
    lengths[:2] = 29
    assert_finite(make_layer(x, backend, attention_norm=attention_norm), x, lengths)


@pytest.mark.parametrize("training", [True, False])
def test_learned_moments_scale_ended_sequences(backend, training):
    """The last one that runs is normalised by them in training, and all are at evaluation."""
    x = 1 + signals(60, 4, mean=0) / 10
    layer = make_layer(x, backend, num_layers=1).train(training)
    cell, H = layer.cells[0], layer.hidden_size
    with torch.no_grad():  # the forget gates shut where there is input: only ended sequences grow
        cell.input_gates.weight[H : 2 * H] = -10
        cell.input_gates.bias[H : 2 * H] = 10
        cell.hidden_gates.weight[H : 2 * H] = 0
        cell.attention_gates.weight[H : 2 * H] = 0
        cell.cell_norm.running_var.fill_(0.01)
    assert_finite(layer, x, torch.tensor([60, 7, 7, 7]))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("batch", "mean", "features", "seed", "attention_norm"),
    [(5, 0, 12, 0, "none"), (17, 1, 9, 1, "batch")],
)
def test_batches_that_do_not_fill_the_kernels_lanes(batch, mean, features, seed, attention_norm):
    x = signals(128, batch, mean, features, seed)
    assert_finite(make_layer(x, "fused", attention_norm=attention_norm), x)
