"""
Ports that are open for one connection each: passive FTP, as the Internet sees it.

A port is bound between the offer and the connection that it was offered for, and no longer.  It is
one of a range, drawn at random (RFC 2577 section 8), and it is given back by whatever comes first:
the connection, a wish to close it, or its time.  Who is not expected is reset, as if the port were
closed, and it stays (RFC 2577 section 4 has the attack: whoever connects first gets the file).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from relaygate.addresses import HostPort, ListenRule
from relaygate.admission import Throttle
from relaygate.commands import NotPermitted, NotPossible
from relaygate.intake import Intake
from relaygate.legport import Accepted
from relaygate.legs import Leg
from relaygate.onceport import OncePort
from relaygate.protocols.proxyheader import ProxyHeader

# Seconds that a port waits for its connection.
LISTEN_LIMIT_S = 60.0
# So many ports of a range are tried that others of this machine turn out to hold.
MAX_TRIES = 32
# To try one takes some microseconds, and everybody else waits meanwhile.
MAX_SURVEYED = 1024
FEW = 8


def can_bind(host: str, port: int) -> bool:
    """Whether a listener could have *port* (0: any) on *host*, an IP address, now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As listeners have it: connections that have just ended are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True


class PassivePort:
    """
    One port, open for one connection.

    *expects* tells whether a client's address may connect, *accepted* gets its leg, which is not
    read, and *expired* is called when nobody came in time.
    """

    def __init__(
        self,
        room: PassivePorts,
        expects: Callable[[str], bool],
        accepted: Callable[[Leg], None],
        expired: Callable[[], None],
    ) -> None:
        self.accepted = accepted
        self.number = 0
        self._room = room
        self._expects = expects
        self._expired = expired
        self._port: OncePort | None = None
        self._limit: IDelayedCall | None = None

    def open(self, host: str, number: int) -> None:
        """Listen on *host* and port *number*; raises :class:`CannotListenError`."""
        reactor = self._room.reactor
        self._port = OncePort(reactor, host, number, self._came)
        self.number = number
        self._limit = reactor.callLater(LISTEN_LIMIT_S, self._expire)
        self._room.bound.add((host, number))

    def _came(self, address: str) -> Protocol | None:
        """The protocol for whoever has come from *address*; None: reset it."""
        intake = self._room.intake
        if intake is not None and intake.trusts(address):
            return intake.protocol(self._introduced)
        return Accepted(self.accepted) if self._takes(address) else None

    def _introduced(self, leg: Leg, header: ProxyHeader) -> None:
        """A proxy has said whose connection *leg* is."""
        address = header.source[0] if header.source else str(leg.getPeer().host)
        if self._port is None or not self._takes(address):
            leg.abortConnection()
            return
        accepted = Accepted(self.accepted)
        leg.protocol = accepted
        accepted.makeConnection(leg)

    def _takes(self, address: str) -> bool:
        """Whether it is *address* that is expected; then nobody else is any more."""
        if not self._expects(address):
            self._room.stranger(address, self.number)
            return False
        self.close()
        return True

    def _expire(self) -> None:
        self.close()
        self._expired()

    def close(self) -> None:
        """Give the port back, if that has not happened."""
        if self._port is None or self._limit is None:
            return
        if self._limit.active():
            self._limit.cancel()
        port, self._port = self._port, None
        self._room.bound.discard((port.host, self.number))
        port.close()


class PassivePorts:
    """
    Opens ports within the DMZ's own policy (*rules*), which is asked each time.

    *sample* draws so many of a sequence without repeating, as :meth:`random.Random.sample`;
    *intake* asks trusted proxies whose connections they pass on;
    :attr:`bound` are those that are open now, as (host, port).
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        rules: Sequence[ListenRule],
        sample: Callable[[Sequence[int], int], list[int]],
        intake: Intake | None = None,
    ) -> None:
        self.reactor = reactor
        self.intake = intake
        self.bound: set[tuple[str, int]] = set()
        self.use_rules(rules)
        self._sample = sample
        self._strangers = Throttle(reactor.seconds)

    def use_rules(self, rules: Sequence[ListenRule]) -> None:
        """Ask these from now on."""
        # They are asked for each file that FTP moves, and mostly the same.
        self._allowed = lru_cache(maxsize=256)(partial(_allowed, tuple(rules)))

    def open(
        self,
        host: str,
        ports: tuple[int, int],
        expects: Callable[[str], bool],
        accepted: Callable[[Leg], None],
        expired: Callable[[], None],
    ) -> PassivePort:
        """
        A port on *host* from *ports* (first and last), for :class:`PassivePort`'s callbacks.

        Raises :class:`NotPermitted` if the policy has none of them, and :class:`NotPossible` if
        none is free.
        """
        allowed = self.allowed(host, ports)
        if not allowed:
            raise NotPermitted(
                f"the DMZ's policy.listen permits none of the ports {ports[0]}-{ports[1]} on {host}"
            )
        made = PassivePort(self, expects, accepted, expired)
        tries = 0
        for number in self._draw(allowed):
            if (host, number) in self.bound:
                continue
            try:
                made.open(host, number)
            except CannotListenError:
                tries += 1
                if tries == MAX_TRIES:
                    break
            else:
                return made
        raise NotPossible(f"no port of {ports[0]}-{ports[1]} is free")

    def _draw(self, ports: Sequence[int]) -> Iterator[int]:
        # Mostly one of the first is free, and to shuffle them all takes a while.
        for count in (1, min(FEW, len(ports)), len(ports)):
            yield from self._sample(ports, count)

    def allowed(self, host: str, ports: tuple[int, int]) -> Sequence[int]:
        """Those of *ports* (first and last) that the policy permits on *host*."""
        return self._allowed(host, ports)

    def survey(self, host: str, ports: tuple[int, int]) -> tuple[int, int, int]:
        """
        How many of *ports* the policy permits on *host*, how many of these were tried (at most
        :data:`MAX_SURVEYED`), and how many are free.  Nothing is opened.
        """
        allowed = self.allowed(host, ports)
        tried = allowed[:MAX_SURVEYED]
        return len(allowed), len(tried), sum(can_bind(host, number) for number in tried)

    def stranger(self, address: str, number: int) -> None:
        """Somebody whom nobody expects has connected to port *number*."""
        if self._strangers.passes():
            self.log.warn(
                "stranger closed on a passive port: address={address} port={port}"
                " not_logged={not_logged}",
                address=address,
                port=number,
                not_logged=self._strangers.take_suppressed(),
            )


def _allowed(rules: Sequence[ListenRule], host: str, ports: tuple[int, int]) -> Sequence[int]:
    spans = []
    for rule in rules:
        low, high = max(ports[0], rule.first), min(ports[1], rule.last)
        if low <= high and rule.permits(HostPort(host, low)):
            spans.append(range(low, high + 1))
    return spans[0] if len(spans) == 1 else sorted(set(chain(*spans)))
