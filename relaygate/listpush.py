"""Putting lists of networks, and bans, into the DMZ over an uplink."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from relaygate import commands
from relaygate.networks import FOUR, SIX, NetworkSet
from relaygate.uplink import Uplink

# The minor version that knows lists and bans; an older DMZ node would not understand them.
MINOR = 2


async def put_networks(uplink: Uplink, networks: NetworkSet) -> None:
    """
    Put *networks* into the DMZ, page by page; only the first one if they are known there.

    Raises :class:`relaygate.uplink.UplinkFailed`.
    """
    four = _pages(networks.four, FOUR)
    six = _pages(networks.six, SIX)
    count = max(len(four), len(six), 1)
    for page in range(count):
        answer = await uplink.ask(
            commands.PutNetworks,
            name=networks.name,
            page=page,
            last=page == count - 1,
            four=four[page] if page < len(four) else b"",
            six=six[page] if page < len(six) else b"",
        )
        if answer["known"]:
            return


async def put_lists(
    uplink: Uplink, services: Iterable[dict[str, Any]], minor: int
) -> list[dict[str, Any]]:
    """
    *services* as Declare has them, the lists of networks in them put into the DMZ and named.

    A DMZ node of an older *minor* version is told of none: the inside asks them itself as well.
    """
    named = []
    put: set[str] = set()
    for service in services:
        service = dict(service)
        for kind in ("allow", "deny"):
            networks: NetworkSet | None = service.pop(kind, None)
            if networks is None or minor < MINOR:
                continue
            if networks.name not in put:
                await put_networks(uplink, networks)
                put.add(networks.name)
            service[kind] = networks.name
        named.append(service)
    return named


def pages_of(services: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """*services* as Declare has them, on as many pages as they need; one at least."""
    rows = dict(commands.Declare.arguments)[b"services"]
    pages: list[list[dict[str, Any]]] = [[]]
    room = commands.PAGE_BYTES
    for service in services:
        size = len(rows.toStringProto([service], None))
        if len(pages[-1]) == commands.SERVICES_PER_PAGE or size > room:
            pages.append([])
            room = commands.PAGE_BYTES
        pages[-1].append(service)
        room -= size
    return pages


def _pages(data: bytes, width: int) -> Sequence[bytes]:
    step = commands.LIST_PAGE_BYTES // (2 * width) * 2 * width
    return [data[at : at + step] for at in range(0, len(data), step)]


async def put_bans(uplink: Uplink, bans: Iterable[tuple[str, float]]) -> int:
    """
    Set *bans*: each a network, and seconds that it has left (0 lifts it).

    The answer is how many did not fit.  Raises :class:`relaygate.uplink.UplinkFailed`.
    """
    rows: list[dict[str, Any]] = [
        # No ban ends too soon for being told.
        {"network": network, "seconds": min(-int(-seconds // 1), commands.MAX_BAN_S)}
        for network, seconds in bans
    ]
    size = commands.BANS_PER_PAGE
    full = 0
    for at in range(0, len(rows), size):
        full += (await uplink.ask(commands.Ban, bans=rows[at : at + size]))["full"]
    return full
