"""What a layer learned in training mode holds at evaluation, on the same data."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from model.layer import LARNN
from model.norm import StepBatchNorm

pytestmark = pytest.mark.usefixtures("double")


def sequences(count):
    """Which of two pulses came first? Lengths differ."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, count, 3, generator=generator)
    y = torch.randint(0, 2, (count,), generator=generator)
    x[2:5, :, 0] += torch.where(y == 1, 3.0, 0.0)[:, None].t()
    x[7:10, :, 1] += torch.where(y == 1, 0.0, 3.0)[:, None].t()
    lengths = torch.randint(11, 17, (count,), generator=generator)
    return x, y, lengths


@pytest.mark.parametrize(  # without a batch norm the two modes are one
    ("norm", "attention_norm"),
    [("batch", "none"), ("batch", "batch"), ("layer", "batch"), ("none", "batch")],
)
def test_accuracy_is_the_same_in_both_modes(norm, attention_norm):
    torch.manual_seed(0)
    layer = LARNN(3, 8, 2, num_heads=4, window_size=6, norm=norm, attention_norm=attention_norm)
    head = torch.nn.Linear(8, 2)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.01)
    x, y, lengths = sequences(200)

    def scores(rows):
        _, state = layer(x[:, rows], lengths=lengths[rows])
        return head(state.hidden[-1])

    epochs = 16
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - epoch / epochs)
        for rows in torch.randperm(200).split(50):
            optimizer.zero_grad()
            F.cross_entropy(scores(rows), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        trained = scores(torch.arange(200)).argmax(1).eq(y).double().mean().item()
        for name, buffer in layer.named_buffers():
            buffer.copy_(before[name])
        layer.eval()
        evaluated = scores(torch.arange(200)).argmax(1).eq(y).double().mean().item()
    assert trained > 0.9
    assert evaluated == pytest.approx(trained, abs=0.0101)


def test_evaluation_holds_values_to_what_training_allows(backend):
    torch.manual_seed(0)
    layer = LARNN(3, 4, num_heads=2, window_size=4, norm="batch", backend=backend)
    for _ in range(3):
        layer(torch.randn(60, 5, 3) / 10)
    x = torch.randn(60, 5, 3) * 10  # nothing of the kind was trained on
    cells = layer.eval()(x)[1].queue
    allowed = 4 / 5**0.5  # weights are 1, shifts 0
    assert cells.abs().max().item() == pytest.approx(allowed)
    for norm in layer.cells[0].children():
        if isinstance(norm, StepBatchNorm):
            assert norm.largest == 5
            norm.largest.zero_()
    assert layer(x)[1].queue.abs().max() > 10 * allowed
