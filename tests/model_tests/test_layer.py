"""What a user of the layer relies on: call shape, state, lengths, causality, live parameters."""

import itertools

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # the field's name for it
from torch.nn.utils.rnn import pack_sequence

from model.layer import LARNN, LARNNState
from model.norm import MAX_STEPS, StepBatchNorm

pytestmark = pytest.mark.usefixtures("double")

NORMS = ("none", "layer", "batch")


def make_layer(seed=0, hidden_size=4, **fields):
    torch.manual_seed(seed)
    settings = {"num_layers": 2, "num_heads": 2, "window_size": 3, "stacking": "residual"}
    return LARNN(3, hidden_size, **(settings | fields))


def trained_a_little(layer, batches=3):
    """Give batch norms statistics of their own."""
    for _ in range(batches):
        layer(torch.randn(9, 6, 3) * 2 + 1)
    return layer.eval()


def cut(state):
    return LARNNState(*(part.detach() for part in state))


@pytest.mark.parametrize(
    ("norm", "attention_norm", "activation", "positional_encoding", "mode"),
    list(
        itertools.product(NORMS, NORMS, ("none", "elu"), ("none", "static"), ("residual", "layer"))
    ),
)
def test_every_parameter_is_live(norm, attention_norm, activation, positional_encoding, mode):
    layer = make_layer(  # wide enough that no ELU is in its linear part for all units and inputs
        hidden_size=8,
        norm=norm,
        attention_norm=attention_norm,
        attention_activation=activation,
        positional_encoding=positional_encoding,
        mode=mode,
    )
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    output, _ = layer(torch.randn(6, 8, 3))
    (output * torch.randn_like(output)).sum().backward()
    optimizer.step()
    for name, value in layer.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().max() > 1e-8, name
        assert not torch.equal(value, before[name]), name


def test_parameters_of_every_layer_are_registered():
    layer = make_layer(num_layers=3)
    for number, cell in enumerate(layer.cells):
        assert [name for name, _ in layer.named_parameters() if f"cells.{number}." in name]
        assert cell.query.in_features == (3 if number == 0 else 4) + 4


def test_every_layer_uses_its_own_cell_on_the_layer_below():
    layer = make_layer(stacking="plain")
    x = torch.randn(5, 2, 3)
    first, second = (LARNN(size, 4, num_heads=2, window_size=3) for size in (3, 4))
    first.cells[0].load_state_dict(layer.cells[0].state_dict())
    second.cells[0].load_state_dict(layer.cells[1].state_dict())
    below, _ = first(x)
    above, _ = second(below)
    torch.testing.assert_close(layer(x)[0], above)
    layer.config = type(layer.config)(**(vars(layer.config) | {"stacking": "residual"}))
    torch.testing.assert_close(layer(x)[0], above + below)


@pytest.mark.parametrize("pieces", [(1,) * 9, (4, 5), (7, 2)])
@pytest.mark.parametrize("positional_encoding", ["none", "static"])
@pytest.mark.parametrize("norm", NORMS)
def test_pieces_give_what_one_pass_gives(norm, positional_encoding, pieces):
    layer = make_layer(norm=norm, attention_norm=norm, positional_encoding=positional_encoding)
    trained_a_little(layer)
    x = torch.randn(9, 3, 3)
    whole, last = layer(x)
    outputs, state = [], None
    for piece in x.split(pieces):
        output, state = layer(piece, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs), whole, rtol=0, atol=1e-10)
    for found, expected in zip(state, last, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_gradients_flow_through_a_carried_state():
    layer = make_layer().eval()
    x = torch.randn(6, 2, 3, requires_grad=True)
    whole = torch.autograd.grad(layer(x)[0].square().sum(), x)[0]
    first, state = layer(x[:4])
    second, _ = layer(x[4:], state)
    pieces = torch.autograd.grad(first.square().sum() + second.square().sum(), x)[0]
    torch.testing.assert_close(pieces, whole)


def test_layouts_are_the_same_numbers():
    layer = make_layer().eval()
    batch_first = make_layer(batch_first=True).eval()
    x = torch.randn(5, 2, 3)
    output, state = layer(x)
    turned, turned_state = batch_first(x.transpose(0, 1))
    assert output.shape == (5, 2, 4)
    torch.testing.assert_close(turned.transpose(0, 1), output)
    single, single_state = layer(x[:, 1])
    torch.testing.assert_close(single, output[:, 1])
    torch.testing.assert_close(layer(x[:, 1], single_state)[0], layer(x, state)[0][:, 1])
    torch.testing.assert_close(turned_state.hidden, state.hidden)
    assert state.hidden.shape == (2, 2, 4)
    assert state.queue.shape == (2, 3, 2, 4)
    assert state.steps.tolist() == [5, 5]
    torch.testing.assert_close(state.cell, state.queue[:, -1])


def test_attention_shows_what_was_looked_at():
    layer = make_layer(window_size=4)
    x = torch.randn(6, 5, 3)
    weights = layer.attention(x)
    assert weights.shape == (2, 5, 2, 6, 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, 2, 6))
    for step in range(3):  # one cell before the first step, then one more each
        assert (weights[..., step, : 3 - step] == 0).all()
        assert (weights[..., step, 3 - step :] > 0).all()
    assert layer.attention(x[:, 0]).shape == (2, 2, 6, 4)
    assert layer.training


