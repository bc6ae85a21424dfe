"""
What tests of the wire share: legs without a socket, two uplinks joined in memory, real loopback
legs, identities of a throwaway CA, and the log.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.protocols.amp import COMMAND, AmpBox
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from relaygate import pki
from relaygate.addresses import HostPort
from relaygate.dial import dial
from relaygate.identity import Identity, Role
from relaygate.legport import LegPort
from relaygate.legs import Leg
from relaygate.tls import client_context
from relaygate.uplink import Uplink
from relaygate.uplinkends import IDMZEnd, IInternalEnd

WAIT_S = 30.0
"""Seconds after which something that should have happened has not."""


class MemoryLeg:
    """
    A leg that keeps what is written to it, and lets the test say when it is gone.

    As with a real one, ``abortConnection`` only begins the end: :meth:`lose` brings it.
    """

    def __init__(self, host: str = "192.0.2.7", *, tls: object = None) -> None:
        self.protocol: Any = None
        self.tls = tls
        self.written = bytearray()
        self.connected = True
        self.aborted = False
        self.closing = False
        self.reading = True
        self.peeking = False
        self.unsent = 0
        self.disconnecting = False
        self._host = host

    def carry(self, protocol: Any) -> None:
        """Give the leg to *protocol*."""
        self.protocol = protocol
        protocol.makeConnection(self)

    def write(self, data: bytes) -> None:
        if self.connected:
            self.written += data

    def writeSequence(self, data: Sequence[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        self.aborted = True

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True

    pauseProducing = stopReading
    resumeProducing = startReading

    def peek_first(self) -> None:
        self.peeking = True

    def start_tls(
        self, context: object, *, server: bool, sni: str | None = None, session: object = None
    ) -> None:
        self.tls = context
        self.resumed = session

    def getPeer(self) -> Any:
        return SimpleNamespace(host=self._host, port=40_000)

    def getHost(self) -> Any:
        return SimpleNamespace(host="192.0.2.1", port=9)

    @property
    def ending(self) -> bool:
        """Whether our side has begun to end it."""
        return self.aborted or self.closing

    def take(self) -> bytes:
        """What was written since the last call."""
        data = bytes(self.written)
        self.written.clear()
        return data

    def lose(self, reason: Exception | None = None) -> None:
        """The connection is gone."""
        if self.connected:
            self.connected = False
            error = reason or (ConnectionAborted() if self.aborted else ConnectionDone())
            self.protocol.connectionLost(Failure(error))


class MemoryTLS:
    """What a TLS session of a :class:`MemoryLeg` answers; each session has secrets of its own."""

    _made = 0

    def __init__(self, group: str = "X25519MLKEM768") -> None:
        MemoryTLS._made += 1
        self._number = MemoryTLS._made
        self._group = group

    def export_keying_material(self, label: bytes, length: int) -> bytes:
        return hashlib.shake_128(b"%d %s" % (self._number, label)).digest(length)

    def get_group_name(self) -> str:
        return self._group


class _End:
    """What both recording roles have."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.farewells: list[tuple[str, bool]] = []
        self.raises: Exception | None = None

    def uplink_lost(self, uplink: Uplink, reason: str) -> None:
        self.lost.append(reason)

    def farewell(self, uplink: Uplink, reason: str, superseded: bool) -> None:
        self._fail()
        self.farewells.append((reason, superseded))

    def _fail(self) -> None:
        if self.raises is not None:
            raise self.raises


