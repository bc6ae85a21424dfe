"""
What a declaration means in the DMZ: the rows of a wish become :class:`Offer` objects, or words.

The rows are those of :class:`relaygate.commands.Declare`, whose types the wire has checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

from relaygate.addresses import AddressError, HostPort, service_name
from relaygate.commands import MAX_MAPPED
from relaygate.listeners import MAPPED_PROTOCOLS, Offer
from relaygate.listshelf import ListShelf
from relaygate.mapped import Mapping


def offers_of(
    wish: Iterable[dict[str, Any]], lists: ListShelf
) -> tuple[list[Offer], dict[str, str]]:
    """The offers of a whole *wish*, and by name why the others are none."""
    offers: list[Offer] = []
    refused: dict[str, str] = {}
    for row in wish:
        try:
            offers.append(offer_of(row, lists))
        except AddressError as error:
            refused[row["name"]] = str(error)
    return offers, refused


def offer_of(row: dict[str, Any], lists: ListShelf) -> Offer:
    """
    What one *row* of a wish offers; its lists stand in *lists*.

    Raises :class:`relaygate.addresses.AddressError`, whose words go back to the node.
    """
    return Offer(
        name=service_name(row["name"]),
        protocol=row["protocol"],
        listen=HostPort.parse(str(HostPort(row["host"], row["port"])), numeric=True),
        tls_channel=row["tls_channel"],
        max_sessions=row["max_sessions"],
        max_sessions_per_address=row["max_sessions_per_address"],
        # From here on a node of an older minor version says nothing.
        balance=row.get("balance") or "round-robin",
        persistence=row.get("persistence") or 0,
        mapping=_mapping(row),
        max_rate=row.get("max_rate") or 0,
        max_rate_per_address=row.get("max_rate_per_address") or 0,
        allow=lists.find(row.get("allow")),
        deny=lists.find(row.get("deny")),
    )


def _mapping(row: dict[str, Any]) -> Mapping | None:
    if row["protocol"] not in MAPPED_PROTOCOLS:
        return None
    first, last = row.get("map_first"), row.get("map_last")
    if first is None or last is None or not first <= last < first + MAX_MAPPED:
        raise AddressError(f"expected 1 to {MAX_MAPPED} ports to be mapped")
    peers = tuple((row.get("map_peers") or "").split())
    try:
        for peer in peers:
            ip_network(peer)
    except ValueError:
        raise AddressError("a peer is not a network") from None
    return Mapping(row["name"], first, last, peers, bool(row.get("map_tls")))