def test_attention_ends_with_its_sequence():
    layer, lengths = make_layer(), torch.tensor([6, 2, 0])
    x = torch.randn(6, 3, 3)
    _, state = layer(torch.randn(4, 3, 3))
    whole = layer.attention(x, state)
    ended = (torch.arange(6)[:, None] >= lengths)[..., None]
    weights = layer.attention(x.masked_fill(ended, float("nan")), tuple(state), lengths=lengths)
    for sequence, length in enumerate(lengths.tolist()):
        assert torch.equal(weights[:, sequence, :, :length], whole[:, sequence, :, :length])
        assert (weights[:, sequence, :, length:] == 0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_steps_after_a_sequence_ended_change_nothing(norm, training):
    layer = trained_a_little(make_layer(norm=norm, attention_norm=norm)).train(training)
    twin = make_layer(norm=norm, attention_norm=norm)
    twin.load_state_dict(layer.state_dict())
    twin.train(training)
    lengths = torch.tensor([7, 2, 0, 5, 7])
    x = torch.randn(7, 5, 3)
    spoilt = x.masked_fill((torch.arange(7)[:, None] >= lengths)[..., None], float("nan"))
    output, state = layer(x, lengths=lengths)
    other, other_state = twin(spoilt, lengths=lengths)
    assert torch.equal(output, other)
    for found, expected in zip(other_state, state, strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(twin.buffers(), layer.buffers(), strict=True):
        assert torch.equal(found, expected)
    other.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in twin.parameters())
    for b, length in enumerate(lengths.tolist()):
        assert (output[length:, b] == 0).all()
    assert state.steps.tolist() == lengths.tolist()
    assert (state.hidden[:, 2] == 0).all()
    if not training:  # alone, each sequence gives the same
        for b in (0, 1, 3):
            alone, alone_state = layer(x[: lengths[b], b])
            torch.testing.assert_close(output[: lengths[b], b], alone)
            torch.testing.assert_close(state.queue[:, :, b], alone_state.queue)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_lengths_may_be_any_whole_numbers(kind, backend):
    layer, x = make_layer(backend=backend), torch.randn(4, 3, 3)
    lengths = torch.tensor([4, 1, 2])
    output, state = layer(x, lengths=lengths)
    other, other_state = layer(x, lengths=lengths.to(kind))
    assert torch.equal(output, other)
    for found, expected in zip(other_state, state, strict=True):
        assert torch.equal(found, expected)


def test_a_state_may_be_a_plain_tuple(backend):
    layer, x = make_layer(backend=backend), torch.randn(4, 2, 3)
    _, state = layer(x)
    plain = tuple(part.detach() for part in state)
    assert torch.equal(layer(x, plain)[0], layer(x, state)[0])
    assert torch.equal(layer.attention(x, plain), layer.attention(x, state))


def test_sequences_of_different_age_go_on_together():
    layer = trained_a_little(make_layer(norm="batch", attention_norm="batch"))
    x = torch.randn(6, 2, 3)
    _, state = layer(x, lengths=torch.tensor([6, 1]))
    output, _ = layer(x, state)
    for b, seen in enumerate((6, 1)):
        whole, _ = layer(torch.cat([x[:seen, b], x[:, b]]))
        torch.testing.assert_close(output[:, b], whole[seen:])


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("positional_encoding", ["none", "static"])
def test_gradcheck(norm, positional_encoding):
    layer = make_layer(norm=norm, positional_encoding=positional_encoding, attention_norm=norm)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *parameters):
        values = dict(zip(names, parameters, strict=True))
        output, state = torch.func.functional_call(layer, values, (x,))
        return output, state.hidden, state.queue

    parameters = [value.detach().clone().requires_grad_() for value in layer.parameters()]
    x = torch.randn(4, 3, 3, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


@pytest.mark.usefixtures("device")
def test_the_future_does_not_reach_back():
    layer = trained_a_little(make_layer(norm="batch"))
    x = torch.randn(8, 2, 3)
    changed = x.clone()
    changed[5:] += 1
    assert torch.equal(layer(x)[0][:5], layer(changed)[0][:5])
    assert not torch.equal(layer(x)[0][5:], layer(changed)[0][5:])


@pytest.mark.usefixtures("device")
def test_the_window_ends_where_it_says():
    """With the recurrence cut, attention alone carries the past."""
    layer = make_layer(num_layers=1, window_size=3, norm="none").eval()
    cell, H = layer.cells[0], layer.hidden_size
    with torch.no_grad():
        cell.hidden_gates.weight.zero_()
        cell.query.weight[:, -H:].zero_()
        cell.attention_gates.weight[:].normal_()
        for matrix in (cell.input_gates.weight, cell.attention_gates.weight):
            matrix[H : 2 * H].zero_()
        cell.input_gates.bias[H : 2 * H].fill_(-1e4)  # the forget gate is shut
        cell.attention_gates.weight[: 3 * H].zero_()  # cells hear no attention, outputs do
    x = torch.randn(8, 1, 3, requires_grad=True)
    output, _ = layer(x)
    for step in range(8):
        reach = torch.autograd.grad(output[step].sum(), x, retain_graph=True)[0].abs().sum((1, 2))
        for past in range(step):
            # step s made cell s + 1, which steps s + 1 to s + window_size look at
            assert (reach[past] > 0) == (step - past <= 3), (step, past)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("positional_encoding", ["none", "static"])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_uninitialised_memory_is_never_read(norm, positional_encoding):
    layer = make_layer(norm=norm, attention_norm=norm, positional_encoding=positional_encoding)
    x = torch.randn(6, 4, 3)
    lengths = torch.tensor([6, 3, 4, 6])

    def results():
        layer.zero_grad()
        output, state = layer(x, lengths=lengths)
        output.sum().backward()
        return [output, *state, *(value.grad.clone() for value in layer.parameters())]

    plain = results()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        assert torch.empty(2).isnan().all()  # the poison works
        poisoned = results()
    finally:
        torch.use_deterministic_algorithms(False)
    for found, expected in zip(poisoned, plain, strict=True):
        # Deterministic mode may add in another order on a GPU.
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_what_comes_out_is_no_view_of_what_backward_needs():
    layer = make_layer(num_layers=1, stacking="plain")
    for shape in ((1, 1, 3), (5, 1, 3)):
        output, state = layer(torch.randn(shape))
        for part in (output, *state):
            assert part.untyped_storage().nbytes() == part.nbytes
        output.relu_().sum().backward()


def test_calls_share_nothing():
    layer = make_layer().eval()
    x, y = torch.randn(2, 5, 2, 3)
    alone, _ = layer(x)
    first, _ = layer(x)
    layer(y)  # between the two, and while the first one's graph is alive
    assert torch.equal(first, alone)
    expected = torch.autograd.grad(alone.sum(), layer.parameters())
    found = torch.autograd.grad(first.sum(), layer.parameters())
    assert all(map(torch.equal, found, expected))


def test_backward_can_run_twice_and_in_parts():
    layer = make_layer().eval()
    x = torch.randn(6, 2, 3, requires_grad=True)
    output, _ = layer(x)
    whole = torch.autograd.grad(output.sum(), x, retain_graph=True)[0]
    again = torch.autograd.grad(output.sum(), x, retain_graph=True)[0]
    assert torch.equal(again, whole)
    parts = [torch.autograd.grad(output[t].sum(), x, retain_graph=True)[0] for t in range(6)]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("place", ["hidden", "output"])
def test_dropout_is_drawn_by_the_global_seed_and_only_in_training(place):
    layer = make_layer(dropout=0.5, dropout_on=place, num_layers=1, stacking="plain")
    x = torch.randn(50, 20, 3)
    torch.manual_seed(1)
    first, _ = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x)[0], first)
    assert not torch.equal(layer(x)[0], first)
    assert (first == 0).double().mean() == pytest.approx(0.5, abs=0.05)
    assert (layer.eval()(x)[0] != 0).all()


