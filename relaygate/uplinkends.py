"""
What the wire asks of the roles at its two ends: where a command that has come is carried out.

The wire stands below them, so it calls up through these interfaces alone.  *uplink* is always the
:class:`relaygate.uplink.Uplink` that the command came on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zope.interface import Interface


class IUplinkEnd(Interface):
    """What both roles are told by their end of an uplink."""

    def uplink_lost(uplink: Any, reason: str) -> None:
        """The uplink is gone; called once."""

    def farewell(uplink: Any, reason: str, superseded: bool) -> None:
        """The other node will end the uplink now; *superseded*: a newer one has taken over."""


class IDMZEnd(IUplinkEnd):
    """The DMZ node's end."""

    def hello(uplink: Any, software: str) -> int:
        """The node has said hello; the answer is the uplink's generation."""

    def declare(
        uplink: Any, page: int, last: bool, services: Sequence[dict[str, Any]]
    ) -> list[dict[str, str]]:
        """One page of services; the answer to the last one has ``name`` and ``reason`` of the
        refused.
        """

    def open_passive(
        uplink: Any,
        session: str,
        transfer: int,
        ports: tuple[int, int],
        peers: Sequence[str],
        tls: bool,
    ) -> int:
        """
        Listen for a data connection of *session*; the answer is the port.

        Raises :class:`relaygate.commands.NotPermitted`, :class:`relaygate.commands.NotPossible` or
        :class:`relaygate.commands.BadArgument`.
        """

    async def dial_active(
        uplink: Any, session: str, transfer: int, port: int, source_port: int, tls: bool
    ) -> None:
        """Dial the client of *session* for a data connection.  Raises as ``open_passive``."""

    def close_transfer(uplink: Any, session: str, transfer: int) -> None:
        """The transfer is given up, if there is one of that number."""

    def put_networks(
        uplink: Any, name: str, page: int, last: bool, four: bytes, six: bytes
    ) -> bool:
        """One page of a list of networks; the answer is whether the list is known already."""

    def ban(uplink: Any, bans: Sequence[dict[str, Any]]) -> int:
        """Set and lift bans; the answer is how many did not fit."""

    async def report(uplink: Any, page: int) -> dict[str, Any]:
        """What :class:`relaygate.commands.Report` answers, but for ``software``."""

    async def connect(uplink: Any, **wish: Any) -> dict[str, Any]:
        """Dial for a session; *wish* is what :class:`relaygate.commands.Connect` has, and the
        answer what it answers.  Raises as ``open_passive``.
        """

    async def await_peer(uplink: Any, **wish: Any) -> dict[str, Any]:
        """The same for :class:`relaygate.commands.Await`."""

    async def probe(uplink: Any, **question: Any) -> dict[str, Any]:
        """What :class:`relaygate.commands.Probe` answers to its own arguments."""


class IInternalEnd(IUplinkEnd):
    """The internal node's end."""

    def open_channels(uplink: Any, tls: bool, count: int) -> None:
        """Clients wait for *count* data channels."""

    def gateway_draining(uplink: Any) -> None:
        """The DMZ node takes no new sessions any more."""

    def declare_again(uplink: Any) -> None:
        """The DMZ node would answer otherwise to what was declared."""
