"""
The internal node's end of data channels: dial them, keep a few idle, hand over those that are
started.

::

    DIALLING -> (TLS) -> OPENED, idle ----- start from the DMZ node ----> handed to a session
        |                   |
        +---- failed -------+---- lost, or too old ----> another is dialled

One supply belongs to one uplink and ends with it.  It keeps *size* channels of each kind that its
services need.  A channel that is taken is replaced at once; one that failed only after a pause, so
that a DMZ node that refuses channels is not hammered (lesson 8); the dials under way are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.addresses import HostPort
from relaygate.backoff import FullJitter
from relaygate.dial import DialFailed, dial
from relaygate.legs import Leg
from relaygate.protocols.preamble import (
    MessageReader,
    PreambleError,
    SessionReply,
    SessionStart,
    TransferStart,
    UplinkKeys,
    seal,
)
from relaygate.tls import PeerNotAllowed, demand_gateway

# What a channel may begin with.
Start = SessionStart | TransferStart

DIAL_LIMIT_S = 10.0
# For each kind; both together stay below what the lobby has room for from one address.
MAX_DIALS = 24
# However many a DMZ node asks for, no more than this wait idle or to be dialled.
MAX_DEMANDED = 2048
# As the DMZ node makes them; anything else could pass for a line of the log.
SESSION_ID = re.compile("[0-9a-f]{16}")
# An idle channel is replaced after this long, drawn anew for each: firewalls forget quiet ones.
MIN_AGE_S = 300.0
MAX_AGE_S = 600.0


@implementer(IHandshakeListener)
class SuppliedChannel(Protocol):
    """
    A channel that this node has dialled, until a session takes its leg over.

    *started* is called with the DMZ node's message, *lost* when the channel is gone before that.
    """

    def __init__(
        self,
        keys: UplinkKeys,
        serial: int,
        gateway_name: str,
        started: Callable[[SuppliedChannel, Start], None],
        lost: Callable[[SuppliedChannel, str], None],
    ) -> None:
        self._opening = bytes(keys.open(serial))
        self._key = keys.channel_key(serial)
        self._gateway_name = gateway_name
        self._reader = MessageReader([SessionStart, TransferStart], self._key)
        self._started = started
        self._lost: Callable[[SuppliedChannel, str], None] | None = lost
        self._cancel: Callable[[], None] | None = None
        self.age_limit: IDelayedCall | None = None
        self.opened = False
        self.old = False
        self._reason = ""

    @property
    def leg(self) -> Leg:
        """The connection."""
        return cast(Leg, self.transport)

    def begin(self, context: SSL.Context | None, session: SSL.Session | None = None) -> None:
        """Open the channel: under TLS with *context*, resuming *session*, or clear."""
        self.leg.startReading()
        if context is None:
            self._open()
        else:
            self.leg.start_tls(context, server=False, sni=self._gateway_name, session=session)

    def handshakeCompleted(self) -> None:
        """See :class:`twisted.internet.interfaces.IHandshakeListener`."""
        tls = self.leg.tls
        assert tls is not None
        try:
            demand_gateway(tls, self._gateway_name)
        except PeerNotAllowed as error:
            self._reason = str(error)
            self.leg.abortConnection()
            return
        self._open()

    def _open(self) -> None:
        self.opened = True
        self.leg.write(self._opening)

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        try:
            if self._lost is None:
                raise PreambleError("bytes came before the reply")
            for message in self._reader.receive(data):
                if self._reader.rest:
                    raise PreambleError("bytes came before they were asked for")
                start = cast(Start, message)
                if not SESSION_ID.fullmatch(start.session):
                    raise PreambleError("a session's id is not one")
                self._forget_age()
                self._lost = None
                self._started(self, start)
        except PreambleError:
            self.leg.abortConnection()

    def grow_old(self) -> None:
        """The channel has been idle for long enough: another takes its place."""
        self.old = True
        self.leg.loseConnection()

    def when_lost(self, cancel: Callable[[], None]) -> None:
        """Call *cancel* if the channel is lost before the :meth:`reply`."""
        self._cancel = cancel

    def reply(self, reply: SessionReply) -> None:
        """Answer the DMZ node's start."""
        self._cancel = None
        self.leg.write(seal(reply, self._key))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._forget_age()
        if self._lost is not None:
            self._lost(self, self._reason or reason.getErrorMessage())
        if self._cancel is not None:
            self._cancel()

    def _forget_age(self) -> None:
        if self.age_limit is not None and self.age_limit.active():
            self.age_limit.cancel()
        self.age_limit = None