@pytest.mark.parametrize("place", ["hidden", "output"])
def test_dropped_values_are_scaled(place):
    layer = make_layer(dropout=0.25, dropout_on=place, num_layers=1, stacking="plain")
    x = torch.randn(1, 100, 3)
    dropped, whole = layer(x)[0], layer.eval()(x)[0]
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)


@pytest.mark.parametrize("stacking", ["plain", "residual"])
def test_dropout_on_the_output_drops_between_layers_and_leaves_the_recurrence_alone(stacking):
    layer = make_layer(dropout=0.25, dropout_on="output", num_layers=2, stacking=stacking)
    x, lengths = torch.randn(9, 4, 3), torch.tensor([9, 9, 5, 0])
    first, second = (LARNN(size, 4, num_heads=2, window_size=3) for size in (3, 4))
    for one, cell in zip((first, second), layer.cells, strict=True):
        one.cells[0].load_state_dict(cell.state_dict())
    torch.manual_seed(1)
    output, state = layer(x, lengths=lengths)
    torch.manual_seed(1)
    below, lower = first(x, lengths=lengths)
    below = F.dropout(below, 0.25)
    above, upper = second(below, lengths=lengths)
    above = F.dropout(above, 0.25)
    assert (below[:5, :3] == 0).any()
    torch.testing.assert_close(output, above + below if stacking == "residual" else above)
    torch.testing.assert_close(state.hidden, torch.cat([lower.hidden, upper.hidden]))
    torch.testing.assert_close(state.queue, torch.cat([lower.queue, upper.queue]))
    assert (output[5:, 2] == 0).all()
    assert (output[:, 3] == 0).all()


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_statistics_survive_saving(norm):
    layer = trained_a_little(make_layer(norm=norm, attention_norm=norm))
    twin = make_layer(seed=1, norm=norm, attention_norm=norm).eval()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(12, 2, 3)  # longer than what was trained on
    assert torch.equal(twin(x)[0], layer(x)[0])


