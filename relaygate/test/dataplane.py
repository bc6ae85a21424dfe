"""
A bench for the data plane: two peers, two legs between them, and a relay that joins the legs.

Time is a :class:`~twisted.internet.task.Clock` here: limits strike when a test says so.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self, TypeVar, cast

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from relaygate import pump, tls
from relaygate.addresses import HostPort
from relaygate.dial import dial
from relaygate.identity import Identity, Role
from relaygate.legport import LegPort
from relaygate.legs import Leg
from relaygate.outcome import Outcome
from relaygate.pipes import PipeShelf
from relaygate.pki import issue, make_ca
from relaygate.pump import Pump
from relaygate.relay import Relay
from relaygate.test.farend import LOOPBACK, PATIENCE_S, Peer, open_descriptors, reactor, until

_ALPN: Final = b"dataplane-test"

CaseT = TypeVar("CaseT", bound=TestCase)


@functools.cache
def identities() -> dict[Role, Identity]:
    """A node of each role, of one CA, in memory."""
    now = datetime.now(UTC)
    ca = make_ca("data plane test", now)
    found = {}
    for role in Role:
        made = issue(ca, f"{role.value}.test", role, now)
        found[role] = Identity(
            name=f"{role.value}.test",
            role=role,
            not_after=now,
            certificate_pem=made.certificate_pem,
            key_pem=made.key_pem,
            ca_pem=ca.certificate_pem,
        )
    return found


@functools.cache
def server_context() -> SSL.Context:
    """A DMZ node's TLS context."""
    return tls.server_context(identities()[Role.DMZ], [_ALPN], lambda offered: None)


@functools.cache
def client_context() -> SSL.Context:
    """An internal node's TLS context."""
    return tls.client_context(identities()[Role.INTERNAL], _ALPN)


def tls_peer(skt: socket.socket, *, server: bool) -> Peer:
    """A peer under TLS, which shakes hands as soon as the reactor runs."""
    connection = SSL.Connection(server_context() if server else client_context(), skt)
    if server:
        connection.set_accept_state()
    else:
        connection.set_connect_state()
    return Peer(skt, connection)


@implementer(IHandshakeListener)
class Keeper(Protocol):
    """The protocol of a leg that no relay has yet; ``ready`` fires when it can have one."""

    def __init__(self, *, shakes: bool) -> None:
        self.ready: Deferred[Leg] = Deferred()
        self._shakes = shakes

    @property
    def leg(self) -> Leg:
        """The connection."""
        return cast(Leg, self.transport)

    def connectionMade(self) -> None:
        if not self._shakes:
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        self.leg.stopReading()
        self.ready.callback(self.leg)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ready.called:
            self.ready.errback(reason)


class _ServerKeeper(Keeper):
    def connectionMade(self) -> None:
        if self._shakes:
            self.leg.start_tls(server_context(), server=True)
        super().connectionMade()


async def accepted(*, tls: bool = False) -> tuple[Leg, Peer]:
    """A leg that was accepted, not yet reading, and the peer that dialled it."""
    keeper = _ServerKeeper(shakes=tls)
    port = LegPort(LOOPBACK, 0, Factory.forProtocol(lambda: keeper), reactor)
    port.startListening()
    skt = socket.create_connection((LOOPBACK, port.getHost().port))
    peer = tls_peer(skt, server=False) if tls else Peer(skt)
    try:
        return await keeper.ready, peer
    finally:
        await port.stopListening()


async def dialled(*, tls: bool = False) -> tuple[Leg, Peer]:
    """A leg that was dialled, not yet reading, and the peer that accepted it."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        leg = await dial(reactor, HostPort(LOOPBACK, listener.getsockname()[1]), PATIENCE_S)
        skt, _ = listener.accept()
    if not tls:
        return leg, Peer(skt)
    peer = tls_peer(skt, server=True)
    keeper = Keeper(shakes=True)
    leg.protocol = keeper
    keeper.makeConnection(leg)
    leg.start_tls(client_context(), server=False, sni="dmz.test")
    leg.startReading()
    return await keeper.ready, peer


@dataclass(frozen=True)
class Way:
    """One way in which a relay may be built."""

    outer_tls: bool
    inner_tls: bool
    splice: bool

    def __str__(self) -> str:
        outer, inner = ("TLS" if each else "clear" for each in (self.outer_tls, self.inner_tls))
        return f"{outer} to {inner}{', spliced' if self.splice else ''}"


SPLICED: Final = Way(outer_tls=False, inner_tls=False, splice=True)
COPIED: Final = Way(outer_tls=False, inner_tls=False, splice=False)
OUTER_TLS: Final = Way(outer_tls=True, inner_tls=False, splice=False)
INNER_TLS: Final = Way(outer_tls=False, inner_tls=True, splice=False)
BOTH_TLS: Final = Way(outer_tls=True, inner_tls=True, splice=False)
WAYS: Final = (SPLICED, COPIED, OUTER_TLS, INNER_TLS, BOTH_TLS)


async def gone(leg: Leg) -> None:
    """Wait until a leg is no longer connected."""
    await until(lambda: not leg.connected, "the end of a leg")


async def held(moving: Pump) -> None:
    """Wait until a pump's sink is full and the pump waits for it."""
    await until(lambda: moving.holding, "a full sink")


async def warm_up() -> None:
    """Have the reactor open what it opens once, when it begins to run and when it listens."""
    await deferLater(reactor, 0)
    port = LegPort(LOOPBACK, 0, Factory(), reactor)
    port.startListening()
    await port.stopListening()


