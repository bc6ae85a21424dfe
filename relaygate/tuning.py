"""What TCP sockets of ours are set to, and how one is reset."""

from __future__ import annotations

import socket
import struct

# An idle connection is asked after 31 to 60 s whether it lives, and again every 15 to 22 s; so a
# dead peer is found within 148 s, and a network may be away for a minute.
KEEP_IDLE_S = 60
KEEP_IDLES = 30
KEEP_INTERVAL_S = 15
KEEP_INTERVALS = 8
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
    skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_COUNT)
    spread(skt)
    return skt


def keepalive_times(number: int) -> tuple[int, int]:
    """Seconds until the socket with this *number* is asked first, and until it is asked again."""
    return (
        KEEP_IDLE_S - number % KEEP_IDLES,
        KEEP_INTERVAL_S + number // KEEP_IDLES % KEEP_INTERVALS,
    )


def spread(skt: socket.socket) -> None:
    """
    Give *skt* its own times of keepalive; an accepted one has those of all of its listener's.

    The kernel rounds such times to four seconds, so the probes of thousands of idle connections
    would go out in one moment.  What is more than a queue holds (1,000 packets) is dropped, and
    so are the repetitions, as long as they fall together: connections die that nothing ails.
    """
    idle_s, interval_s = keepalive_times(skt.fileno())
    skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
    skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)


def reset(skt: socket.socket) -> None:
    """Close *skt* so that its peer sees a reset, and no end."""
    skt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ABORT)
    skt.close()
