"""Settings that several of the model's tests share."""

import os
import shlex

import pytest
import torch

from model.fused import build

# cuBLAS asks for it before its first product, if any test is to compute deterministically.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


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


@pytest.fixture(params=["fused", "torch"])
def backend(request):
    """Both paths; the kernel where it can be built."""
    if request.param == "fused":
        request.getfixturevalue("compiler")
    return request.param


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ]
)
def device(request):
    """The CPU, and a GPU where there is one: what the test makes is made there."""
    torch.set_default_device(request.param)
    yield request.param
    torch.set_default_device(None)
