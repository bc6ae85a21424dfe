"""
Good clients and a flood, as programs of their own: ``python -m relaygate.test.flooding``.

``good HOST PORT SECONDS ADDRESS…`` is a client at each address, which opens a session, has a word
echoed, ends it, and comes again half a second later.  It prints how many came through, what failed,
and the percentiles of the milliseconds from the connect to the echo.

``flood HOST PORT SECONDS RATE`` opens so many connections a second, and forgets them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time

PAUSE_S = 0.5
LIMIT_S = 20.0
# Connections of the flood that are left open until they are dropped there, or these are too many.
MOST_OPEN = 200


async def visit(host: str, port: int, address: str) -> float:
    """Milliseconds from the connect to the echo; raises ``OSError`` or ``TimeoutError``."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port, local_addr=(address, 0))
    try:
        writer.write(b"hello")
        await reader.readexactly(5)
        return (time.perf_counter() - began) * 1000
    finally:
        writer.close()


async def client(
    host: str, port: int, address: str, until: float, took: list[float], failed: list[str]
) -> None:
    """Come again and again."""
    while time.monotonic() < until:
        try:
            took.append(await asyncio.wait_for(visit(host, port, address), LIMIT_S))
        except (OSError, EOFError, TimeoutError) as error:
            failed.append(repr(error))
        await asyncio.sleep(PAUSE_S)


async def good(host: str, port: int, seconds: float, addresses: list[str]) -> dict[str, object]:
    """Run all clients, spread over their pause."""
    took: list[float] = []
    failed: list[str] = []
    until = time.monotonic() + seconds
    tasks = []
    for address in addresses:
        tasks.append(asyncio.create_task(client(host, port, address, until, took, failed)))
        await asyncio.sleep(PAUSE_S / len(addresses))
    await asyncio.gather(*tasks)
    took.sort()
    at = {name: took[int(len(took) * share)] for name, share in (("p50", 0.5), ("p99", 0.99))}
    return {"sessions": len(took), "failed": failed[:5], "fails": len(failed), **at}


def flood(host: str, port: int, seconds: float, rate: float) -> dict[str, object]:
    """Connect without waiting for anything, at *rate* a second."""
    began = time.monotonic()
    tried = 0
    opened: list[socket.socket] = []
    while (now := time.monotonic() - began) < seconds:
        if tried >= rate * now:
            time.sleep(0.001)
            continue
        tried += 1
        skt = socket.socket()
        skt.setblocking(False)
        skt.connect_ex((host, port))
        opened.append(skt)
        if len(opened) > MOST_OPEN:
            opened.pop(0).close()
    return {"tried": tried}


if __name__ == "__main__":
    mode, to_host, to_port, length, *rest = sys.argv[1:]
    if mode == "good":
        said = asyncio.run(good(to_host, int(to_port), float(length), rest))
    else:
        said = flood(to_host, int(to_port), float(length), float(rest[0]))
    sys.stdout.write(json.dumps(said))
