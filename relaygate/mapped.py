"""
Ranges of ports in the DMZ that lead to the same ports of a server inside: FTP that is not opened.

Where TLS goes from the client to the server, nobody between can read which port a PASV has named.
So all that the server may name are open, each for the server's port of the same number, as long as
a session of the service runs, for the clients of such sessions alone::

    a session begins ---> its range is bound, if it is not
    a connection comes -> from a client of a session: it is that session's, the newest first
                          from anybody else: reset
    the last one ends --> a moment later the range is closed, unless another has begun

The moment keeps who connects and leaves in a loop from having a thousand ports bound each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from relaygate.admission import Throttle
from relaygate.intake import Intake
from relaygate.legport import Accepted, LegPort, Stranger, WaitingLeg
from relaygate.legs import Leg
from relaygate.protocols.proxyheader import ProxyHeader

# Seconds that a range stays bound behind its last session.
LINGER_S = 2.0


@dataclass(frozen=True, slots=True)
class Mapping:
    """
    What *service* wants mapped: ports *first* to *last*, for its clients and the networks *peers*.

    *tls* is the kind of channel that the connections are carried on.
    """

    service: str
    first: int
    last: int
    peers: tuple[str, ...]
    tls: bool


class _Range:
    """One mapping on one address of this machine, and the sessions that need it, newest last."""

    def __init__(self, mapping: Mapping) -> None:
        self.by_client: dict[str, list[str]] = {}
        self.ports: dict[int, LegPort] = {}
        self.closing: IDelayedCall | None = None
        self._networks = [ip_network(peer) for peer in mapping.peers]

    def sessions_of(self, address: str) -> list[str]:
        """The ids of the sessions whose data connections may come from *address*, newest first."""
        own = self.by_client.get(address, [])
        if not own and self._networks:
            own = self._of_neighbours(address)
        return own[::-1]

    def _of_neighbours(self, address: str) -> list[str]:
        networks = [network for network in self._networks if ip_address(address) in network]
        return [
            session
            for client, sessions in self.by_client.items()
            if any(ip_address(client) in network for network in networks)
            for session in sessions
        ]


class MappedPorts:
    """
    The ranges that are bound now.

    *allowed* gives those of some ports (first and last) that the DMZ's policy permits on an
    address; *arrived* is called with the ids of the sessions that a connection may belong to, the
    newest first, its port, and its leg, which is not read; *intake* asks trusted proxies whose
    connections they pass on.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        allowed: Callable[[str, tuple[int, int]], Sequence[int]],
        arrived: Callable[[list[str], int, Leg], None],
        intake: Intake | None = None,
    ) -> None:
        self._reactor = reactor
        self._intake = intake
        self._allowed = allowed
        self._arrived = arrived
        self._ranges: dict[tuple[str, Mapping], _Range] = {}
        self._by_session: dict[str, tuple[tuple[str, Mapping], str]] = {}
        self._strangers = Throttle(reactor.seconds)

    @property
    def bound(self) -> set[tuple[str, int]]:
        """What is open now, as (host, port)."""
        return {(host, number) for (host, _), each in self._ranges.items() for number in each.ports}

    def begin(self, session: str, client: str, reached: str, mapping: Mapping) -> None:
        """*session* of *client*, who has reached our address *reached*, needs *mapping* there."""
        key = (reached, mapping)
        self._by_session[session] = (key, client)
        needed = self._ranges.get(key)
        if needed is None:
            needed = self._ranges[key] = _Range(mapping)
            self._bind(needed, reached, mapping)
        if needed.closing is not None:
            needed.closing.cancel()
            needed.closing = None
        needed.by_client.setdefault(client, []).append(session)

    def sessions_of(self, client: str, reached: str, mapping: Mapping) -> list[str]:
        """The ids of the sessions of *client* that need *mapping*, the newest first."""
        needed = self._ranges.get((reached, mapping))
        return needed.by_client.get(client, [])[::-1] if needed is not None else []

    def over(self, session: str) -> None:
        """*session* has ended, if it had a mapping."""
        found = self._by_session.pop(session, None)
        if found is None:
            return
        key, client = found
        needed = self._ranges[key]
        needed.by_client[client].remove(session)
        if not needed.by_client[client]:
            del needed.by_client[client]
        if not needed.by_client:
            needed.closing = self._reactor.callLater(LINGER_S, self._close, key)

    def check_again(self) -> None:
        """The policy has changed: what it does not permit any more is closed."""
        for (host, mapping), needed in self._ranges.items():
            allowed = set(self._allowed(host, (mapping.first, mapping.last)))
            for number in needed.ports.keys() - allowed:
                needed.ports.pop(number).stopListening()

    def stop(self) -> None:
        """Close all ranges."""
        for key in list(self._ranges):
            self._close(key)

    def _bind(self, needed: _Range, host: str, mapping: Mapping) -> None:
        failed = []
        allowed = self._allowed(host, (mapping.first, mapping.last))
        for number in allowed:
            factory = _Mapped(partial(self._came, needed, number), self._intake)
            port = LegPort(host, number, factory, self._reactor, transport=WaitingLeg)
            try:
                port.startListening()
            except CannotListenError as error:
                failed.append(f"{number} ({error.socketError.strerror})")
            else:
                needed.ports[number] = port
        self.log.info(
            "range bound: host={host} ports={first}-{last} count={count}",
            host=host,
            first=mapping.first,
            last=mapping.last,
            count=len(needed.ports),
        )
        missing = mapping.last - mapping.first + 1 - len(allowed)
        if failed or missing:
            # The server names a port, and nobody is there: the client will wait in vain.
            self.log.warn(
                "range has gaps: host={host} forbidden={missing} failed={count} first={reason}",
                host=host,
                missing=missing,
                count=len(failed),
                reason=failed[0] if failed else "-",
            )

    def _close(self, key: tuple[str, Mapping]) -> None:
        needed = self._ranges.pop(key)
        if needed.closing is not None and needed.closing.active():
            needed.closing.cancel()
        for session in [each for own in needed.by_client.values() for each in own]:
            del self._by_session[session]
        for port in needed.ports.values():
            port.stopListening()
        host, mapping = key
        self.log.info(
            "range closed: host={host} ports={first}-{last}",
            host=host,
            first=mapping.first,
            last=mapping.last,
        )

    def _came(self, needed: _Range, number: int, address: str) -> Callable[[Leg], None] | None:
        sessions = needed.sessions_of(address)
        if sessions:
            return partial(self._arrived, sessions, number)
        if self._strangers.passes():
            self.log.warn(
                "stranger closed on a passive port: address={address} port={port}"
                " not_logged={not_logged}",
                address=address,
                port=number,
                not_logged=self._strangers.take_suppressed(),
            )
        return None


class _Mapped(Factory):
    """The factory of one port; *came* gives what takes a connection from an address, or None."""

    noisy = False

    def __init__(
        self, came: Callable[[str], Callable[[Leg], None] | None], intake: Intake | None
    ) -> None:
        self._came = came
        self._intake = intake

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        address = str(getattr(addr, "host", addr))
        if self._intake is not None and self._intake.trusts(address):
            return self._intake.protocol(self._introduced)
        taker = self._came(address)
        return Stranger() if taker is None else Accepted(taker)

    def _introduced(self, leg: Leg, header: ProxyHeader) -> None:
        """A proxy has said whose connection *leg* is."""
        taker = self._came(header.source[0] if header.source else str(leg.getPeer().host))
        if taker is None:
            leg.abortConnection()
            return
        accepted = Accepted(taker)
        leg.protocol = accepted
        accepted.makeConnection(leg)
