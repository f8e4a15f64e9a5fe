"""Tensors and plain values as one blob: safetensors, with JSON in its header. Never pickle.

A blob written to a file is an ordinary ``.safetensors`` file. Unpacking runs no code of the data's
and notices damage: the header holds a checksum of everything.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

HEADER = "checkpoint"
"""The one entry of safetensors' metadata (it writes several in random order): values, checksum."""


class CheckpointError(ValueError):
    """Bytes that should be a checkpoint or weights are not, or are damaged, or belong elsewhere."""


def pack(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> bytes:
    """Put tensors (from any device) and values that JSON knows into one blob.

    NaN and infinite floats survive; tuples come back as lists.

    Raises:
        TypeError: If ``values`` holds something that JSON does not know.
    """
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    told = json.dumps(values)
    header = json.dumps({"values": told, "crc32": _checksum(held, told)})
    return safetensors.torch.save(held, metadata={HEADER: header})


def unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Undo `pack`; tensors come back on the CPU.

    Raises:
        CheckpointError: If ``data`` is no such blob or is damaged.
    """
    try:
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][HEADER])
        told, checksum = header["values"], header["crc32"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"expected a checkpoint of this project, got {len(data)} bytes that are none ({error})"
        ) from error
    if _checksum(tensors, told) != checksum:
        raise CheckpointError(f"the checkpoint's checksum does not match its {len(data)} bytes")
    return tensors, json.loads(told)


def _checksum(tensors: Mapping[str, Tensor], told: str) -> int:
    checksum = zlib.crc32(told.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        if tensor.numel():
            checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum
