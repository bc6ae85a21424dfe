"""
A client under TLS, in front of the peers that end it: as ``drive stream``, with one stream.

    python -m bench.tlsdrive PORT up|down WARM SECONDS

It prints "begin" when its warm-up is over, and one line "end name=number ..." at last.  Encrypting
costs it more than Python does: OpenSSL takes or gives 128 KiB in a call.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
from typing import Final

from bench.processes import HOST, unverified

_CHUNK: Final = 128 * 1024
_GIVE_UP_S: Final = 20.0


def _connect(port: int) -> ssl.SSLSocket:
    plain = socket.create_connection((HOST, port), _GIVE_UP_S)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return unverified().wrap_socket(plain)


def main() -> None:
    """Move bytes one way for as long as was asked, and say how many."""
    port, way, warm_s, run_s = int(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:5])
    client = _connect(port)
    # The server's word for "take and forget" and for "give without end".
    client.sendall(b"d" if way == "up" else b"g")
    buffer = bytearray(_CHUNK)
    start = now = begun = time.monotonic()
    moved = 0
    warm = False
    while now < start + warm_s + run_s:
        if way == "up":
            client.sendall(buffer)
            moved += _CHUNK
        else:
            got = client.recv_into(buffer)
            if not got:
                sys.exit("the stream ended")
            moved += got
        now = time.monotonic()
        if not warm and now >= start + warm_s:
            warm, begun, moved = True, now, 0
            print("begin", flush=True)
    print(f"end bytes={moved} seconds={now - begun:.6f}", flush=True)


if __name__ == "__main__":
    main()