def test_steps_beyond_the_longest_seen_use_the_last_statistics():
    layer = trained_a_little(make_layer(norm="batch"))  # on 9 steps
    x = torch.randn(1, 2, 3)
    _, state = layer(torch.randn(4, 2, 3))
    outputs = [
        layer(x, state._replace(steps=torch.tensor([steps] * 2)))[0] for steps in (7, 8, 9, 500)
    ]
    assert not torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[1], outputs[2])
    assert torch.equal(outputs[1], outputs[3])


def test_statistics_are_kept_for_a_limited_number_of_steps():
    layer = make_layer(norm="batch", num_layers=1, window_size=1)
    state = layer(torch.randn(1, 2, 3))[1]
    state = cut(state)._replace(steps=torch.tensor([MAX_STEPS - 2] * 2))
    layer(torch.randn(5, 2, 3), state)
    assert all(
        len(norm.updates) == MAX_STEPS
        for norm in layer.modules()
        if isinstance(norm, StepBatchNorm)
    )


def test_batch_norm_refuses_to_train_on_one_sequence():
    for fields in ({"norm": "batch"}, {"norm": "none", "attention_norm": "batch"}):
        layer = make_layer(**fields)
        for x in (torch.randn(4, 1, 3), torch.randn(4, 3)):
            with pytest.raises(ValueError, match="at least 2 sequences in a batch, got 1"):
                layer(x)
            assert layer.eval()(x)[0].isfinite().all()
            layer.train()


