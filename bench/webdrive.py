"""
The load in front of peers that speak HTTP.

    python -m bench.webdrive PORT stream up|down plain|tls SECONDS
    python -m bench.webdrive PORT small kept|fresh plain|tls AT_ONCE SECONDS

It is in Python and one process, so it costs more than what it asks for: compare peers by it, and
take its rate with no relay for what it can do at most.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import sys
import time
from statistics import quantiles

from bench.processes import HOST, unverified
from bench.webserver import BIG_BYTES, SMALL

_CHUNK = 128 * 1024
_WARM_S = 0.3
_LIMIT_S = 20.0
# One for all: to make it costs more than a handshake.
_TLS = unverified()


def _connect(port: int, *, tls: bool) -> socket.socket:
    connection = socket.create_connection((HOST, port), _LIMIT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _TLS.wrap_socket(connection) if tls else connection


def _request(line: str, *fields: str) -> bytes:
    return "\r\n".join((line, "Host: bench", *fields, "", "")).encode()


def _answer(connection: socket.socket) -> bytes:
    said = b""
    while b"\r\n\r\n" not in said:
        data = connection.recv(_CHUNK)
        if not data:
            sys.exit("the connection ended without an answer")
        said += data
    return said


def _down(connection: socket.socket, buffer: memoryview) -> None:
    connection.sendall(_request("GET /big HTTP/1.1"))
    said = _answer(connection)
    left = BIG_BYTES - len(said.partition(b"\r\n\r\n")[2])
    while left > 0:
        got = connection.recv_into(buffer)
        if not got:
            sys.exit("a file was cut short")
        left -= got


def _up(connection: socket.socket, buffer: memoryview) -> None:
    connection.sendall(_request("PUT /in/big HTTP/1.1", f"Content-Length: {BIG_BYTES}"))
    for _ in range(BIG_BYTES // len(buffer)):
        connection.sendall(buffer)
    said = _answer(connection)
    if said[9:10] != b"2":
        sys.exit(f"an upload was answered {said[:40]!r}")


def _stream(port: int, way: str, protection: str, run_s: float) -> str:
    connection = _connect(port, tls=protection == "tls")
    buffer = memoryview(bytearray(_CHUNK))
    move = {"up": _up, "down": _down}[way]
    move(connection, buffer)
    print("begin", flush=True)
    begun, moved = time.monotonic(), 0
    while (seconds := time.monotonic() - begun) < run_s:
        move(connection, buffer)
        moved += BIG_BYTES
    return f"bytes={moved} seconds={seconds:.6f}"


class _Asking:
    """One client that asks for something small, again and again."""

    def __init__(self, port: int, *, kept: bool, tls: bool) -> None:
        self._port, self._kept, self._tls = port, kept, tls
        self._ask = _request("GET /small HTTP/1.1", *(() if kept else ("Connection: close",)))
        self.connection = _connect(port, tls=tls)
        self.times_s: list[float] = []
        self.begin(time.monotonic())

    def begin(self, since: float) -> None:
        """Ask."""
        self._since, self._said = since, b""
        self.connection.sendall(self._ask)

    def readable(self) -> bool:
        """Read what came; whether that was all of an answer."""
        self._said += self.connection.recv(4096)
        if not self._said.endswith(SMALL):
            return False
        self.times_s.append(time.monotonic() - self._since)
        return True

    def again(self) -> None:
        """Ask once more, on a new connection or the old one."""
        since = time.monotonic()
        if not self._kept:
            self.connection.close()
            self.connection = _connect(self._port, tls=self._tls)
        self.begin(since)


def _small(port: int, how: str, protection: str, at_once: int, run_s: float) -> str:
    asking = [_Asking(port, kept=how == "kept", tls=protection == "tls") for _ in range(at_once)]
    with selectors.DefaultSelector() as selector:
        for each in asking:
            selector.register(each.connection, selectors.EVENT_READ, each)
        _run(selector, _WARM_S)
        for each in asking:
            each.times_s.clear()
        print("begin", flush=True)
        seconds = _run(selector, run_s)
    times = sorted(each_s for each in asking for each_s in each.times_s)
    cuts = quantiles(times, n=100)
    return (
        f"count={len(times)} seconds={seconds:.6f}"
        f" p50_us={cuts[49] * 1e6:.1f} p99_us={cuts[98] * 1e6:.1f}"
    )


def _run(selector: selectors.BaseSelector, run_s: float) -> float:
    begun = time.monotonic()
    while (seconds := time.monotonic() - begun) < run_s:
        for key, _ in selector.select(1.0):
            each: _Asking = key.data
            if not each.readable():
                continue
            selector.unregister(key.fileobj)
            each.again()
            selector.register(each.connection, selectors.EVENT_READ, each)
    return seconds


def main(port: str, what: str, *arguments: str) -> None:
    """Do it, and say how it went."""
    try:
        if what == "stream":
            way, protection, run_s = arguments
            words = _stream(int(port), way, protection, float(run_s))
        else:
            how, protection, at_once, run_s = arguments
            words = _small(int(port), how, protection, int(at_once), float(run_s))
    except (OSError, ssl.SSLError) as error:
        sys.exit(str(error))
    print(f"end {words}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
