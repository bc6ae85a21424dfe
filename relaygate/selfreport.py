"""What the DMZ node says of itself, for an internal node that asks (``Report``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from relaygate.admission import Counted
from relaygate.commands import LISTENERS_PER_PAGE
from relaygate.listeners import Listener

# Bytes of the sessions that run, into and out of the inside, by whose they are.
Moved = Mapping[Counted, tuple[int, int]]


async def report_page(
    page: int,
    listeners: Sequence[Listener],
    count: Callable[[], Awaitable[Moved]],
    figures: Mapping[str, int],
    *,
    draining: bool,
) -> dict[str, Any]:
    """
    What :class:`relaygate.commands.Report` answers, but for the software.

    *listeners* are all of those of the node that asks, *figures* of the DMZ node as a whole, and
    *count* counts the bytes of the sessions that run, which may take a while.
    """
    size = LISTENERS_PER_PAGE
    # Of one moment, as the sessions are: one that ends meanwhile is not counted twice.
    shown = [(each, asdict(each.tally)) for each in listeners[page * size : (page + 1) * size]]
    moved = await count()
    return {
        "draining": draining,
        "pages": max(1, -(-len(listeners) // size)),
        "figures": [{"name": name, "value": value} for name, value in figures.items()],
        "listeners": [
            {
                "service": listener.offer.name,
                "host": listener.offer.listen.host,
                "port": listener.offer.listen.port,
                "nodes": len(listener.nodes),
                "sessions": listener.sessions.total,
                **_live(tally, moved.get(listener.sessions, (0, 0))),
            }
            for listener, tally in shown
        ],
    }


def _live(tally: dict[str, int], moved: tuple[int, int]) -> dict[str, int]:
    """A listener's *tally*, with the bytes of its sessions that run (lesson 11)."""
    into, out = moved
    return tally | {"bytes_in": tally["bytes_in"] + into, "bytes_out": tally["bytes_out"] + out}
