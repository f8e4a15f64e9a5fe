"""Messages between a worker and its child: a JSON header, then raw bytes. Never a pickle.

A frame is ``!IQ`` (header's length, payload's length), the header as UTF-8 JSON, the payload.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

LENGTHS = struct.Struct("!IQ")
RECEIVE_BYTES = 1 << 20


class Frame(NamedTuple):
    """One message."""

    header: dict[str, Any]
    """Always has ``type``."""
    payload: bytes = b""


def encode_header(header: Mapping[str, Any]) -> bytes:
    """The header's bytes.

    Raises:
        ValueError: If a value has no JSON form or lies too deep.
    """
    try:
        return json.dumps(header).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"what passes between worker and child is plain JSON: {error}") from None


class FrameBuffer:
    """Puts frames together again from bytes as they arrive."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Add ``data``; return the frames that it completes.

        Raises:
            ValueError: If what arrived is not a frame.
        """
        self._bytes += data
        frames = []
        while (frame := self._take()) is not None:
            frames.append(frame)
        return frames

    def _take(self) -> Frame | None:
        if len(self._bytes) < LENGTHS.size:
            return None
        header_size, payload_size = LENGTHS.unpack_from(self._bytes)
        header_end = LENGTHS.size + header_size
        end = header_end + payload_size
        if len(self._bytes) < end:
            return None
        header = json.loads(self._bytes[LENGTHS.size : header_end])
        if not isinstance(header, dict) or not isinstance(header.get("type"), str):
            raise ValueError(f"a message needs a type, got {str(header)[:80]}")
        with memoryview(self._bytes) as view:
            payload = bytes(view[header_end:end])
        del self._bytes[:end]
        return Frame(header, payload)


class Pipe:
    """One end of the private connection between a worker and its child. Sending is thread-safe."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = FrameBuffer()
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """The descriptor, for `selectors`."""
        return self._connection.fileno()

    def send(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        """Send one message.

        Raises:
            ValueError: If the header has no JSON form; nothing was sent then.
            OSError: If the other end is gone, or did not take it within the socket's timeout.
        """
        head = encode_header(header)
        with self._sending:
            self._connection.sendall(LENGTHS.pack(len(head), len(payload)) + head)
            if payload:
                self._connection.sendall(payload)

    def receive(self) -> list[Frame]:
        """Read once, waiting if nothing is there; return the frames completed by it (maybe none).

        Raises:
            EOFError: If the other end is gone.
            ValueError: If what arrived is not a frame.
        """
        try:
            data = self._connection.recv(RECEIVE_BYTES)
        except ConnectionResetError:  # the other end died with bytes unread
            data = b""
        if not data:
            raise EOFError("the other end of the pipe is gone")
        return self._buffer.feed(data)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
