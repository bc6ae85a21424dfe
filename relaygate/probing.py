"""What ``relaygate doctor`` asks a running internal node: how the way looks from its two ends."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from relaygate import commands
from relaygate.admin import AdminCommands, AdminError, Answer, Arguments
from relaygate.clocks import time_of_day
from relaygate.gatewaylink import GatewayLink
from relaygate.uplink import UplinkFailed


class ILinked(Protocol):
    """Whose links are probed."""

    links: dict[str, GatewayLink]


class Prober:
    """Answers for *node*."""

    def __init__(self, node: ILinked, clock: IReactorTime) -> None:
        self._node = node
        self._clock = clock

    def register(self, table: AdminCommands) -> None:
        """Put the command into the table."""
        table.register("probe", self.probe)

    async def probe(self, arguments: Arguments) -> Answer:
        """
        What the DMZ node ``gateway`` answers to :class:`relaygate.commands.Probe`, for a data
        channel of the kind ``channel`` ("clear" or "tls"), with the seconds that the uplink took
        (``uplink_seconds``) and that the clock there is ahead of ours (``clock_ahead_seconds``).

        ``host``, ``first`` and ``last`` are the ports to look at, if they are given.
        """
        name = arguments.text("gateway", longest=63)
        tls = arguments.choice("channel", "clear", "tls") == "tls"
        host = arguments.text("host", "", longest=64)
        first = arguments.number("first", 0, 65535, 0)
        last = arguments.number("last", 0, 65535, 0)
        arguments.finish()
        link = self._node.links.get(name)
        if link is None:
            raise AdminError(f"gateway: there is no {name!r}")
        began = self._clock.seconds()
        try:
            await link.ask(commands.Ping)
            took = self._clock.seconds() - began
            asked = time_of_day(self._clock)
            answer = await link.ask(commands.Probe, tls=tls, host=host, first=first, last=last)
        except UplinkFailed as error:
            raise AdminError(str(error)) from None
        # The clock is read before the channel is waited for, so it is that of the question.
        ahead = answer["clock"] / 1000 - (asked + took / 2)
        return {
            "uplink_seconds": round(took, 6),
            "clock_ahead_seconds": round(ahead, 3),
            "channel_seconds": answer["channel"] / 1_000_000 or None,
            "permitted": answer["permitted"],
            "looked": answer["looked"],
            "free": answer["free"],
            "own": answer["own"],
            "lent": answer.get("lent"),
        }
