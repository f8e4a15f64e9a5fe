"""Settings that several of the model's tests share."""

import shlex

import pytest
import torch

from model.fused import build


@pytest.fixture
def double(monkeypatch):
    """Compute in float64, on one thread, in PyTorch's own operations: tests of exactness."""
    monkeypatch.setenv("LARNN_BACKEND", "torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


@pytest.fixture
def compiler():
    """A C++ compiler; a machine without one computes with PyTorch, and has nothing to test here."""
    try:
        return shlex.join(build.find_compiler())
    except build.BuildError as error:
        pytest.skip(str(error))
