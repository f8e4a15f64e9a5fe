"""What a call keeps, hands on and lets go, on both paths."""

import gc
import weakref

import pytest
import torch

from model import fused, sequence
from model.memory import POOL, release_memory
from tests.model_tests.test_reference import make_layer


@pytest.fixture(autouse=True)
def one_path(backend, double, monkeypatch):
    """Float64, one thread, and one of the two."""
    monkeypatch.setenv("LARNN_BACKEND", backend)


def test_retained_graphs_give_the_same_gradients_twice():
    layer = make_layer(1, norm="batch", attention_norm="batch")
    output, _ = layer(torch.randn(4, 5, 3))
    first = torch.autograd.grad(output.sum(), layer.parameters(), retain_graph=True)
    again = torch.autograd.grad(output.sum(), layer.parameters())
    for found, expected in zip(again, first, strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(RuntimeError, match="second time"):
        output.sum().backward()


def test_backward_releases_what_forward_saved():
    output, _ = make_layer(1)(torch.randn(4, 5, 3))
    node = output.grad_fn
    while "Sequence" not in type(node).__name__:
        node = node.next_functions[0][0]
    assert node.saved_tensors[0].numel() > 0
    output.sum().backward()
    with pytest.raises(RuntimeError, match="freed"):
        _ = node.saved_tensors  # gone, though the output and its graph still live


def resident():
    """Bytes of memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_a_thousand_steps_leak_nothing():
    layer = make_layer(2, norm="batch", layers=1)
    x = torch.randn(10, 64, 3)

    def train(steps):
        for _ in range(steps):
            layer(x)[0].sum().backward()

    train(50)
    before = resident()
    train(1000)
    saved = 10 * 64 * layer.hidden_size * 10 * 8
    assert resident() - before < 100 * saved  # each step saves so much; a leak keeps 1,000 of them


def test_a_training_step_leaves_nothing_behind(backend, monkeypatch):
    """No circle from autograd's graph to itself, which no garbage collector would see."""
    module, name = (fused.sequence, "KernelCall") if backend == "fused" else (sequence, "Call")
    alive = weakref.WeakSet()

    class Watched(getattr(module, name)):
        __hash__ = object.__hash__

        def __init__(self, **fields):
            super().__init__(**fields)
            alive.add(self)

    monkeypatch.setattr(module, name, Watched)
    output, state = make_layer(1, layers=2)(torch.randn(4, 5, 3))
    assert len(alive) == 2
    output.sum().backward()
    del output, state
    gc.collect()
    assert not alive


def test_uninitialised_memory_changes_nothing(monkeypatch):
    x = torch.randn(5, 11, 3)
    layer = make_layer(6, norm="batch", attention_norm="batch", attention_activation="gelu")
    expected = torch.autograd.grad(layer(x)[0].sum(), layer.parameters())
    take = POOL.take
    monkeypatch.setattr(POOL, "take", lambda size: take(size).fill_(0xFF))  # bytes of a NaN
    found = torch.autograd.grad(layer(x)[0].sum(), layer.parameters())
    for gradient, wanted in zip(found, expected, strict=True):
        assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("activation", ["elu", "gelu"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_without_gradients_steps_are_not_kept(norm, activation, monkeypatch):
    layer = make_layer(9, norm=norm, attention_norm=norm, attention_activation=activation, layers=1)
    x = torch.randn(60, 19, 3)
    taken, take = [], POOL.take

    def counted(size):
        taken.append(size)
        return take(size)

    monkeypatch.setattr(POOL, "take", counted)
    expected, _ = layer(x)
    kept = taken[0]
    for context in (torch.no_grad, torch.inference_mode):
        taken.clear()
        with context():
            assert torch.equal(layer(x)[0], expected)
        assert taken[0] < kept / 3


def test_frozen_weights_still_pass_gradients_on(backend):
    layer = make_layer(9).requires_grad_(False)
    assert layer.backend == backend
    x = torch.randn(4, 5, 3, requires_grad=True)
    layer(x)[0].square().sum().backward()
    assert x.grad.abs().max() > 0


def test_released_memory_goes_back_to_the_system():
    layer = make_layer(2, layers=1)
    saved = 500 * 320 * layer.hidden_size * 10 * 8
    layer(torch.randn(500, 320, 3))[0].sum().backward()
    before = resident()
    release_memory()
    assert before - resident() > saved / 2
