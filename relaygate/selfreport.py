"""What the DMZ node says of itself, for an internal node that asks (``Report``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from relaygate.admission import Counted
from relaygate.commands import LISTENERS_PER_PAGE
from relaygate.listeners import Listener

# Bytes of the sessions that run, into and out of the inside, by whose they are.
Moved = Mapping[Counted, tuple[int, int]]


def report_page(
    page: int,
    listeners: Sequence[Listener],
    moved: Moved,
    figures: Mapping[str, int],
    *,
    draining: bool,
) -> dict[str, Any]:
    """
    What :class:`relaygate.commands.Report` answers, but for the software.

    *listeners* are all of those of the node that asks, *figures* of the DMZ node as a whole.
    """
    size = LISTENERS_PER_PAGE
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
                **_live(listener, moved),
            }
            for listener in listeners[page * size : (page + 1) * size]
        ],
    }


def _live(listener: Listener, moved: Moved) -> dict[str, int]:
    """The listener's tally, with the bytes of the sessions that run (lesson 11)."""
    tally = asdict(listener.tally)
    into, out = moved.get(listener.sessions, (0, 0))
    return tally | {"bytes_in": tally["bytes_in"] + into, "bytes_out": tally["bytes_out"] + out}