@implementer(IDMZEnd)
class DMZEnd(_End):
    """Records what a DMZ node is told; :attr:`raises` is what its answers fail with."""

    def __init__(self) -> None:
        super().__init__()
        self.hellos: list[str] = []
        self.declared: list[tuple[int, bool, list[dict[str, Any]]]] = []
        self.transfers: list[tuple[Any, ...]] = []
        self.networks: list[tuple[str, int, bool, bytes, bytes]] = []
        self.bans: list[list[dict[str, Any]]] = []

    def hello(self, uplink: Uplink, software: str) -> int:
        self._fail()
        self.hellos.append(software)
        return len(self.hellos)

    def declare(
        self, uplink: Uplink, page: int, last: bool, services: Sequence[dict[str, Any]]
    ) -> list[dict[str, str]]:
        self._fail()
        self.declared.append((page, last, list(services)))
        return []

    def open_passive(
        self,
        uplink: Uplink,
        session: str,
        transfer: int,
        ports: tuple[int, int],
        peers: Sequence[str],
        tls: bool,
    ) -> int:
        self._fail()
        self.transfers.append(("passive", session, transfer, ports, tuple(peers), tls))
        return ports[0]

    async def dial_active(
        self, uplink: Uplink, session: str, transfer: int, port: int, source_port: int, tls: bool
    ) -> None:
        self._fail()
        self.transfers.append(("active", session, transfer, port, source_port, tls))

    def close_transfer(self, uplink: Uplink, session: str, transfer: int) -> None:
        self._fail()
        self.transfers.append(("close", session, transfer))

    async def connect(self, uplink: Uplink, **wish: Any) -> dict[str, Any]:
        self._fail()
        self.transfers.append(("connect", wish))
        return {"code": 0, "detail": "", "own_host": "192.0.2.1", "own_port": 40_000}

    async def await_peer(self, uplink: Uplink, **wish: Any) -> dict[str, Any]:
        self._fail()
        self.transfers.append(("await", wish))
        return {"code": 0, "detail": "", "own_host": "192.0.2.1", "own_port": wish["first"]}

    def put_networks(
        self, uplink: Uplink, name: str, page: int, last: bool, four: bytes, six: bytes
    ) -> bool:
        self._fail()
        self.networks.append((name, page, last, four, six))
        return False

    def ban(self, uplink: Uplink, bans: Sequence[dict[str, Any]]) -> int:
        self._fail()
        self.bans.append(list(bans))
        return 0

    async def probe(self, uplink: Uplink, **question: Any) -> dict[str, Any]:
        self._fail()
        return dict.fromkeys(("clock", "channel", "permitted", "looked", "free"), 0) | {"own": True}

    async def report(self, uplink: Uplink, page: int) -> dict[str, Any]:
        self._fail()
        return {
            "draining": False,
            "pages": 1,
            "figures": [{"name": "sessions", "value": 3}],
            "listeners": [],
        }


@implementer(IInternalEnd)
class InternalEnd(_End):
    """Records what an internal node is told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[bool, int]] = []
        self.draining = False
        self.stale = 0

    def open_channels(self, uplink: Uplink, tls: bool, count: int) -> None:
        self._fail()
        self.asked.append((tls, count))

    def gateway_draining(self, uplink: Uplink) -> None:
        self._fail()
        self.draining = True

    def declare_again(self, uplink: Uplink) -> None:
        self._fail()
        self.stale += 1


class UplinkPair:
    """An uplink's two ends, joined by memory; :meth:`flush` carries what both have written."""

    def __init__(self, clock: Any) -> None:
        self.dmz_end = DMZEnd()
        self.internal_end = InternalEnd()
        self.dmz = Uplink(self.dmz_end, clock, "dmz 1.0")
        self.internal = Uplink(self.internal_end, clock, "internal 1.0")
        self.dmz_leg = MemoryLeg()
        self.internal_leg = MemoryLeg()
        self.dmz_leg.carry(self.dmz)
        self.internal_leg.carry(self.internal)

    def flush(self) -> None:
        """Carry bytes both ways until both ends are quiet."""
        while self.dmz_leg.written or self.internal_leg.written:
            for source, sink in (
                (self.dmz_leg, self.internal_leg),
                (self.internal_leg, self.dmz_leg),
            ):
                data = source.take()
                if data and sink.connected:
                    sink.protocol.dataReceived(data)

    def ask(self, uplink: Uplink, command: Any, **arguments: Any) -> Deferred[dict[str, Any]]:
        """Ask over *uplink* and carry the question and the answer."""
        answer: Deferred[dict[str, Any]] = Deferred.fromCoroutine(uplink.ask(command, **arguments))
        self.flush()
        return answer


def box(command: bytes, **arguments: bytes) -> bytes:
    """The bytes of a box that asks *command*; an underscore in a name stands for a hyphen."""
    made = AmpBox({COMMAND: command, b"_ask": b"1"})
    for name, value in arguments.items():
        made[name.replace("_", "-").encode()] = value
    wire: bytes = made.serialize()
    return wire


