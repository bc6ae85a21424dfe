"""
Ports for listeners of tests, so that two suites may run on one machine.

They are drawn at random, below those that the kernel gives to clients: what is free there stays so
until somebody means to have it.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from random import sample
from typing import Final

_LOW: Final = 15_000
# /proc/sys/net/ipv4/ip_local_port_range begins at 32,768 where nobody has changed it.
_HIGH: Final = 32_000
_TRIES: Final = 250


def free_port(host: str = "127.0.0.1") -> int:
    """A port of *host* that nobody has just now."""
    return free_span(host, 1)[0]


def free_span(host: str, count: int = 40) -> tuple[int, int]:
    """The first and the last of *count* ports of *host* in a row that nobody has just now."""
    for first in sample(range(_LOW, _HIGH, count), _TRIES):
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server((host, port)))
            except OSError:
                continue
            return first, first + count - 1
    raise AssertionError(f"no {count} ports in a row are free on {host}")
