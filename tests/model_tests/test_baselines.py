import copy

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # the field's name for it
from torch.nn.utils.rnn import pack_sequence

from model.baselines import BNLSTM, LSTM, StackedResidualBiLSTM

T, B, I, H = 7, 4, 3, 6  # noqa: E741  # the field's names
LAYERS = {
    "lstm": lambda **options: LSTM(I, H, 2, **options),
    "residual lstm": lambda **options: LSTM(I, H, 2, stacking="residual", **options),
    "bn-lstm": lambda **options: BNLSTM(I, H, 2, stacking="residual", **options),
    "residual-bi-lstm": lambda **options: StackedResidualBiLSTM(I, H, 2, **options),
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(params=LAYERS)
def layer(request):
    made = LAYERS[request.param]().double()
    made(torch.randn(T, B, I).double())  # batch norms learn something
    return made


def test_plain_lstm_is_torchs():
    ours, theirs = LSTM(I, H, 2), torch.nn.LSTM(I, H, 2)
    for number, single in enumerate(ours.layers):
        for name, weight in single.named_parameters():
            weight.data = getattr(theirs, name.replace("l0", f"l{number}")).data
    x, state = torch.randn(T, B, I), (torch.randn(2, B, H), torch.randn(2, B, H))
    output, (h, c) = ours(x, state)
    expected, (expected_h, expected_c) = theirs(x, state)
    for found, wanted in ((output, expected), (h, expected_h), (c, expected_c)):
        torch.testing.assert_close(found, wanted)


def bn_lstm_by_hand(layer, x):
    """Cooijmans et al., equations 6-8, one step after the other, in training mode."""

    def norm(value, scale, shift=None):
        return F.batch_norm(value, None, None, scale, shift, training=True)

    (cell,) = layer.layers
    h = c = x.new_zeros(x.shape[1], H)
    outputs = []
    for t, step in enumerate(x):
        recurrent = h @ cell.hidden_weight.T
        # At the first step h is 0 for every sequence: its norm is 0.
        recurrent = norm(recurrent, cell.hidden_norm.weight) if t else recurrent
        gates = recurrent + norm(step @ cell.input_weight.T, cell.input_norm.weight) + cell.bias
        f, i, o, g = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm(c, cell.cell_norm.weight, cell.cell_norm.bias).tanh()
        outputs.append(h)
    return torch.stack(outputs)


def test_bn_lstm_follows_its_equations():
    layer = BNLSTM(I, H).double()
    x = torch.randn(T, B, I).double()
    output, _ = layer(x)
    expected = bn_lstm_by_hand(layer, x)
    torch.testing.assert_close(output, expected)
    for found, wanted in zip(
        torch.autograd.grad(output.square().sum(), list(layer.parameters())),
        torch.autograd.grad(expected.square().sum(), list(layer.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_bn_lstm_evaluates_by_each_steps_own_statistics():
    layer = BNLSTM(I, H).double()
    x = torch.randn(T, 32, I).double() * torch.arange(1, T + 1)[:, None, None]
    trained, _ = layer(x)
    evaluated, _ = layer.eval()(x)
    # Running variances are unbiased, the batch's own are not: 1 part in 31.
    torch.testing.assert_close(evaluated, trained, rtol=0.05, atol=0.01)


def test_bn_lstm_refuses_to_train_on_one_sequence():
    with pytest.raises(ValueError, match="at least 2 sequences in a batch, got 1"):
        BNLSTM(I, H)(torch.randn(T, 1, I))


def test_bn_lstm_refuses_to_train_on_sequences_of_different_age():
    layer, x = BNLSTM(I, H), torch.randn(T, 2, I)
    _, state = layer(x, lengths=torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="equally many steps, got 0 to 5"):
        layer(x, state)
    assert layer.eval()(x, state)[0].isfinite().all()


def test_every_parameter_is_used_and_moves(layer):
    optimizer = torch.optim.Adam(layer.parameters())
    before = copy.deepcopy(dict(layer.named_parameters()))
    output, _ = layer(torch.randn(T, B, I).double())
    (output * torch.randn_like(output)).sum().backward()
    optimizer.step()
    for name, weight in layer.named_parameters():
        assert weight.grad.abs().max() > 1e-8, name
        assert not torch.equal(weight, before[name]), name


def test_a_padded_sequence_is_treated_as_if_alone(layer):
    layer.eval()
    x, lengths = torch.randn(T, B, I).double(), torch.tensor([7, 3, 1, 5])
    for i, length in enumerate(lengths):
        x[length:, i] = torch.nan
    output, state = layer(x, lengths=lengths)
    for i, length in enumerate(lengths):
        alone, alone_state = layer(x[:length, i : i + 1])
        torch.testing.assert_close(output[:length, i : i + 1], alone)
        assert (output[length:, i] == 0).all()
        for part, alone_part in zip(state[:2], alone_state[:2], strict=True):
            torch.testing.assert_close(part[:, i : i + 1], alone_part)


def test_padding_reaches_neither_moments_nor_gradients(layer):
    lengths = torch.tensor([7, 3, 4, 5])
    x = torch.randn(T, B, I).double()
    outcomes = []
    for filler in (0.0, 1e6, torch.nan):
        twin = copy.deepcopy(layer).train()
        padded = x.masked_fill(torch.arange(T)[:, None, None] >= lengths[:, None], filler)
        output, _ = twin(padded, lengths=lengths)
        output.square().sum().backward()
        outcomes.append([*(p.grad for p in twin.parameters()), *twin.buffers()])
    for other in outcomes[1:]:
        for found, wanted in zip(other, outcomes[0], strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", ["lstm", "residual lstm", "bn-lstm"])
def test_pieces_give_what_the_whole_gives(kind):
    layer = LAYERS[kind]().double()
    x = torch.randn(T, B, I).double()
    layer(x)
    layer.eval()
    whole, end = layer(x)
    first, state = layer(x[:3])
    second, state = layer(x[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-10)
    for found, wanted in zip(state, end, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", LAYERS)
def test_batch_first_only_turns_the_axes(kind):
    layer = LAYERS[kind](batch_first=True).eval()
    x = torch.randn(B, T, I)
    output, _ = layer(x)
    layer.batch_first = False
    torch.testing.assert_close(output, layer(x.transpose(0, 1))[0].transpose(0, 1))


def test_the_papers_residual_network_has_18_cells():
    layer = StackedResidualBiLSTM(I, H, 3)
    assert sum(2 if cell.bidirectional else 1 for cell in layer.cells) == 18
    with pytest.raises(ValueError, match="must be even, half for each direction, got 5"):
        StackedResidualBiLSTM(I, 5)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_an_unbatched_sequence_is_one_of_a_batch(kind, batch_first):
    layer = LAYERS[kind](batch_first=batch_first).double().eval()
    x = torch.randn(T, I).double()
    layer.batch_first = False
    output, state = layer(x[:, None])
    again, again_state = layer(x[:, None], state)
    layer.batch_first = batch_first
    alone, alone_state = layer(x)
    torch.testing.assert_close(alone, output[:, 0])
    for found, wanted in zip(alone_state[:2], state[:2], strict=True):
        torch.testing.assert_close(found, wanted[:, 0])
    alone, alone_state = layer(x, alone_state)
    torch.testing.assert_close(alone, again[:, 0])
    for found, wanted in zip(alone_state[2:], again_state[2:], strict=True):
        assert found == wanted[0] == 2 * T


@pytest.mark.parametrize("training", [True, False])
def test_a_sequence_of_no_steps_changes_nothing(layer, training):
    layer.train(training)
    x, lengths = torch.randn(T, B, I).double(), torch.tensor([4, 0, 7, 0])
    x[:, 1] = torch.nan
    x.requires_grad_()
    _, before = layer(torch.randn(T, B, I).double())
    output, state = layer(x, lengths=lengths)
    assert (output[:, lengths == 0] == 0).all()
    for part in state[:2]:
        assert (part[:, lengths == 0] == 0).all()
    output, after = layer(x, before, lengths=lengths)
    for found, wanted in zip(after[:2], before[:2], strict=True):
        assert torch.equal(found[:, lengths == 0], wanted[:, lengths == 0])
    output.sum().backward()
    assert (x.grad[:, lengths == 0] == 0).all()
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())


@pytest.mark.parametrize("kind", LAYERS)
def test_wrong_inputs_are_refused(kind):
    layer, x = LAYERS[kind](), torch.randn(T, B, I)
    with pytest.raises(
        ValueError, match=r"x must be \[T, B, F\] or \[T, F\] with F = 3, got \[7, "
    ):
        layer(x[..., :2])
    with pytest.raises(ValueError, match="at least one step and one sequence"):
        layer(x[:, :0])
    with pytest.raises(
        ValueError, match="lengths must lie between 0 and the 7 steps of x, got 1 to 8"
    ):
        layer(x, lengths=torch.tensor([8, 1, 7, 7]))
    for lengths in (torch.tensor([7, 7]), torch.tensor([True] * B)):
        with pytest.raises(ValueError, match=r"lengths must be whole numbers \[B\]"):
            layer(x, lengths=lengths)
    with pytest.raises(ValueError, match=r"x must be a tensor.* got PackedSequence"):
        layer(pack_sequence([x[:, 0], x[:3, 1]]))
    with pytest.raises(ValueError, match=r"^x must be torch\.float32 on cpu .*got torch\.float64"):
        layer(x.double())
    _, state = layer(x)
    with pytest.raises(
        ValueError, match=r"state.h must be \[\d+, 2, \d\] for this x, got \[\d+, 4, "
    ):
        layer(x[:, :2], state)
    with pytest.raises(ValueError, match=r"state must be \(h, c.*\), got 1 parts"):
        layer(x, state[:1])
    parts = tuple(part.double() for part in state)
    with pytest.raises(ValueError, match=r"^state.h must be torch\.float32 .*got torch\.float64"):
        layer(x, parts)
    if kind == "bn-lstm":
        with pytest.raises(ValueError, match=r"^state.steps must be torch\.int64 on cpu"):
            layer(x, (*state[:2], parts[2]))
