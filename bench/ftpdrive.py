"""
An FTP client, in front of the peers that speak FTP: passive, binary, one session at a time.

    python -m bench.ftpdrive PORT stream up|down plain|tls SECONDS
    python -m bench.ftpdrive PORT files up|down COUNT
    python -m bench.ftpdrive PORT listings COUNT

Each prints "begin" when its warm-up is over, and one line "end name=number ..." at last.  *stream*
moves the big file again and again, until the seconds are over, in one session; *files* moves that
many small ones; *listings* logs in, lists a folder and leaves, that many times.
"""

from __future__ import annotations

import ftplib
import socket
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import quantiles
from typing import Final

from bench.ftpserver import BIG_BYTES, BIG_FILE, FOLDER, SMALL_BYTES, SMALL_FILE
from bench.processes import HOST, unverified

_CHUNK: Final = 128 * 1024
_GIVE_UP_S: Final = 20.0
_WARM_FILES: Final = 10
_WARM_LISTINGS: Final = 2


def _session(port: int, *, tls: bool = False) -> ftplib.FTP:
    ftp = ftplib.FTP_TLS(context=unverified()) if tls else ftplib.FTP()
    ftp.connect(HOST, port, _GIVE_UP_S)
    ftp.login("anonymous", "bench")
    if isinstance(ftp, ftplib.FTP_TLS):
        ftp.prot_p()
    return ftp


def _moving(port: int, *, tls: bool = False) -> ftplib.FTP:
    ftp = _session(port, tls=tls)
    ftp.cwd(FOLDER)
    ftp.voidcmd("TYPE I")
    return ftp


def _up(ftp: ftplib.FTP, name: str, size: int, buffer: memoryview) -> int:
    connection = ftp.transfercmd(f"STOR {name}")
    left = size
    while left > 0:
        connection.sendall(buffer[: min(left, _CHUNK)])
        left -= _CHUNK
    _close(connection)
    ftp.voidresp()
    return size


def _down(ftp: ftplib.FTP, name: str, size: int, buffer: memoryview) -> int:
    connection = ftp.transfercmd(f"RETR {name}")
    moved = 0
    while got := connection.recv_into(buffer):
        moved += got
    _close(connection)
    ftp.voidresp()
    if moved != size:
        sys.exit(f"{name} ended after {moved} bytes")
    return moved


def _close(connection: socket.socket) -> None:
    if isinstance(connection, ssl.SSLSocket):
        # Some servers close without an answer to the end of TLS.
        with suppress(OSError):
            connection.unwrap()
    connection.close()


_WAYS: Final[dict[str, Callable[[ftplib.FTP, str, int, memoryview], int]]] = {
    "up": _up,
    "down": _down,
}


def _stream(port: int, way: str, protection: str, run_s: float) -> str:
    ftp = _moving(port, tls=protection == "tls")
    # What goes up does not change what comes down.
    name = BIG_FILE if way == "down" else f"new-{BIG_FILE}"
    buffer = memoryview(bytearray(_CHUNK))
    move = _WAYS[way]
    move(ftp, name, BIG_BYTES, buffer)
    print("begin", flush=True)
    begun, moved = time.monotonic(), 0
    while (seconds := time.monotonic() - begun) < run_s:
        moved += move(ftp, name, BIG_BYTES, buffer)
    ftp.quit()
    return f"bytes={moved} seconds={seconds:.6f}"


def _files(port: int, way: str, count: int) -> str:
    ftp = _moving(port)
    buffer = memoryview(bytearray(_CHUNK))
    move = _WAYS[way]

    def run(numbers: range) -> None:
        for number in numbers:
            name = SMALL_FILE if way == "down" else f"{number}-{SMALL_FILE}"
            move(ftp, name, SMALL_BYTES, buffer)

    run(range(_WARM_FILES))
    print("begin", flush=True)
    begun = time.monotonic()
    run(range(count))
    seconds = time.monotonic() - begun
    ftp.quit()
    return f"count={count} seconds={seconds:.6f}"


def _listings(port: int, count: int) -> str:
    times_s = []
    for number in range(_WARM_LISTINGS + count):
        if number == _WARM_LISTINGS:
            print("begin", flush=True)
        begun = time.monotonic()
        ftp = _session(port)
        lines: list[str] = []
        ftp.retrlines("LIST", lines.append)
        times_s.append(time.monotonic() - begun)
        if not any(line.endswith(FOLDER) for line in lines):
            sys.exit(f"the listing is {lines}")
        ftp.quit()
    cuts = quantiles(times_s[_WARM_LISTINGS:], n=100, method="inclusive")
    return f"count={count} p50_us={cuts[49] * 1e6:.0f} p99_us={cuts[98] * 1e6:.0f}"


def main() -> None:
    """Do what was asked, and say how it went."""
    port, what, *words = int(sys.argv[1]), *sys.argv[2:]
    if what == "stream":
        said = _stream(port, words[0], words[1], float(words[2]))
    elif what == "files":
        said = _files(port, words[0], int(words[1]))
    else:
        said = _listings(port, int(words[0]))
    print(f"end {said}", flush=True)


if __name__ == "__main__":
    main()
