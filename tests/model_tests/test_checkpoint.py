import math
import pickle

import pytest
import torch

from model.checkpoint import CheckpointError, pack, unpack

TENSORS = {
    "weights": torch.randn(3, 4),
    "halves": torch.randn(5).bfloat16(),
    "step": torch.tensor(7),
    "none": torch.empty(0, 3),
    "odd": torch.tensor([math.nan, math.inf, -0.0, 1e-45]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "view": torch.arange(6).view(2, 3).T,
}
VALUES = {"nan": math.nan, "inf": [-math.inf], "int": 2**60, "float": 0.1, "none": None, "ü": True}


def test_what_is_packed_comes_back_to_the_bit():
    tensors, values = unpack(pack(TENSORS, VALUES))
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert torch.equal(
            tensors[name].reshape(-1).view(torch.uint8),
            tensor.contiguous().reshape(-1).view(torch.uint8),
        )
    assert math.isnan(values.pop("nan"))
    assert values == {name: value for name, value in VALUES.items() if name != "nan"}


def test_equal_content_gives_equal_bytes():
    assert pack(TENSORS, VALUES) == pack(TENSORS, VALUES)


def test_damage_is_noticed_wherever_it_is():
    data = pack(TENSORS, VALUES)
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            tensors, values = unpack(bytes(damaged))
        except CheckpointError:
            continue
        # Only what carries no meaning (padding of the header) may differ.
        assert pack(tensors, values) == data


@pytest.mark.parametrize(
    "data", [b"", b"abc", pickle.dumps({"a": 1}), pack(TENSORS, VALUES)[:-1], b"\0" * 64]
)
def test_other_bytes_are_refused(data):
    with pytest.raises(CheckpointError, match=f"expected a checkpoint .* got {len(data)} bytes"):
        unpack(data)


def test_values_that_json_does_not_know_are_refused():
    with pytest.raises(TypeError):
        pack({}, {"tensor": torch.zeros(1)})
