"""
Inside, the data connections of an FTP session that is passed through unopened.

The DMZ node says that a client of the session has come to a port of the service's range, and that
port of the session's own server is dialled, from the address that the server knows (Requirement
23), and no other.  What is said on either connection is the client's and the server's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.addresses import HostPort
from relaygate.dataway import DataWay
from relaygate.dial import DialFailed, dial
from relaygate.errors import NoBackend, NoTransfer
from relaygate.legs import Leg
from relaygate.outcome import Cause, Outcome
from relaygate.pipes import PipeShelf
from relaygate.protocols.preamble import SessionReply
from relaygate.relay import Relay
from relaygate.sessionlog import log_event
from relaygate.supply import SuppliedChannel

# Below the DMZ node's own patience for a data connection.
DIAL_LIMIT_S = 8.0
# Seconds without a byte in a data connection.
STALL_LIMIT_S = 900.0
# A limit on a session is looked at this often while it lasts.
LOOKS = 4


class MappedData:
    """
    The data connections of *session*, whose control connections *control* relays.

    *inner* is the leg to the server; *ports* are the first and the last that may be dialled there,
    *tls* says which kind of channel brings a connection, and *fields* stand in each line of the
    log.  With *idle_timeout_s* the session ends when nothing has moved on any connection for so
    long.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        shelf: PipeShelf,
        dataway: DataWay,
        session: str,
        control: Relay,
        inner: Leg,
        ports: tuple[int, int],
        tls: bool,
        idle_timeout_s: float | None,
        fields: dict[str, object],
    ) -> None:
        self._reactor = reactor
        self._shelf = shelf
        self._dataway = dataway
        self._session = session
        self._control = control
        self._source = (inner.getHost().host, 0)
        self._host = inner.getPeer().host
        self._ports = ports
        self._tls = tls
        self._idle_timeout_s = idle_timeout_s
        self._fields = fields
        self._dials: set[Deferred[None]] = set()
        self._relays: set[Relay] = set()
        self._moved = 0
        self._quiet_looks = 0
        self._looked = -1
        self._look: IDelayedCall | None = None

    def start(self) -> None:
        """Let data connections come from now on."""
        self._dataway.lead(self._session, self._came)
        self._watch()

    def close(self, *, abort: bool) -> None:
        """The session is over: none comes any more, and those that run end too, with *abort*."""
        self._dataway.lead(self._session, None)
        if self._look is not None:
            self._look.cancel()
            self._look = None
        # Else dials go on, too: they may be for another session of the same client.
        if abort:
            for work in list(self._dials):
                work.cancel()
            for relay in list(self._relays):
                relay.abort(Cause.SHUTDOWN, "its session was ended")

    def _came(self, channel: SuppliedChannel, port: int) -> None:
        first, last = self._ports
        # What the DMZ node says is not believed: neither the port nor the kind of channel.
        if not first <= port <= last or self._tls is not (channel.leg.tls is not None):
            channel.reply(SessionReply(NoTransfer.code))
            channel.leg.loseConnection()
            return
        work = Deferred.fromCoroutine(self._join(channel, port))
        channel.when_lost(work.cancel)
        work.addErrback(self._failed, channel)
        if not work.called:
            self._dials.add(work)
            work.addBoth(lambda _: self._dials.discard(work))

    async def _join(self, channel: SuppliedChannel, port: int) -> None:
        began = self._reactor.seconds()
        address = HostPort(self._host, port)
        try:
            inner = await dial(self._reactor, address, DIAL_LIMIT_S, self._source)
        except DialFailed as error:
            # Mostly a port that the server has not named; its client is not the only one to ask.
            self.log.info(
                "session {session} data connection failed: port {port} of the server: {reason}",
                session=self._session,
                port=port,
                reason=str(error),
            )
            channel.reply(SessionReply(NoBackend.code))
            channel.leg.loseConnection()
            return
        channel.leg.abort_by_default()
        channel.reply(SessionReply(0))
        relay = Relay(
            channel.leg,
            inner,
            self._reactor,
            self._shelf,
            lambda outcome: self._over(relay, port, began, outcome),
            idle_timeout_s=STALL_LIMIT_S,
        )
        self._relays.add(relay)
        relay.start()

    def _over(self, relay: Relay, port: int, began: float, outcome: Outcome) -> None:
        self._relays.discard(relay)
        self._moved += relay.bytes_in + relay.bytes_out
        log_event(
            self.log,
            "data",
            usual=outcome.cause is Cause.DONE,
            **self._fields,
            port=port,
            bytes_in=relay.bytes_in,
            bytes_out=relay.bytes_out,
            seconds=round(self._reactor.seconds() - began, 3),
            outcome=outcome.cause.value,
        )

    def _failed(self, failure: Failure, channel: SuppliedChannel) -> None:
        channel.leg.abortConnection()
        if not failure.check(CancelledError):
            self.log.failure("data of session {session} failed", failure, session=self._session)

    # -- the session's limit: a control connection is quiet while a file moves (Requirement 15) ---

    def _watch(self) -> None:
        if self._idle_timeout_s is not None:
            self._look = self._reactor.callLater(
                self._idle_timeout_s / LOOKS, partial(self._looks, self._idle_timeout_s)
            )

    def _looks(self, limit_s: float) -> None:
        moved = self._moved + sum(
            relay.bytes_in + relay.bytes_out for relay in (self._control, *self._relays)
        )
        self._quiet_looks = self._quiet_looks + 1 if moved == self._looked else 0
        self._looked = moved
        if self._quiet_looks >= LOOKS:
            self._look = None
            self._control.abort(Cause.TIMEOUT, f"nothing moved for {limit_s:g} s")
        else:
            self._watch()
