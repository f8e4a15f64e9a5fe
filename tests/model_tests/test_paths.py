"""Both paths at sizes at which blocks, threads and steps are many, and in float32."""

import pytest
import torch

from tests.model_tests.test_reference import make_layer

pytestmark = pytest.mark.usefixtures("double")

NORMS = ("none", "layer", "batch")


def outputs_and_gradients(layer, x):
    """By name; the loss weighs every output differently, and the gradients reach every step."""
    x = x.clone().requires_grad_()
    output, state = layer(x)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    names = ["x", *(name for name, _ in layer.named_parameters())]
    gradients = torch.autograd.grad((output * weights).sum(), [x, *layer.parameters()])
    values = zip(names, gradients, strict=True)
    return {"output": output, "queue": state.queue, **dict(values)}


def assert_close(found, expected, tolerance):
    """Every tensor within a share of its size: single elements may cancel."""
    for name, wanted in expected.items():
        off = (found[name].double() - wanted).norm() / wanted.norm()
        assert off < tolerance, f"{name} is off by {off:.1e} of its size"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.usefixtures("compiler")
def test_the_kernel_agrees_with_torch_on_wide_and_long_batches(norm):
    x = torch.randn(70, 70, 3)

    def run(backend):
        layer = make_layer(3, layers=1, window=5, norm=norm, attention_norm=norm, backend=backend)
        return outputs_and_gradients(layer, x)

    expected = run("torch")
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert_close(run("fused"), expected, 1e-9)


@pytest.mark.parametrize("backend", ["fused", "torch"])
@pytest.mark.parametrize("norm", NORMS)
def test_float32_is_close_to_float64(norm, backend, request):
    if backend == "fused":
        request.getfixturevalue("compiler")
    x = torch.randn(20, 40, 3)
    exact, layer = (
        make_layer(5, norm=norm, attention_norm=norm, heads=3, head_size=3, backend=name)
        for name in ("torch", backend)
    )
    expected = outputs_and_gradients(exact, x)
    found = outputs_and_gradients(layer.float(), x.float())
    assert found["output"].dtype is torch.float32
    assert_close(found, expected, 1e-3)


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_second_derivatives_are_refused_not_wrong(backend, request):
    if backend == "fused":
        request.getfixturevalue("compiler")
    layer = make_layer(0, norm="layer", backend=backend)
    x = torch.randn(6, 4, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