class Bench:
    """
    ``client``, ``outer``, ``relay``, ``inner`` and ``backend``, joined in a row, for one ``async
    with``.

    Leaving it ends everything, and fails if a descriptor, a pipe or a timer is left over.
    """

    client: Peer
    outer: Leg
    inner: Leg
    backend: Peer

    def __init__(
        self, way: Way, *, idle_timeout_s: float | None = None, started: bool = True
    ) -> None:
        self.way = way
        self.clock = Clock()
        self.shelf = PipeShelf()
        self.outcome: Outcome | None = None
        self._idle_timeout_s = idle_timeout_s
        self._started = started
        self._relay: Relay | None = None
        self._before: dict[str, str] = {}

    @property
    def relay(self) -> Relay:
        """The relay; it is made when first asked for."""
        if self._relay is None:
            splice = pump._SPLICE
            pump._SPLICE = os.splice if self.way.splice else None
            try:
                self._relay = Relay(
                    self.outer,
                    self.inner,
                    cast(Any, self.clock),
                    self.shelf,
                    self._done,
                    idle_timeout_s=self._idle_timeout_s,
                )
            finally:
                pump._SPLICE = splice
        return self._relay

    def _done(self, outcome: Outcome) -> None:
        assert self.outcome is None, "the end was told twice"
        self.outcome = outcome

    async def over(self) -> Outcome:
        """Wait until the relay has ended, and return how."""
        await until(lambda: self.outcome, "the relay's end")
        assert self.outcome is not None
        return self.outcome

    def pass_time(self, seconds: float) -> None:
        """Let time pass, one second after the other."""
        for _ in range(round(seconds)):
            self.clock.advance(1)

    @property
    def peers(self) -> tuple[Peer, Peer]:
        """Both peers."""
        return self.client, self.backend

    async def __aenter__(self) -> Self:
        await warm_up()
        self._before = open_descriptors()
        self.outer, self.client = await accepted(tls=self.way.outer_tls)
        self.inner, self.backend = await dialled(tls=self.way.inner_tls)
        if self._started:
            self.relay.start()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        for leg in (self.outer, self.inner):
            leg.abortConnection()
        self.client.close()
        self.backend.close()
        await until(lambda: not (self.outer.connected or self.inner.connected), "both legs gone")
        self.shelf.close()
        if error is None:
            self._check()

    def _check(self) -> None:
        assert self.shelf.lent == 0, f"{self.shelf.lent} pipes were not given back"
        assert not self.clock.getDelayedCalls(), "a timer was left"
        for leg in (self.outer, self.inner):
            assert leg.inbound is leg.outbound is None, "a leg was left on a pump"
        left = set(open_descriptors().items()) - set(self._before.items())
        assert not left, f"descriptors were left: {left}"


def every_way(
    test: Callable[[CaseT, Bench], Awaitable[None]],
) -> Callable[[CaseT], Awaitable[None]]:
    """Run a test once for each way of relaying, each time with a new bench."""

    @functools.wraps(test)
    async def run(case: CaseT) -> None:
        for way in WAYS:
            try:
                async with Bench(way) as bench:
                    await test(case, bench)
            except AssertionError as error:
                raise AssertionError(f"{way}: {error}") from error

    return run


class Recorder(Protocol):
    """A protocol that notes what it is told, and takes an end as the end of all."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.data = b""
        self.peeked = b""
        self.lost: Failure | None = None

    @property
    def leg(self) -> Leg:
        """The connection."""
        return cast(Leg, self.transport)

    def first_byte(self, byte: bytes) -> None:
        self.peeked += byte

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    async def gone(self) -> BaseException:
        """Wait until the connection is lost; why."""
        await until(lambda: self.lost, "the end of a leg")
        assert self.lost is not None
        assert self.lost.value is not None
        return self.lost.value

    async def heard(self, data: bytes) -> None:
        """Wait until as many bytes as in *data* have come, which must be these."""
        await until(lambda: len(self.data) >= len(data), f"{len(data)} bytes at a leg")
        assert self.data == data


@implementer(IHandshakeListener)
class TLSRecorder(Recorder):
    """The same, under TLS from its first byte on."""

    context = staticmethod(server_context)

    def connectionMade(self) -> None:
        self.leg.start_tls(self.context(), server=True)

    def handshakeCompleted(self) -> None:
        self.notes.append("handshake")


@implementer(IHalfCloseableProtocol)
class HalfRecorder(TLSRecorder):
    """The same, which knows that ends come one by one."""

    def readConnectionLost(self) -> None:
        self.notes.append("end")

    def writeConnectionLost(self) -> None:
        self.notes.append("end sent")


class LegCase(TestCase):
    """What makes legs and cleans up after them."""

    timeout = 180

    def listen(
        self, factory: Factory, host: str = LOOPBACK, port: int = 0, *, shared: bool = False
    ) -> LegPort:
        """A listening port, until the test is over."""
        factory.noisy = False
        listening = LegPort(host, port, factory, reactor, shared=shared)
        listening.startListening()
        self.addCleanup(listening.stopListening)
        return listening

    async def connect(self, protocol: Recorder) -> socket.socket:
        """Give *protocol* an accepted leg; returns the other end."""
        port = self.listen(Factory.forProtocol(cast(Any, lambda: protocol)))
        skt = socket.create_connection((LOOPBACK, port.getHost().port))
        self.addCleanup(skt.close)
        await until(lambda: protocol.transport, "a connection")
        self.addCleanup(self.drop, protocol.leg)
        return skt

    async def drop(self, leg: Leg) -> None:
        """Make an end of a leg."""
        leg.abortConnection()
        await gone(leg)

    def tls_peer(self, skt: socket.socket) -> Peer:
        """A TLS client's end, until the test is over."""
        peer = tls_peer(skt, server=False)
        self.addCleanup(peer.close)
        return peer