def test_batch_norm_refuses_to_train_on_sequences_of_different_age():
    layer = make_layer(norm="batch")
    x = torch.randn(4, 2, 3)
    _, state = layer(x, lengths=torch.tensor([4, 2]))
    with pytest.raises(ValueError, match="equally many steps, got 2 to 4"):
        layer(x, state)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 3}, "multiple of num_heads, got hidden_size 4 and num_heads 3"),
        ({"num_heads": 0}, "multiple of num_heads"),
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"mode": "sum"}, "mode must be one of residual, layer, got 'sum'"),
        ({"norm": "instance"}, "norm must be one of"),
        ({"dropout": 1.0}, "dropout must be below 1"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_layer(**fields)


def test_layer_norm_of_one_feature_is_refused():
    with pytest.raises(ValueError, match="hidden_size of at least 2, got 1"):
        LARNN(3, 1, num_heads=1, window_size=2, norm="layer")


@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_other_types_than_the_parameters_are_refused(backend, request):
    if backend == "fused":
        request.getfixturevalue("compiler")
    layer = make_layer(backend=backend)
    x = torch.randn(4, 2, 3)
    _, state = layer(x)
    wanted = "must be torch.float64 on cpu for this layer, got torch.float32 on cpu"
    with pytest.raises(ValueError, match=f"^x {wanted}: convert one of them"):
        layer(x.float())
    for name in ("hidden", "queue"):
        other = state._replace(**{name: getattr(state, name).float()})
        with pytest.raises(ValueError, match=f"^state.{name} {wanted}"):
            layer(x, other)
    with pytest.raises(ValueError, match=r"^state.steps must be torch\.int64 .*got torch\.float64"):
        layer(x, LARNNState(*(part.double() for part in state)))
    with pytest.raises(ValueError, match=r"^state.steps must not be negative, got -1"):
        layer(x, state._replace(steps=torch.full_like(state.steps, -1)))
    with pytest.raises(ValueError, match=r"x must be torch\.float64 on cpu.* got torch\.int64"):
        layer(torch.ones(4, 2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="on meta"):
        layer(x.to("meta"))


def test_autocast_takes_mixed_types():
    layer = make_layer().float()
    x = torch.randn(4, 2, 3, dtype=torch.float32)
    expected, state = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = layer(x.bfloat16())
        layer(x, LARNNState(state.hidden.bfloat16(), state.queue.bfloat16(), state.steps))
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


def test_autocast_gradients_are_those_of_float32_but_for_rounding():
    layer = make_layer().float()
    x = torch.randn(6, 8, 3, dtype=torch.float32)
    expected = torch.autograd.grad(layer(x)[0].square().sum(), layer.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(layer(x)[0].float().square().sum(), layer.parameters())
    off = sum((a - b).square().sum() for a, b in zip(found, expected, strict=True))
    whole = sum(value.square().sum() for value in expected)
    assert (off / whole).sqrt() < 0.05


@pytest.mark.parametrize("backend", ["torch", "fused"])
@pytest.mark.parametrize("mode", ["residual", "layer"])
def test_weights_changed_before_backward_never_give_wrong_gradients(backend, mode, request):
    if backend == "fused":
        request.getfixturevalue("compiler")
    x = torch.randn(4, 2, 3)
    for name in [name for name, _ in make_layer(num_layers=1).named_parameters()]:
        layer = make_layer(num_layers=1, mode=mode, backend=backend)
        changed = dict(layer.named_parameters()).get(name, layer.cells[0].query.weight)
        others = [value for value in layer.parameters() if value is not changed]
        expected = torch.autograd.grad(layer(x)[0].square().sum(), others)
        output, _ = layer(x)
        with torch.no_grad():
            changed.mul_(2)
        try:
            found = torch.autograd.grad(output.square().sum(), others)
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)  # noqa: PT017  # either will do
        else:  # backward used no such weight, or a copy
            for gradient, wanted in zip(found, expected, strict=True):
                torch.testing.assert_close(gradient, wanted)


def test_wrong_inputs_are_refused():
    layer = make_layer()
    x = torch.randn(4, 2, 3)
    _, state = layer(x)
    for wrong in (torch.randn(4, 2, 5), torch.randn(4), torch.randn(0, 2, 3), torch.randn(4, 0, 3)):
        with pytest.raises(ValueError, match="x must"):
            layer(wrong)
    with pytest.raises(ValueError, match=r"state.hidden must be \[2, 3, 4\]"):
        layer(torch.randn(4, 3, 3), state)
    packed = pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    with pytest.raises(ValueError, match=r"x must be a tensor \[T, B, F\].* got PackedSequence"):
        layer(packed)
    flags, parts = torch.tensor([True, False]), torch.tensor([1j, 2j])
    for lengths in (torch.tensor([1, 2, 3]), torch.tensor([1.0, 2.0]), flags, parts):
        with pytest.raises(ValueError, match="lengths must be whole numbers"):
            layer(x, lengths=lengths)
    for lengths in ([1, 5], [-1, 2]):
        with pytest.raises(ValueError, match="between 0 and the 4 steps"):
            layer(x, lengths=torch.tensor(lengths))
    with pytest.raises(ValueError, match="lengths must be whole numbers"):
        layer(torch.randn(4, 3), lengths=torch.tensor(3))