class ChannelSupply:
    """
    The channels of one uplink.

    *gateway* is the DMZ node's address and *gateway_name* the name in its certificate; *context*
    gives the TLS context of the moment; *started* takes over a channel that a session was started
    on; *random* returns a float from 0 up to 1.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        gateway: HostPort,
        gateway_name: str,
        keys: UplinkKeys,
        context: Callable[[], SSL.Context],
        size: int,
        started: Callable[[SuppliedChannel, Start], None],
        random: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._gateway = gateway
        self._gateway_name = gateway_name
        self._keys = keys
        self._context = context
        self._size = size
        self._started = started
        self._random = random
        self._backoff = FullJitter(random, first_s=0.2, longest_s=5.0)
        self._serial = 0
        self._kinds: set[bool] = set()
        # Idle or on the way, for each kind (clear: False, TLS: True).
        self._channels: dict[bool, set[SuppliedChannel]] = {False: set(), True: set()}
        self._demanded = {False: 0, True: 0}
        self._dialling: dict[bool, set[Deferred[None]]] = {False: set(), True: set()}
        self._pause: IDelayedCall | None = None
        self._last_reason = ""
        self._closed = False
        # The TLS session that the next channel resumes, and the context that it belongs to.
        self._session: SSL.Session | None = None
        self._session_of: SSL.Context | None = None

    def idle(self, tls: bool) -> int:
        """How many channels of the kind *tls* are ready."""
        return sum(channel.opened for channel in self._channels[tls])

    def keep(self, kinds: Iterable[bool], size: int | None = None) -> None:
        """Keep channels of *kinds* from now on, *size* of each if it is given."""
        self._kinds = set(kinds)
        self._size = self._size if size is None else size
        self._fill()

    def demand(self, tls: bool, count: int) -> None:
        """Clients wait for *count* channels of the kind *tls*: dial them beside the pool's."""
        room = MAX_DEMANDED - self._demanded[tls] - len(self._channels[tls])
        self._demanded[tls] += max(0, min(count, room))
        self._fill()

    def _fill(self) -> None:
        if self._closed or self._pause is not None:
            return
        for tls in (False, True):
            room = MAX_DIALS - len(self._dialling[tls])
            idle = len(self._channels[tls])
            target = self._size if tls in self._kinds else 0
            missing = self._demanded[tls] + max(0, target - idle - len(self._dialling[tls]))
            for _ in range(min(room, missing)):
                if self._demanded[tls]:
                    self._demanded[tls] -= 1
                self._dial(tls)

    def _dial(self, tls: bool) -> None:
        self._serial += 1
        dialling = Deferred.fromCoroutine(self._dialled(tls, self._serial))
        dialling.addErrback(self._dial_broken)
        if not dialling.called:
            self._dialling[tls].add(dialling)
            dialling.addCallback(self._dial_ended, tls, dialling)

    def _dial_broken(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("dialling a data channel", failure)
            self._failed("internal error")

    def _dial_ended(self, _: None, tls: bool, dialling: Deferred[None]) -> None:
        self._dialling[tls].discard(dialling)
        self._fill()

    async def _dialled(self, tls: bool, serial: int) -> None:
        try:
            leg = await dial(self._reactor, self._gateway, DIAL_LIMIT_S)
        except DialFailed as error:
            self._failed(str(error))
            return
        if self._closed:
            leg.abortConnection()
            return
        channel = SuppliedChannel(
            self._keys,
            serial,
            self._gateway_name,
            lambda channel, message: self._taken(tls, channel, message),
            lambda channel, reason: self._lost(tls, channel, reason),
        )
        self._channels[tls].add(channel)
        leg.protocol = channel
        channel.makeConnection(leg)
        if tls:
            context = self._context()
            channel.begin(context, self._session if self._session_of is context else None)
        else:
            channel.begin(None)
        age = MIN_AGE_S + (MAX_AGE_S - MIN_AGE_S) * self._random()
        channel.age_limit = self._reactor.callLater(age, channel.grow_old)

    def _taken(self, tls: bool, channel: SuppliedChannel, message: Start) -> None:
        self._backoff.stood(FullJitter.STABLE_S)
        self._last_reason = ""
        self._channels[tls].discard(channel)
        if channel.leg.tls is not None:
            # Tickets come after the handshake, with the first byte that is read at the latest.
            self._session = channel.leg.tls.get_session()
            self._session_of = channel.leg.tls.get_context()
        try:
            # First: the DMZ node waits for the answer, and nobody yet for the next channel.
            self._started(channel, message)
        finally:
            self._fill()

    def _lost(self, tls: bool, channel: SuppliedChannel, reason: str) -> None:
        self._channels[tls].discard(channel)
        if channel.old:
            self._fill()
        else:
            self._failed(reason)

    def _failed(self, reason: str) -> None:
        if self._closed or self._pause is not None:
            return
        # Once for each reason: it is tried again and again.
        write = self.log.debug if reason == self._last_reason else self.log.warn
        self._last_reason = reason
        write(
            "a data channel to {gateway} failed: {reason}",
            gateway=str(self._gateway),
            reason=reason,
        )
        self._pause = self._reactor.callLater(self._backoff.next_wait(), self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._fill()

    def close(self) -> None:
        """The uplink is gone: idle channels go too, sessions keep theirs."""
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for kind in self._dialling.values():
            for dialling in list(kind):
                dialling.cancel()
        for channels in self._channels.values():
            for channel in list(channels):
                channel.leg.abortConnection()