def boxes(data: bytes) -> list[dict[bytes, bytes]]:
    """The boxes that stand in *data*."""
    found: list[dict[bytes, bytes]] = []
    pieces = deque(_strings(data))
    current: dict[bytes, bytes] = {}
    while pieces:
        key = pieces.popleft()
        if key:
            current[key] = pieces.popleft()
        else:
            found.append(current)
            current = {}
    return found


def _strings(data: bytes) -> Iterator[bytes]:
    while data:
        length = int.from_bytes(data[:2])
        yield data[2 : 2 + length]
        data = data[2 + length :]


NOW = datetime.now(UTC)
CA = "relaygate test"


@cache
def authority(name: str) -> pki.CertifiedKey:
    """The CA called *name*, which is valid since long ago."""
    return pki.make_ca(name, NOW - timedelta(days=900))


def identity(
    name: str, role: Role, *, ca: str = CA, now: datetime = NOW, days: int = 30
) -> Identity:
    """An identity in memory, of a certificate that was issued at *now*."""
    root = authority(ca)
    made = pki.issue(root, name, role, now, days)
    end = made.certificate.not_valid_after_utc
    return Identity(name, role, end, made.certificate_pem, made.key_pem, root.certificate_pem)


@contextmanager
def logged() -> Iterator[Sequence[LogEvent]]:
    """The events that are logged meanwhile."""
    events: list[LogEvent] = []
    note = cast(ILogObserver, events.append)
    # Twisted's own way to do this goes on noting if the test fails.
    globalLogPublisher.addObserver(note)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(note)


def lines(events: Sequence[LogEvent], part: str = "") -> list[str]:
    """The messages of *events* that contain *part*; only our own, not Twisted's."""
    ours = (event for event in events if str(event.get("log_namespace")).startswith("relaygate"))
    return [text for text in map(formatEvent, ours) if part in text]


async def until(true: Callable[[], object], what: str = "what was waited for") -> None:
    """Let the reactor work until *true*; raises ``AssertionError`` after :data:`WAIT_S`."""
    end = reactor.seconds() + WAIT_S
    while not true():
        if reactor.seconds() > end:
            raise AssertionError(f"{what} has not happened in {WAIT_S:g} s")
        await deferLater(reactor, 0.005)


class Peer(Protocol):
    """The test's end of a real leg: what it was told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.secured = False
        self.over: str | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def handshakeCompleted(self) -> None:
        self.secured = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over = reason.getErrorMessage()

    @property
    def leg(self) -> Any:
        return self.transport


class Listening:
    """A real port on loopback for one test; *factory* builds what answers there."""

    def __init__(self, case: TestCase, factory: Factory) -> None:
        self.port = LegPort("127.0.0.1", 0, factory, reactor)
        self.port.startListening()
        self.address = HostPort("127.0.0.1", self.port.getHost().port)
        self._legs: list[Leg] = []
        case.addCleanup(self._close)

    async def connect(
        self,
        context: SSL.Context | None = None,
        protocol: Any = None,
        sni: str = "dmz",
        session: SSL.Session | None = None,
    ) -> Any:
        """
        Dial it; under TLS if there is a *context*, whose handshake is only begun, and which may
        resume *session*.
        """
        leg = await dial(reactor, self.address, WAIT_S)
        self._legs.append(leg)
        peer = protocol or Peer()
        leg.protocol = peer
        peer.makeConnection(leg)
        leg.startReading()
        if context is not None:
            leg.start_tls(context, server=False, sni=sni, session=session)
        return peer

    async def join(self, who: Identity, protocol: bytes) -> Peer:
        """Dial it as node *who* does for ALPN *protocol*, and wait for the handshake's end."""
        peer: Peer = await self.connect(client_context(who, protocol))
        await until(lambda: peer.secured or peer.over is not None, "the handshake's end")
        return peer

    async def _close(self) -> None:
        for leg in self._legs:
            if leg.connected:
                leg.abortConnection()
        closed = self.port.stopListening()
        if closed is not None:
            await closed
        await deferLater(reactor, 0.01)
