"""What a worker's slots run on."""

import pytest

from trials.devices import detect_slots
from trials.errors import InvalidValueError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-abc")


@pytest.mark.usefixtures("two_gpus")
def test_a_device_that_is_asked_for_is_the_one_used() -> None:
    assert detect_slots() == ("cuda:0", "cuda:GPU-abc")
    assert detect_slots(device="cuda") == ("cuda:0", "cuda:GPU-abc")
    assert detect_slots(3, device="cpu") == ("cpu", "cpu", "cpu")
    assert set(detect_slots(device="cpu", cores=2)) == {"cpu"}


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"shows no GPU .* --device cpu"):
        detect_slots(device="cuda", gpus=[])
