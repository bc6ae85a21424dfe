"""
The ways of a session whose protocol is HTTP or HTTPS, from its start to its relay.

Where a client says itself which backends it wants, it is accepted before any of them is dialled,
since the DMZ node passes nothing on before it has our answer.  Where all backends are alike, one is
reached first, as for every other protocol: if none can be, the DMZ node tries another node.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from relaygate.addresses import HostPort
from relaygate.admission import Tally
from relaygate.backends import Backend, Backends
from relaygate.errors import Refusal
from relaygate.ftprelay import FTPRelay
from relaygate.guard import Offence
from relaygate.handshake import HandshakeFailed, shake_hands
from relaygate.helloopening import HelloOpening, NoClientHello, PassThrough
from relaygate.httprelay import HTTPRelay
from relaygate.httpsettings import HTTPFacts, HTTPSettings
from relaygate.legs import Leg
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.parting import part
from relaygate.pipes import PipeShelf
from relaygate.protocols.clienthello import ClientHello
from relaygate.protocols.preamble import SessionReply, SessionStart
from relaygate.relay import Relay
from relaygate.services import Service
from relaygate.sessionlog import log_open
from relaygate.supply import SuppliedChannel

# Kept back from the DMZ node's patience, so that our refusal arrives before it gives up.
REPLY_MARGIN_S = 0.2


class WebSession:
    """What a session has to have for these ways, and the ways."""

    log: Logger
    start: SessionStart
    relay: Relay | FTPRelay | HTTPRelay | None
    _reactor: Any
    _channel: SuppliedChannel
    _shelf: PipeShelf
    _began: float
    _inner: Leg | None
    _tally: Tally

    async def _reach(self, backends: Backends, end: float) -> tuple[Backend, Leg]:
        """One of *backends*, until *end*, and a leg to it.  Raises a :class:`Refusal`."""
        raise NotImplementedError

    def _refuse(self, refusal: Refusal) -> None:
        raise NotImplementedError

    def _end(self, outcome: Outcome) -> None:
        raise NotImplementedError

    def _offended(self, service: Service, kind: Offence) -> None:
        raise NotImplementedError

    def _fields(self) -> dict[str, object]:
        raise NotImplementedError

    def _backend_failed(self, backend: HostPort, reason: str) -> None:
        raise NotImplementedError

    async def _secure(self, outer: Leg, context: SSL.Context) -> bool:
        """End the client's TLS here; whether it has begun, or else the session is over."""
        outer.stopReading()
        try:
            await shake_hands(outer, lambda: outer.start_tls(context, server=True), self._reactor)
        except HandshakeFailed as error:
            if self._inner is not None:
                self._inner.abortConnection()
            self._end(Outcome(Cause.CLIENT, Phase.OPEN, f"TLS: {error}"))
            return False
        return True

    @property
    def _reply_until(self) -> float:
        """The time until which the DMZ node has to be answered."""
        return float(self._began + self.start.patience_ms / 1000 - REPLY_MARGIN_S)

    async def _run_http(self, service: Service, http: HTTPSettings) -> None:
        """
        Serve a client whose requests are read here.

        Each request has a backend of its own, so what has to be known before the client is accepted
        is only that some backend can be reached.
        """
        address = self.start.client[0]
        try:
            await http.pool.prove(http.default, address, self._reply_until, self._backend_failed)
        except Refusal as refused:
            self._refuse(refused)
            return
        except CancelledError:
            self._end(Outcome(Cause.CLIENT, Phase.OPEN, "the DMZ node gave up waiting"))
            return
        self._channel.reply(SessionReply(0))
        self._tally.opened += 1
        outer = self._channel.leg
        sni = None
        if service.tls is not None:
            if not await self._secure(outer, service.tls):
                return
            sni = outer.tls.get_servername() if outer.tls else None
        facts = HTTPFacts(
            settings=http,
            client=self.start.client[0],
            reached=str(HostPort(*self.start.reached)),
            sni=sni.lower() if sni else None,
            idle_timeout_s=service.idle_timeout_s,
            fields=self._fields(),
        )
        self.relay = HTTPRelay(
            outer,
            facts,
            self._reactor,
            self._shelf,
            lambda: self._offended(service, Offence.HTTP_UNAUTHORISED),
            self._end,
        )
        log_open(self.log, **self._fields())
        self.relay.start()

    async def _run_routed(self, service: Service, passing: PassThrough) -> None:
        """
        Serve a client whose backend is chosen by what its TLS asks for.

        It is accepted first: which backends have to be reached only its own words tell.
        """
        self._channel.reply(SessionReply(0))
        self._tally.opened += 1
        outer = self._channel.leg
        hello = await self._read_hello(passing, outer)
        if hello is None:
            return
        target = passing.target(hello[0])
        # The DMZ node does not wait any longer, and the client not for ever.
        end = self._reactor.seconds() + self.start.patience_ms / 1000
        try:
            reached, inner = await self._reach(target, end)
        except Refusal as refused:
            self._part(outer, refused.tls, Outcome(refused.cause, Phase.OPEN, refused.meaning))
            return
        target.worked(reached, self.start.client[0])
        self._relay_hello(service, hello, outer, inner)

    async def _read_hello(
        self, passing: PassThrough, outer: Leg
    ) -> tuple[ClientHello, bytes] | None:
        """The client's first message and all bytes of it, or None if the session is over."""
        opening = HelloOpening(outer, self._reactor)
        try:
            hello = await opening.done
        except NoClientHello as error:
            outer.abortConnection()
            self._end(error.outcome)
            return None
        refusal = passing.refusal(hello)
        if refusal is None:
            return hello, opening.data
        self._part(outer, refusal[1], Outcome(Cause.POLICY, Phase.OPEN, refusal[0]))
        return None

    def _part(self, outer: Leg, words: bytes, outcome: Outcome) -> None:
        part(outer, words, self._reactor, lambda: self._end(outcome))

    def _relay_hello(
        self, service: Service, hello: tuple[ClientHello, bytes], outer: Leg, inner: Leg
    ) -> None:
        said, data = hello
        self._inner = inner
        relay = Relay(
            outer,
            inner,
            self._reactor,
            self._shelf,
            self._end,
            idle_timeout_s=service.idle_timeout_s,
        )
        self.relay = relay
        log_open(
            self.log,
            **self._fields(),
            sni=said.host or "-",
            alpn=",".join(said.alpn) or "-",
            tls=said.version,
        )
        relay.start(before_in=data)
