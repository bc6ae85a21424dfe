"""How things look from where the DMZ node stands, for an internal node that asks (``Probe``)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime

from relaygate.addresses import HostPort
from relaygate.clocks import time_of_day
from relaygate.commands import BadArgument
from relaygate.passive import PassivePorts, can_bind
from relaygate.pool import ChannelLost, NoAnswer, NoChannel, PooledChannel
from relaygate.protocols.preamble import PROBE, SessionStart

# Seconds for the question to go over a data channel, and as many for a channel to come.
PROBE_LIMIT_S = 3.0

# What Linux says of the ports that it gives to who asks for none.
_LENT = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")

TakeChannel = Callable[[bool, float, str], Coroutine[Any, Any, PooledChannel]]


async def look(
    ports: PassivePorts,
    take: TakeChannel,
    clock: IReactorTime,
    *,
    tls: bool,
    host: str,
    first: int,
    last: int,
) -> dict[str, Any]:
    """
    What :class:`relaygate.commands.Probe` answers.

    *take* gives a channel of the node that asks, as for a client.  Raises :class:`BadArgument`.
    """
    answer: dict[str, Any] = {"permitted": 0, "looked": 0, "free": 0, "own": False}
    if host:
        if HostPort(host, 1).literal is None or first > last:
            raise BadArgument("expected an IP address, and a range of ports")
        permitted, looked, free = ports.survey(host, (first, last))
        answer |= {"permitted": permitted, "looked": looked, "free": free}
        answer["own"] = can_bind(host, 0)
        answer["lent"] = lent_ports(first, last)
    answer["clock"] = int(time_of_day(clock) * 1000)
    answer["channel"] = await _there_and_back(take, clock, tls)
    return answer


def lent_ports(first: int, last: int) -> int | None:
    """
    How many of the ports *first* to *last* the system lends to connections that go out.

    While one is lent nobody can listen there.  None: the system does not say.
    """
    try:
        lowest, highest = (int(word) for word in _LENT.read_text().split())
        reserved = _RESERVED.read_text()
        lent = set(range(max(first, lowest), min(last, highest) + 1))
        for span in reserved.strip().split(","):
            low, _, high = span.partition("-")
            if low:
                lent -= set(range(int(low), int(high or low) + 1))
    except (OSError, ValueError):
        return None
    return len(lent)


async def _there_and_back(take: TakeChannel, clock: IReactorTime, tls: bool) -> int:
    """Microseconds that an idle data channel takes for a message and its answer; 0 if none."""
    nobody = ("0.0.0.0", 0)  # noqa: S104 - the client that is none
    message = SessionStart("0" * 16, PROBE, nobody, nobody, int(PROBE_LIMIT_S * 1000))
    try:
        channel = await take(tls, PROBE_LIMIT_S, "")
        began = clock.seconds()
        await channel.start(message, clock, PROBE_LIMIT_S)
    except (NoChannel, NoAnswer, ChannelLost):
        return 0
    took = clock.seconds() - began
    channel.leg.abortConnection()
    return max(1, int(took * 1_000_000))
