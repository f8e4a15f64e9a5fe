"""The PyTorch path lets go of a call's windows and sums when its graph is gone."""

import gc
import weakref

import pytest
import torch

from model import cell, linear
from model.layer import LARNN


def watch(monkeypatch, module, name):
    """The objects of a module's class that live."""
    alive = weakref.WeakSet()

    class Watched(getattr(module, name)):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.add(self)

    monkeypatch.setattr(module, name, Watched)
    return alive


@pytest.mark.parametrize(
    ("module", "name", "per_layer"), [(cell, "Window", 1), (linear, "_Sums", 4)]
)
def test_a_training_step_leaves_nothing_behind(module, name, per_layer, double, monkeypatch):
    alive = watch(monkeypatch, module, name)
    layer = LARNN(3, 4, 2, num_heads=2, window_size=3, stacking="plain")
    output, state = layer(torch.ones(6, 2, 3))
    assert len(alive) == 2 * per_layer
    output.sum().backward()
    del output, state
    gc.collect()
    assert not alive
