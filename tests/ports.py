"""Ports of this machine for servers that tests start."""

import random
import socket

BELOW_OUTGOING = range(20_000, 32_000)
"""The kernel gives outgoing connections higher ones: a server that is away keeps its own."""


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        port = random.choice(BELOW_OUTGOING)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
