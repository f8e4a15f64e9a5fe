import pytest
import torch

from model.classifier import SequenceClassifier
from model.config import ModelConfig, TrialConfig

CONFIGS = {
    "larnn": ModelConfig(num_heads=2, head_size=3, window_size=4),
    "lstm": ModelConfig(cell="lstm", hidden_size=6),
    "bn-lstm": ModelConfig(cell="bn-lstm", hidden_size=6),
    "residual-bi-lstm": ModelConfig(cell="residual-bi-lstm", hidden_size=6, num_layers=1),
}


@pytest.fixture(params=CONFIGS)
def classifier(request):
    torch.manual_seed(0)
    made = SequenceClassifier(CONFIGS[request.param], input_size=5, num_classes=3).double()
    made(torch.randn(4, 9, 5).double())  # batch norms learn something
    return made


def test_every_parameter_learns(classifier):
    logits = classifier(torch.randn(4, 9, 5).double())
    assert logits.shape == (4, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    for name, weight in classifier.named_parameters():
        assert weight.grad.abs().max() > 1e-12, name


def test_padding_changes_no_score(classifier):
    x, lengths = torch.randn(4, 9, 5).double(), torch.tensor([9, 2, 5, 1])
    for i, length in enumerate(lengths):
        x[i, length:] = torch.nan
    logits = classifier.eval()(x, lengths)
    for i, length in enumerate(lengths):
        torch.testing.assert_close(logits[i : i + 1], classifier(x[i : i + 1, :length]))
    logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in classifier.parameters())


def test_the_larnn_is_built_as_configured():
    config = ModelConfig(
        num_layers=3,
        num_heads=2,
        head_size=5,
        window_size=7,
        mode="layer",
        stacking="plain",
        attention_activation="gelu",
        attention_norm="layer",
        cell_activation="tanh",
        norm="batch",
        positional_encoding="static",
        dropout=0.25,
        dropout_on="output",
    )
    classifier = SequenceClassifier(config, 4, 2)
    assert classifier.layer.config == config
    assert classifier.layer.hidden_size == 10
    assert classifier.num_parameters == sum(p.numel() for p in classifier.parameters())
    assert classifier.backend == classifier.layer.backend


UNUSED = {
    "num_heads": 2,
    "head_size": 2,
    "window_size": 3,
    "mode": "layer",
    "attention_activation": "none",
    "attention_norm": "layer",
    "cell_activation": "tanh",
    "norm": "none",
    "positional_encoding": "static",
    "dropout_on": "output",
    "attention_rate_factor": 0.1,
}


@pytest.mark.parametrize("cell", ["lstm", "bn-lstm", "residual-bi-lstm"])
def test_a_setting_that_a_cell_has_no_use_for_is_refused(cell):
    ModelConfig(cell=cell, hidden_size=8, dropout=0.1, num_layers=3)
    unused = UNUSED | ({"stacking": "plain"} if cell == "residual-bi-lstm" else {})
    for name, value in unused.items():
        with pytest.raises(ValueError, match=f"cell '{cell}' has no {name}: leave it out"):
            TrialConfig.from_params({"cell": cell, name: value})
    with pytest.raises(ValueError, match="hidden_size of a larnn follows"):
        ModelConfig(hidden_size=8)
