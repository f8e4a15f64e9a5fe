"""The PyTorch path lets go of a call's window when its graph is gone."""

import gc
import weakref

import torch

from model import cell
from model.layer import LARNN


def test_a_training_step_leaves_no_window_behind(double, monkeypatch):
    alive = weakref.WeakSet()

    class Watched(cell.Window):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.add(self)

    monkeypatch.setattr(cell, "Window", Watched)
    layer = LARNN(3, 4, 2, num_heads=2, window_size=3, stacking="plain")
    output, state = layer(torch.ones(6, 2, 3))
    assert len(alive) == 2
    output.sum().backward()
    del output, state
    gc.collect()
    assert not alive
