"""The fast path against the oracle: outputs, states, gradients, statistics."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import reference
from model.layer import LARNN, LARNNState
from model.norm import StepBatchNorm

pytestmark = pytest.mark.usefixtures("double")

FIELDS = {
    "mode": ("residual", "layer"),
    "stacking": ("plain", "residual"),
    "attention_activation": ("none", "elu", "relu", "gelu", "tanh"),
    "attention_norm": ("none", "layer", "batch"),
    "cell_activation": ("elu", "tanh"),
    "norm": ("none", "layer", "batch"),
    "positional_encoding": ("none", "static"),
}


def make_layer(seed, input_size=3, heads=2, head_size=2, layers=2, window=3, **fields):
    torch.manual_seed(seed)
    layer = LARNN(
        input_size, heads * head_size, layers, num_heads=heads, window_size=window, **fields
    )
    with torch.no_grad():  # nothing may hide behind a weight of 1, a shift of 0, or an even moment
        for parameter in layer.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for module in layer.modules():
            if isinstance(module, StepBatchNorm):
                module._grow(4)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2.0)
                module.largest.fill_(4)  # some values are beyond 1.5 standard deviations
    return layer


def make_state(layer, steps):
    H, K, L = layer.hidden_size, layer.config.window_size, layer.config.num_layers
    steps = torch.as_tensor(steps)
    queue = torch.randn(L, K, len(steps), H)
    absent = torch.arange(K)[:, None] < K - 1 - steps  # [K, B]
    queue.masked_fill_(absent[None, :, :, None], 0)
    hidden = torch.randn(L, len(steps), H)
    return LARNNState(hidden.requires_grad_(), queue.requires_grad_(), steps)


def assert_same(layer, x, state=None, lengths=None):
    """Outputs, states, all gradients (of the inputs and the state, too), new statistics."""
    x.requires_grad_()
    wanted = [x, *layer.parameters()] + ([*state[:2]] if state else [])
    slow = reference.run(layer, x, state, lengths)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    output, after = layer(x, state, lengths=None if lengths is None else torch.tensor(lengths))
    torch.testing.assert_close(output, slow.output, rtol=1e-9, atol=1e-10)
    for found, expected in zip(after, slow.state, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    weights = [torch.randn_like(value) for value in (output, *after[:2])]

    def gradients(*values):
        loss = sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))
        return torch.autograd.grad(loss, wanted, allow_unused=True)

    pairs = zip(gradients(output, *after[:2]), gradients(slow.output, *slow.state[:2]), strict=True)
    names = ["x", *(name for name, _ in layer.named_parameters()), "state.hidden", "state.queue"]
    for name, value, (found, expected) in zip(names, wanted, pairs, strict=False):
        found, expected = (torch.zeros_like(value) if g is None else g for g in (found, expected))
        if name == "state.queue":  # slots without a cell are nobody's input
            found = found * (value != 0)
        torch.testing.assert_close(
            found, expected, rtol=1e-7, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert_statistics(layer, before, slow.moments)


def assert_statistics(layer, before, moments):
    """Every measured moment moved its step's statistics, and nothing else moved."""
    for number, cell in enumerate(layer.cells):
        for name, norm in cell.named_children():
            if not isinstance(norm, StepBatchNorm):
                continue
            old = {
                k: before[f"cells.{number}.{name}.{k}"]
                for k in ("running_mean", "running_var", "updates")
            }
            for step in range(len(norm.updates)):
                known = min(step, len(old["updates"]) - 1)
                mean, var = old["running_mean"][known], old["running_var"][known]
                count = old["updates"][step].item() if step < len(old["updates"]) else 0
                key = f"{number}.{name}.{step}"
                if key in moments:
                    pull = max(0.1, 1 / (count + 1))
                    mean = (1 - pull) * mean + pull * moments[key][0]
                    var = (1 - pull) * var + pull * moments[key][1]
                    count += 1
                torch.testing.assert_close(norm.running_mean[step], mean)
                torch.testing.assert_close(norm.running_var[step], var)
                assert norm.updates[step] == count


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("field", "value"), [(f, v) for f, vs in FIELDS.items() for v in vs])
def test_each_value_of_each_field(field, value, training):
    layer = make_layer(0, **{field: value}).train(training)
    assert_same(layer, torch.randn(6, 3, 3))


@pytest.mark.parametrize(
    ("attention_norm", "norm", "positional_encoding", "training"),
    list(
        itertools.product(
            ("none", "layer", "batch"), ("none", "batch"), ("none", "static"), (True, False)
        )
    ),
)
def test_norms_with_and_without_positions(attention_norm, norm, positional_encoding, training):
    layer = make_layer(
        1, attention_norm=attention_norm, norm=norm, positional_encoding=positional_encoding
    ).train(training)
    assert_same(layer, torch.randn(5, 4, 3), lengths=[5, 2, 4, 1])


@pytest.mark.parametrize(
    ("T", "B", "heads", "head_size", "window", "layers"),
    [
        (1, 1, 1, 2, 1, 1),
        (1, 3, 2, 1, 4, 2),
        (5, 1, 1, 3, 2, 1),
        (4, 2, 3, 2, 1, 3),
        (7, 3, 2, 2, 20, 1),
        (9, 2, 2, 2, 3, 2),  # more than one block of a matrix's gradient, and more than two
        (17, 3, 1, 3, 4, 1),
        (20, 2, 2, 2, 30, 1),
    ],
)
def test_sizes(T, B, heads, head_size, window, layers):
    layer = make_layer(2, heads=heads, head_size=head_size, window=window, layers=layers)
    assert_same(layer, torch.randn(T, B, 3))


@settings(max_examples=30, derandomize=True, database=None)
@given(data=st.data())
def test_any_combination(data):
    fields = {name: data.draw(st.sampled_from(values), name) for name, values in FIELDS.items()}
    size = {
        "heads": data.draw(st.integers(1, 3), "heads"),
        "head_size": data.draw(st.integers(1, 3), "head_size"),
        "layers": data.draw(st.integers(1, 3), "layers"),
        "window": data.draw(st.integers(1, 5), "window"),
    }
    if size["heads"] * size["head_size"] == 1:
        size["head_size"] = 2
    T, B = data.draw(st.integers(1, 6), "T"), data.draw(st.integers(2, 4), "B")
    training = data.draw(st.booleans(), "training")
    layer = make_layer(data.draw(st.integers(0, 99), "seed"), **size, **fields).train(training)
    lengths = data.draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B), "lengths")
    if lengths is not None:
        lengths[0] = T
    state = None
    if data.draw(st.booleans(), "carried"):
        together = training and "batch" in (fields["norm"], fields["attention_norm"])
        seen = data.draw(st.lists(st.integers(0, 7), min_size=B, max_size=B), "seen")
        state = make_state(layer, [seen[0]] * B if together else seen)
    assert_same(layer, torch.randn(T, B, 3), state, lengths)


def test_attention_weights():
    layer = make_layer(3, window=3).eval()
    x = torch.randn(5, 2, 3)
    shown = layer.attention(x)  # [L, B, N, T, K]
    slow = reference.run(layer, x).weights
    for number, step, b in itertools.product(range(2), range(5), range(2)):
        weights = slow[number][step][b]  # [N, slots]
        slots = weights.shape[1]
        torch.testing.assert_close(shown[number, b, :, step, -slots:], weights)
        assert (shown[number, b, :, step, :-slots] == 0).all()
