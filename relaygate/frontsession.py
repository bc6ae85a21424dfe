"""
A session in the DMZ: from a client's connection to a relay between it and a data channel.

The client's bytes stay in the kernel until a backend is reached; the DMZ never waits for them and
never looks at them.
"""

from __future__ import annotations

from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.addresses import HostPort
from relaygate.desk import Desk
from relaygate.errors import Refusal, TooMany
from relaygate.legs import Leg
from relaygate.listeners import FTP_PROTOCOLS, Listener
from relaygate.networks import source_of
from relaygate.nodesearch import NodeSearch
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.parting import part
from relaygate.pool import PooledChannel
from relaygate.protocols.preamble import SessionStart
from relaygate.protocols.proxyheader import ProxyHeader
from relaygate.relay import Relay
from relaygate.sessionlog import log_end, log_open
from relaygate.transfer import Control
from relaygate.transfers import Transfers


class FrontSession:
    """One client's session, until its relay ends or it is refused."""

    log = Logger()

    def __init__(
        self,
        leg: Leg,
        listener: Listener,
        desk: Desk,
        transfers: Transfers,
        header: ProxyHeader | None = None,
    ) -> None:
        peer, host = leg.getPeer(), leg.getHost()
        self.id = desk.new_id()
        # What a trusted proxy has said of its client, or else what the connection itself says.
        self.client: tuple[str, int] = (peer.host, peer.port)
        self._local: tuple[str, int] = (host.host, host.port)
        self._reached = self._local
        if header is not None:
            self.client = header.source or self.client
            self._reached = header.destination or self._local
        self.address = source_of(self.client[0])
        self.offer = listener.offer
        self.counted = listener.sessions
        self.relay: Relay | None = None
        self._leg = leg
        self._listener = listener
        self._desk = desk
        self._transfers = transfers
        self._clock = desk.clock
        self._began = desk.clock.seconds()
        self._search: NodeSearch | None = None
        self._over = False

    async def run(self) -> None:
        """Find a node and a backend for the client, and join them."""
        if not self._desk.enter(self):
            self._refuse(TooMany())
            return
        try:
            channel = await self._open()
        except Refusal as refusal:
            if not self._over:
                self._refuse(refusal)
            return
        if self._over:
            channel.leg.abortConnection()
            return
        self._desk.opened(self)
        self._listener.tally.opened += 1
        if self.offer.protocol in FTP_PROTOCOLS:
            self._transfers.admit(Control(self.id, self._node, self.client, self._local))
        elif (mapping := self.offer.mapping) is not None:
            self._transfers.admit(Control(self.id, self._node, self.client, self._local, mapping))
        log_open(self.log, **self._fields())
        self.relay = Relay(
            self._leg,
            channel.leg,
            self._clock,
            self._desk.shelf,
            self._finish,
            beyond=Cause.INSIDE,
        )
        self.relay.start(before_out=channel.rest)

    async def _open(self) -> PooledChannel:
        """A channel to a node that has reached a backend.  Raises a :class:`Refusal`."""
        mapped = self.offer.mapping is not None
        self._search = NodeSearch(
            self._listener,
            self.address,
            self._start,
            self._clock,
            self._desk.hedges,
            self._began,
            self._other_node if mapped else None,
            self._head_for if mapped else None,
        )
        try:
            return await self._search.find()
        finally:
            self._head_for(None)

    def _other_node(self, tried: set[str]) -> str | None:
        """Where it passes unopened, the client's other node, if that is none of *tried*."""
        mapping = self.offer.mapping
        assert mapping is not None
        return self._transfers.node_of(self.client[0], self._local[0], mapping, tried)

    def _head_for(self, node: str | None) -> None:
        if (mapping := self.offer.mapping) is not None:
            self._transfers.heads_for(self.id, self.client[0], self._local[0], mapping, node)

    @property
    def _node(self) -> str:
        return "" if self._search is None else self._search.name

    def _release(self) -> None:
        """This session is none of the nodes' that it was counted for."""
        if self._search is not None:
            self._search.release()

    def _start(self, patience_s: float) -> SessionStart:
        return SessionStart(
            session=self.id,
            service=self.offer.name,
            client=self.client,
            reached=self._reached,
            patience_ms=max(0, int(patience_s * 1000)),
        )

    def _fields(self) -> dict[str, object]:
        return {
            "session": self.id,
            "service": self.offer.name,
            "client": str(HostPort(*self.client)),
            "node": self._node or "-",
        }

    def _refuse(self, refusal: Refusal) -> None:
        self._over = True
        self._listener.tally.refused += 1
        phase = Phase.OPEN if self._node else Phase.ADMIT
        outcome = Outcome(refusal.cause, phase, refusal.meaning)
        self._release()
        throttle = self._desk.refused
        if phase is Phase.OPEN:
            self._log_end(outcome)
        elif throttle.passes():
            # A flood over a cap is one line now and then, which says how many it stands for.
            missed = throttle.take_suppressed()
            self._log_end(outcome, **({"not_logged": missed} if missed else {}))
        self._transfers.over(self.id, outcome)
        words = refusal.words(self.offer.protocol)
        if words and self._desk.may_part(self):
            part(self._leg, words, self._clock, lambda: self._desk.leave(self))
        else:
            # Without words an orderly end would be an empty file that is complete.
            self._leg.abortConnection()
            self._desk.leave(self)

    def _finish(self, outcome: Outcome) -> None:
        self._over = True
        self._release()
        if self.relay is not None:
            tally = self._listener.tally
            tally.bytes_in += self.relay.bytes_in
            tally.bytes_out += self.relay.bytes_out
        self._log_end(outcome)
        self._transfers.over(self.id, outcome)
        self._desk.leave(self)

    def _log_end(self, outcome: Outcome, **more: object) -> None:
        seconds = self._clock.seconds() - self._began
        log_end(self.log, outcome, self._fields(), self.relay, seconds, **more)

    def abort(self, cause: Cause, detail: str) -> None:
        """End the session now, whatever it does."""
        if self.relay is not None:
            self.relay.abort(cause, detail)
        else:
            self._leg.abortConnection()
            if not self._over:
                self._finish(Outcome(cause, Phase.OPEN, detail))

    def broken(self, failure: Failure) -> None:
        """:meth:`run` has failed in a way that nobody thought of: the session ends, the node
        lives.
        """
        self.log.failure("session {session} failed", failure, session=self.id)
        if not self._over:
            self._refuse(Refusal())
