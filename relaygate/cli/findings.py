"""What ``relaygate doctor`` finds, and the sockets that it looks with."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from OpenSSL import SSL

from relaygate.addresses import HostPort

__all__ = ["LIMIT_S", "Blocked", "Finding", "connect", "read_some", "shake_hands"]

# Seconds for one thing to happen: a firewall that drops is told from a slow network by it.
LIMIT_S = 5.0
MAX_READ = 16 * 1024


@dataclass(frozen=True)
class Finding:
    """
    One line: the *hop* of the way, what was looked at, how it is, what was seen, and what to do.

    "note" is for what may be as it should be, and is for a person to judge.
    """

    hop: str
    what: str
    state: Literal["ok", "note", "bad", "skipped"]
    seen: str
    cure: str = ""


class Blocked(Exception):
    """The way ends here; *seen* says how, *cure* what to do."""

    def __init__(self, seen: str, cure: str) -> None:
        super().__init__(seen)
        self.seen = seen
        self.cure = cure


@contextmanager
def connect(where: HostPort, side: str) -> Iterator[socket.socket]:
    """
    A connection to *where*, which is *side* of the firewall ("the DMZ node", "the backend").

    Raises :class:`Blocked`.
    """
    try:
        places = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Blocked(
            f"the name {where.host} has no address ({error.strerror or error})",
            f"mend the name in the file, or this machine's resolver (/etc/resolv.conf), for {side}",
        ) from None
    family, kind, _, _, address = places[0]
    shown = f"{address[0]!s} port {address[1]!s}"
    connection = socket.socket(family, kind)
    connection.settimeout(LIMIT_S)
    try:
        try:
            connection.connect(address)
        except TimeoutError:
            raise Blocked(
                f"no answer from {shown} in {LIMIT_S:g} s: something drops it on the way",
                f"let this machine reach {shown} in the firewalls between; is {side} switched on?",
            ) from None
        except ConnectionRefusedError:
            raise Blocked(
                f"{shown} refuses the connection",
                f"start {side}, or mend its port; a firewall that rejects looks the same",
            ) from None
        except OSError as error:
            raise Blocked(
                f"{shown}: {error.strerror}",
                f"look at this machine's routes and firewall towards {side}",
            ) from None
        yield connection
    finally:
        connection.close()


def shake_hands(
    connection: socket.socket, context: SSL.Context, name: str | None
) -> tuple[SSL.Connection, float]:
    """
    TLS as a client with *context*, and the seconds it took.  *name* is the server's, for SNI.

    Raises :class:`SSL.Error`, or OSError.
    """
    connection.setblocking(False)
    tls = SSL.Connection(context, connection)
    tls.set_connect_state()
    if name is not None:
        tls.set_tlsext_host_name(name.encode())
    began = time.monotonic()
    while True:
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            _wait(connection, began, reading=True)
        except SSL.WantWriteError:
            _wait(connection, began, reading=False)
        else:
            return tls, time.monotonic() - began


def _wait(connection: socket.socket, began: float, *, reading: bool) -> None:
    left = began + LIMIT_S - time.monotonic()
    sets = ([connection], []) if reading else ([], [connection])
    if left <= 0 or not any(select.select(*sets, [], left)):
        raise TimeoutError(f"no answer in {LIMIT_S:g} s")


def read_some(stream: socket.socket | SSL.Connection, limit_s: float = LIMIT_S) -> bytes:
    """
    What comes next, b"" at the end.

    Raises TimeoutError after *limit_s* seconds of silence, OSError or :class:`SSL.Error`.
    """
    if isinstance(stream, socket.socket):
        stream.settimeout(limit_s)
        return stream.recv(MAX_READ)
    end = time.monotonic() + limit_s
    while True:
        try:
            return stream.recv(MAX_READ)
        except SSL.ZeroReturnError:
            return b""
        except SSL.WantReadError:
            left = end - time.monotonic()
            if left <= 0 or not select.select([stream], [], [], left)[0]:
                raise TimeoutError from None
