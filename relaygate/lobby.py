"""
The DMZ node's one port for internal nodes: who knocks here is unknown until proven.

The first byte tells a TLS handshake (uplinks, TLS data channels) from a clear data channel; the
name in the certificate and the ALPN protocol, or the proof in the first message, tell the rest.
Nothing is said to a peer before that.  Peers in the lobby are few and have little time: when it is
full the one that has been here longest goes, since a real node needs milliseconds, so that a few
who keep quiet cannot keep a node out (lesson 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.interfaces import IAddress, IDelayedCall, IHandshakeListener, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from relaygate.admission import Throttle
from relaygate.commands import ALPN_CHANNEL, ALPN_UPLINK
from relaygate.legs import Leg, TLSFailed
from relaygate.protocols.preamble import MAGIC, ChannelOpen, OpenReader, PreambleError
from relaygate.tls import PeerNotAllowed, peer_name

# Seconds from the first packet to a hello answered, or a proof checked.
LOBBY_LIMIT_S = 10.0
MAX_IN_LOBBY = 256
MAX_IN_LOBBY_PER_ADDRESS = 64
# RFC 8446 section 5.1: a TLS connection begins with a record of type handshake (22).
_TLS_HANDSHAKE = b"\x16"


class IHost(Interface):
    """Who takes over what the lobby has found to be an internal node's."""

    def make_uplink(name: str, leg: Leg, settled: Callable[[], None]) -> None:
        """
        Node *name* has brought an uplink on *leg*; *settled* is to be called when it has said
        hello.
        """

    def take_channel(message: ChannelOpen, name: str | None, leg: Leg) -> None:
        """
        *message* opens a data channel on *leg*, under TLS by node *name*, or clear (None).

        Raises :class:`PreambleError` if its proof is not right.
        """


@implementer(IHandshakeListener)
class _Visitor(Protocol):
    """A peer of the lobby."""

    def __init__(self, lobby: Lobby, address: str) -> None:
        self._lobby = lobby
        self.address = address
        self._name: str | None = None
        self._reader = OpenReader()
        self._limit: IDelayedCall | None = None

    @property
    def leg(self) -> Leg:
        """The connection."""
        return cast(Leg, self.transport)

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._limit = self._lobby.clock.callLater(LOBBY_LIMIT_S, self.turn_away, "too slow")
        self.leg.peek_first()

    def first_byte(self, byte: bytes) -> None:
        """See :class:`relaygate.legs.IFirstByte`."""
        if byte == _TLS_HANDSHAKE:
            self.leg.start_tls(self._lobby.context(), server=True)
        elif byte != MAGIC[:1]:
            self.turn_away("neither TLS nor a data channel")

    def handshakeCompleted(self) -> None:
        """See :class:`twisted.internet.interfaces.IHandshakeListener`."""
        tls = self.leg.tls
        assert tls is not None
        try:
            self._name = peer_name(tls, self._lobby.nodes)
        except PeerNotAllowed as error:
            self.turn_away(f"{error}, which is not in uplink.nodes")
            return
        protocol = tls.get_alpn_proto_negotiated()
        if protocol == ALPN_UPLINK:
            self._lobby.host.make_uplink(self._name, self.leg, self.leave)
        elif protocol != ALPN_CHANNEL:
            self.turn_away("it names no protocol of ours (ALPN)")

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        try:
            for message in self._reader.receive(data):
                if self._reader.rest:
                    raise PreambleError("it spoke before it was spoken to")
                self._lobby.host.take_channel(message, self._name, self.leg)
                self.leave()
        except PreambleError as error:
            self.turn_away(str(error))

    def turn_away(self, reason: str) -> None:
        """Close the connection without a word."""
        if self.leave():
            self._lobby.note(self.address, reason)
        self.leg.abortConnection()

    def leave(self) -> bool:
        """This peer is no longer in the lobby; whether it was until now."""
        if self._limit is None:
            return False
        if self._limit.active():
            self._limit.cancel()
        self._limit = None
        self._lobby.left(self)
        return True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self.leave() and reason.check(TLSFailed):
            self._lobby.note(self.address, f"TLS: {reason.getErrorMessage()}")


class Lobby(Factory):
    """
    The factory of the uplink port.

    *host* provides :class:`IHost`, *context* gives the TLS context of the moment, *nodes* are the
    names that may come in.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        host: Any,
        clock: IReactorTime,
        context: Callable[[], SSL.Context],
        nodes: Sequence[str],
    ) -> None:
        self.host = host
        self.clock = clock
        self.context = context
        self.nodes = nodes
        # In order of arrival: dicts keep it, and forget in constant time.
        self._visitors: dict[_Visitor, None] = {}
        self._by_address: dict[str, dict[_Visitor, None]] = {}
        self._throttle = Throttle(clock.seconds)

    def __len__(self) -> int:
        return len(self._visitors)

    def buildProtocol(self, addr: IAddress | None) -> _Visitor:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        address = str(getattr(addr, "host", addr))
        if len(self._visitors) >= MAX_IN_LOBBY:
            next(iter(self._visitors)).turn_away("the lobby is full")
        neighbours = self._by_address.setdefault(address, {})
        if len(neighbours) >= MAX_IN_LOBBY_PER_ADDRESS:
            next(iter(neighbours)).turn_away("too many from this address")
            neighbours = self._by_address.setdefault(address, {})
        visitor = _Visitor(self, address)
        self._visitors[visitor] = None
        neighbours[visitor] = None
        return visitor

    def left(self, visitor: _Visitor) -> None:
        """*visitor* is no longer in the lobby."""
        del self._visitors[visitor]
        neighbours = self._by_address[visitor.address]
        del neighbours[visitor]
        if not neighbours:
            del self._by_address[visitor.address]

    def note(self, address: str, reason: str) -> None:
        """Log that a peer was turned away."""
        if self._throttle.passes():
            self.log.warn(
                "turned away from the uplink port: address={address} reason={reason!r}"
                " not_logged={not_logged}",
                address=address,
                reason=reason,
                not_logged=self._throttle.take_suppressed(),
            )

    def mismatch(self, offered: list[bytes]) -> None:
        """A TLS client offered none of our ALPN protocols: perhaps another version of ours."""
        if self._throttle.passes():
            self.log.warn(
                "uplink refused: the node offers {offered!r}, this node speaks {spoken!r}",
                offered=[name.decode("ascii", "replace")[:64] for name in offered[:8]],
                spoken=[ALPN_UPLINK.decode(), ALPN_CHANNEL.decode()],
            )
