"""What TCP sockets of ours are set to, and how one is reset."""

from __future__ import annotations

import socket
import struct

# A dead peer of an idle connection is found within KEEP_IDLE_S + KEEP_COUNT * KEEP_INTERVAL_S.
KEEP_IDLE_S = 60
KEEP_INTERVAL_S = 15
KEEP_COUNT = 4

LINGER_ABORT = struct.pack("ii", 1, 0)
LINGER_NOT = struct.pack("ii", 0, 0)


def tune(skt: socket.socket) -> socket.socket:
    """
    Set what every connection of ours has; on a listening socket, what it hands on.

    No delay, since Nagle's algorithm costs 40 ms in each small exchange (requirement 81);
    keepalive, since nothing else finds a dead peer of an idle session (requirement 82);
    urgent bytes in their place, since out of it they are lost (RFC 6093).
    """
    skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    skt.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    skt.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE_S)
    skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_INTERVAL_S)
    skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_COUNT)
    return skt


def reset(skt: socket.socket) -> None:
    """Close *skt* so that its peer sees a reset, and no end."""
    skt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ABORT)
    skt.close()
