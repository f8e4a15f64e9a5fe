"""The matrix that a recurrence applies at each step."""

import pytest
import torch

from model import linear


def refuse(*_):
    raise AssertionError("oneDNN was called")


@pytest.mark.skipif(not linear.ONEDNN, reason="this PyTorch has no oneDNN")
# The switch also sets what only Intel's GPUs have.
@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN:UserWarning")
def test_onednn_computes_float32_unless_it_is_switched_off(monkeypatch):
    x, matrix, bias = torch.randn(5, 3), torch.randn(4, 3), torch.randn(4)
    expected = torch.nn.functional.linear(x, matrix, bias)
    torch.testing.assert_close(linear.product(x, matrix, bias), expected)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuse)
    with torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(linear.product(x, matrix, bias), expected)
    with pytest.raises(AssertionError, match="oneDNN was called"):
        linear.product(x, matrix, bias)
