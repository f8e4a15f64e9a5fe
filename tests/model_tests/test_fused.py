"""The fused kernel computes what the oracle computes, and behaves as autograd expects."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import fused
from model.attention import ACTIVATIONS
from model.layer import LARNN
from tests.model_tests.test_reference import FIELDS, assert_same, make_layer, make_state


@pytest.fixture(autouse=True)
def fused_backend(compiler, double, monkeypatch):
    """Float64, one thread, and nothing but the kernel."""
    monkeypatch.setenv("LARNN_BACKEND", "fused")


@pytest.fixture
def no_torch_path(monkeypatch):
    def refuse(*_):
        raise AssertionError("the PyTorch path ran")

    monkeypatch.setattr("model.cell.run_sequence", refuse)


GRID = [dict(zip(FIELDS, values, strict=True)) for values in itertools.product(*FIELDS.values())]
# A block has 8 lanes: fewer sequences, just so many, part of a third block; a head wider than a
# chunk; windows of 1, shorter and longer than the sequence.
SHAPES = [
    {"batch": 3, "steps": 1, "window": 3},
    {"batch": 8, "steps": 6, "window": 1},
    {"batch": 19, "steps": 5, "window": 3, "heads": 3, "head_size": 3},
    {"batch": 9, "steps": 4, "window": 9, "heads": 1, "head_size": 11, "input_size": 7},
    {"batch": 10, "steps": 7, "window": 4, "heads": 5, "head_size": 1, "layers": 1},
]


@pytest.mark.usefixtures("no_torch_path")
@pytest.mark.parametrize("number", range(60))
def test_every_field_agrees_with_the_oracle(number):
    fields = random.Random(7).sample(GRID, 60)[number]
    shape = dict(SHAPES[number % len(SHAPES)])
    batch, steps = shape.pop("batch"), shape.pop("steps")
    layer = make_layer(number, **fields, **shape).train(number % 3 > 0)
    torch.set_num_threads(1 + number % 2)
    x = torch.randn(steps, batch, layer.input_size)
    state = make_state(layer, [number % 4] * batch) if number % 2 else None
    draw = random.Random(number)  # one sequence is whole: of none there is no gradient
    ends = [steps, *(draw.randint(0, steps) for _ in range(batch - 1))]
    assert_same(layer, x, state, ends if number % 3 == 1 else None)


@pytest.mark.usefixtures("no_torch_path")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize(
    ("threads", "window", "batch", "seen"), [(1, 3, 19, 2), (2, 9, 26, 0), (3, 3, 42, 5)]
)
def test_keys_that_change_with_age(threads, window, batch, seen, norm, training):
    torch.set_num_threads(threads)
    layer = make_layer(
        threads,
        heads=3,
        layers=1,
        window=window,
        attention_norm=norm,
        attention_activation="tanh",
        positional_encoding="static",
    )
    x = torch.randn(6, batch, layer.input_size)
    ends = [6, *(random.Random(batch).randint(0, 5) for _ in range(batch - 1))]
    assert_same(layer.train(training), x, make_state(layer, [seen] * batch), ends)


@settings(max_examples=15)
@given(data=st.data())
def test_drawn_layers_agree_with_the_oracle(data):
    fields = data.draw(st.fixed_dictionaries({n: st.sampled_from(v) for n, v in FIELDS.items()}))
    shape = {
        name: data.draw(st.integers(1, 4))
        for name in ("input_size", "heads", "head_size", "layers", "window")
    }
    if shape["heads"] * shape["head_size"] == 1:
        shape["heads"] = 2  # layer norm needs two features
    batch, steps = data.draw(st.integers(2, 20)), data.draw(st.integers(1, 6))
    layer = make_layer(data.draw(st.integers(0, 99)), **shape, **fields)
    assert_same(layer.train(data.draw(st.booleans())), torch.randn(steps, batch, layer.input_size))


def pair(**fields):
    """The same layer on both backends."""
    settings = {"num_heads": 2, "window_size": 3, "num_layers": 2} | fields
    layers = [LARNN(3, 4, backend=name, **settings) for name in ("fused", "torch")]
    layers[1].load_state_dict(layers[0].state_dict())
    return layers


@pytest.mark.parametrize("place", ["hidden", "output"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_dropout_draws_from_the_generator_as_the_torch_path_does(norm, place):
    x = torch.randn(5, 6, 3)
    results = []
    for layer in pair(norm=norm, dropout=0.4, dropout_on=place):
        torch.manual_seed(3)
        output, _ = layer(x)
        gradients = torch.autograd.grad(output.square().sum(), layer.parameters())
        results.append([output, *gradients])
    assert (results[0][0] == 0).any()
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_activations_agree_far_from_zero(activation, dtype, rtol):
    x = torch.randn(5, 6, 3, dtype=dtype) * 20
    results = []
    for layer in pair(attention_activation=activation, norm="none", num_layers=1):
        output, _ = layer.to(dtype)(x)
        results.append([output, *torch.autograd.grad(output.square().sum(), layer.parameters())])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_too_small_to_be_normal_are_zero_within_the_kernel_alone(threads):
    torch.set_num_threads(threads)
    layer = LARNN(3, 4, num_heads=2, window_size=3, norm="none").float()
    output, _ = layer(torch.randn(5, 40, 3, dtype=torch.float32))
    output.backward(torch.full_like(output, 1e-40))
    assert not any(parameter.grad.any() for parameter in layer.parameters())
    assert torch.tensor(1e-40, dtype=torch.float32) * 1.0 > 0


def test_gradcheck():
    layer = LARNN(2, 4, num_heads=2, window_size=2, norm="batch", attention_activation="tanh")

    def run(x, *_):
        output, state = layer(x)
        return output, state.queue

    inputs = (torch.randn(3, 3, 2, requires_grad=True), *layer.parameters())
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("place", ["hidden", "output"])
def test_gradcheck_with_dropout(place):
    layer = LARNN(2, 4, num_heads=2, window_size=2, norm="layer", dropout=0.3, dropout_on=place)

    def run(x, *_):
        torch.manual_seed(5)  # drops the same values in every call
        output, state = layer(x, lengths=torch.tensor([4, 2, 3]))
        return output, state.hidden, state.queue

    inputs = (torch.randn(4, 3, 2, requires_grad=True), *layer.parameters())
    assert (run(*inputs)[0][:2] == 0).any()
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("positions", ["none", "static"])
def test_the_same_threads_give_the_same_bits(threads, norm, positions):
    torch.set_num_threads(threads)
    layer = make_layer(4, norm=norm, attention_norm=norm, positional_encoding=positions).float()
    x = torch.randn(6, 40, 3, dtype=torch.float32)
    runs = [torch.autograd.grad(layer(x)[0].sum(), layer.parameters()) for _ in range(3)]
    for run in runs[1:]:
        assert all(
            torch.equal(found, expected) for found, expected in zip(run, runs[0], strict=True)
        )


def test_nan_shows_in_the_output():
    layer = make_layer(7, norm="layer")
    x = torch.randn(4, 5, 3)
    x[1, 2] = float("nan")
    output, _ = layer(x)
    assert output[1:, 2].isnan().all()
    assert output[:, 3].isfinite().all()


def test_extreme_values_stay_finite():
    layer = make_layer(8, norm="none", attention_activation="elu").float()
    x = torch.randn(4, 5, 3, dtype=torch.float32, requires_grad=True)
    output, _ = layer(x * 1e4)
    output.sum().backward()
    assert output.isfinite().all()
    assert x.grad.isfinite().all()


def test_tensors_of_different_types_are_refused():
    layer = make_layer(9, layers=1)
    layer.cells[0].attended.float()
    with pytest.raises(ValueError, match=r"got torch\.float32 on cpu, torch\.float64"):
        layer(torch.randn(3, 3, 3))


@pytest.fixture
def no_kernel(monkeypatch):
    def refuse(*_):
        raise AssertionError("the kernel ran")

    monkeypatch.setattr("model.fused.sequence.FusedSequence.apply", refuse)


@pytest.mark.usefixtures("no_kernel")
def test_autocast_runs_on_torch():
    layer = make_layer(9).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.backend == "torch"
        output, _ = layer(torch.randn(3, 3, 3, dtype=torch.float32))
    output.sum().backward()
    assert layer.backend == "fused"


# The tracer instantiates autograd functions, and looks at gradients unless there are none.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_layers_run_on_torch(monkeypatch):
    layer = make_layer(9, layers=1)
    x = torch.randn(2, 3, 3)
    with torch.no_grad():
        expected, _ = layer(x)
        monkeypatch.setattr("model.fused.sequence.FusedSequence.apply", None)
        output, _ = torch.compile(layer, backend="eager")(x)
    torch.testing.assert_close(output, expected)


def test_what_the_kernel_cannot_take_runs_on_torch():
    layer = make_layer(9, norm="layer")
    uneven = make_state(layer, [0, 2, 1])
    assert_same(layer, torch.randn(3, 3, 3), uneven)  # windows that differ between sequences


def test_backend_says_which_path_runs(monkeypatch):
    layer = LARNN(3, 4, num_heads=2, window_size=3, backend="auto")
    assert layer.backend == "fused"
    assert layer.half().backend == "torch"
    assert LARNN(3, 4, num_heads=2, window_size=3, backend="torch").backend == "torch"
    with pytest.raises(ValueError, match="backend must be one of auto, fused, torch, got 'quick'"):
        LARNN(3, 4, num_heads=2, window_size=3, backend="quick")
    monkeypatch.setenv("LARNN_BACKEND", "torch")
    assert LARNN(3, 4, num_heads=2, window_size=3).backend == "torch"
    assert fused.choose_backend("fused") == "fused"


@pytest.mark.parametrize(
    ("bits", "whole", "dtype"),
    [
        (-1, torch.int32, torch.float32),
        (0x7FC00001, torch.int32, torch.float32),
        (0x7FF00000000007A2, torch.int64, torch.float64),  # R's NA
    ],
)
def test_a_nan_is_one_whatever_it_carries(bits, whole, dtype):
    layer = make_layer(7, norm="none", attention_activation="tanh").to(dtype)
    x = torch.randn(3, 9, 3, dtype=dtype)
    x[1, 2, 0] = torch.tensor([bits], dtype=whole).view(dtype)[0]
    output, _ = layer(x)
    assert output[1:, 2].isnan().all()


def test_a_default_device_does_not_reach_the_kernels_tables():
    layer = make_layer(4, norm="batch", attention_norm="batch")
    x = torch.randn(5, 6, 3)
    expected, _ = layer.eval()(x)
    with torch.device("meta"):
        output, _ = layer(x)
    torch.testing.assert_close(output, expected)
