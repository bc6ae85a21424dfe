"""
An HTTP session, performed: the one file that does what :mod:`relaygate.protocols.httpalg` asks.

The client's connection feeds the session for as long as it lasts; connections to backends come and
go with requests (:mod:`relaygate.httppool`).  Bodies of which much is to come are moved by pumps
(:mod:`relaygate.bodypump`) while the session waits for the word that they have; a tunnel is a relay
as any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.addresses import HostPort
from relaygate.bodypump import BodyPump, make_body_pump
from relaygate.httpend import HTTPEnd
from relaygate.httpseeker import NotFound, Seeker
from relaygate.httpsettings import HTTPFacts
from relaygate.httpwatch import Watch
from relaygate.legs import Leg
from relaygate.lingering import linger
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.pipes import PipeShelf
from relaygate.protocols.httpalg import HTTPSession
from relaygate.protocols.httpeffects import (
    BackendSilent,
    DropBackend,
    Effect,
    EndSession,
    FindBackend,
    MoveBody,
    ReleaseBackend,
    RequestSeen,
    Send,
    Side,
    Tunnel,
)
from relaygate.relay import Relay
from relaygate.sessionlog import log_backend_failed, log_event

# To ask an enumeration for its members costs more than to stop two pumps.
_SIDES = tuple(Side)
# A line has room for so many bytes of a path beside all the rest.
LOGGED_PATH = 1000


class HTTPRelay:
    """
    Serves the requests that come on *outer*, the client's leg, which *facts* are about.

    *unauthorised* is called when the client has shown who it is in vain, and *done* once with the
    outcome, when all connections are gone.
    """

    log = Logger()

    def __init__(
        self,
        outer: Leg,
        facts: HTTPFacts,
        reactor: Any,
        shelf: PipeShelf,
        unauthorised: Callable[[], None],
        done: Callable[[Outcome], None],
    ) -> None:
        self._reactor = reactor
        self._shelf = shelf
        self._facts = facts
        self._unauthorised = unauthorised
        self._done = done
        settings = facts.settings
        self._session = HTTPSession(settings.policy, settings.routes, facts.parties, facts.sni)
        self._client = HTTPEnd(self, outer)
        self._backend: HTTPEnd | None = None
        self._seeker = Seeker(settings, facts.client, reactor, self._backend_failed)
        self._finding: Deferred[None] | None = None
        self._pumps: dict[Side, BodyPump] = {}
        # Bytes of bodies that have passed by the session, and those that it was not told of.
        self._pumped = dict.fromkeys(_SIDES, 0)
        self._partly = dict.fromkeys(_SIDES, 0)
        self._tunnel: Relay | None = None
        self._effects: deque[Effect] = deque()
        self._performing = False
        self._watch = Watch(
            self, settings.limits, reactor, lambda: self._feed(self._session.timed_out)
        )
        self._asked_at = reactor.seconds()
        self._outcome: Outcome | None = None
        self._over = False

    @property
    def bytes_in(self) -> int:
        """Bytes that the client has sent, so far."""
        tunnel = self._tunnel.bytes_in if self._tunnel else 0
        return self._client.bytes_in + self._moved(Side.CLIENT) + tunnel

    @property
    def bytes_out(self) -> int:
        """Bytes that the client was sent, so far."""
        tunnel = self._tunnel.bytes_out if self._tunnel else 0
        return self._client.bytes_out + self._moved(Side.BACKEND) + tunnel

    def _moved(self, side: Side) -> int:
        pump = self._pumps.get(side)
        return self._pumped[side] + (pump.moved if pump else 0)

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._session.idle and self._tunnel is None

    def start(self) -> None:
        """Begin."""
        self._client.begin()
        self._feed()

    def abort(self, cause: Cause, detail: str) -> None:
        """End the session now; a client that waits for an answer hears 503."""
        if self._tunnel is not None:
            self._tunnel.abort(cause, detail)
        elif self._outcome is None:
            self._outcome = Outcome(cause, Phase.RELAY, detail)
            self._feed(self._session.stop)

    # -- feeding --------------------------------------------------------------------------------

    def _feed(self, say: Callable[..., list[Effect]] | None = None, *words: object) -> None:
        if say is not None:
            self._effects += say(*words)
        if self._performing:
            # What an effect brought about comes behind the effects that stand before it.
            return
        self._performing = True
        try:
            while self._effects:
                effect = self._effects.popleft()
                _PERFORM[type(effect)](self, effect)
        finally:
            self._performing = False
        if not self._over and self._tunnel is None:
            if self._session.wants_client:
                self._client.release("ahead")
            else:
                self._client.hold("ahead")
            self._watch.waits_for(self._session.waits_for)

    @property
    def backend_full(self) -> bool:
        """See :class:`relaygate.httpwatch.IWatched`."""
        pump = self._pumps.get(Side.CLIENT)
        return bool((pump and pump.holding) or (self._backend and self._backend.full))

    @property
    def client_full(self) -> bool:
        """See :class:`relaygate.httpwatch.IWatched`."""
        pump = self._pumps.get(Side.BACKEND)
        return bool((pump and pump.holding) or self._client.full)

    def drop_broken(self) -> bool:
        """See :class:`relaygate.httpwatch.IWatched`: its end is told as any other then."""
        broken = self._client.leg.broken
        if broken:
            self._client.leg.abortConnection()
        return broken

    # -- what comes on the connections ----------------------------------------------------------

    def received(self, end: HTTPEnd, data: bytes) -> None:
        """See :class:`relaygate.httpend.IEndOwner`."""
        if end is self._client:
            self._feed(self._session.client_received, data)
        elif end is self._backend:
            self._feed(self._session.backend_received, data)

    def ended(self, end: HTTPEnd, *, broken: bool) -> None:
        """See :class:`relaygate.httpend.IEndOwner`."""
        if end is self._client:
            self._finish(Side.CLIENT)
            self._feed(self._session.client_lost if broken else self._session.client_ended)
        elif end is self._backend:
            self._finish(Side.BACKEND)
            self._feed(lambda: self._session.backend_ended(broken=broken))

    def crowded(self, end: HTTPEnd, *, full: bool) -> None:
        """See :class:`relaygate.httpend.IEndOwner`: who feeds it is not read meanwhile."""
        end.full = full
        self._brake()

    def _brake(self) -> None:
        """Keep from being read who feeds a connection that is full."""
        backend = self._backend
        # Answers of our own come from the client's requests.
        if self._client.full or (backend is not None and backend.full):
            self._client.hold("full")
        else:
            self._client.release("full")
        if backend is not None and self._client.full:
            backend.hold("full")
        elif backend is not None:
            backend.release("full")

    # -- bodies that pass by the session --------------------------------------------------------

    def all_moved(self, source: Leg) -> None:
        """See :class:`relaygate.bodypump.IBodyOwner`: not now, the pump is at work."""
        side = Side.CLIENT if source is self._client.leg else Side.BACKEND
        self._reactor.callLater(0, self._finish, side)

    def _finish(self, side: Side) -> None:
        """Tell the session of a body that has been moved, if it has."""
        pump = self._pumps.get(side)
        if pump is None or not pump.done:
            return
        end = self._client if side is Side.CLIENT else self._backend
        self._stop_pump(side)
        self._partly[side] = 0
        self._feed(self._session.body_moved, side, pump.moved)
        if end is not None:
            end.resume()

    def _stop_pump(self, side: Side) -> None:
        pump = self._pumps.pop(side, None)
        if pump is not None:
            pump.stop()
            self._pumped[side] += pump.moved
            self._partly[side] += pump.moved

    def sink_broken(self, sink: Leg) -> None:
        """See :class:`relaygate.pump.IPumpOwner`."""
        if sink is self._client.leg:
            self._client.leg.abortConnection()
        else:
            # The backend takes no more; what it had to say may still be there.
            self._stop_pump(Side.CLIENT)
            self._client.hold("refused")

    def load_held(self) -> None:
        """See :class:`relaygate.pump.IPumpOwner`."""

    # -- performing -----------------------------------------------------------------------------

    def _send(self, effect: Send) -> None:
        end = self._client if effect.side is Side.CLIENT else self._backend
        if end is not None and end.leg.connected:
            end.send(effect.data)

    def _find_backend(self, effect: FindBackend) -> None:
        if not effect.again:
            self._asked_at = self._reactor.seconds()
        kept = self._seeker.begin(effect)
        if kept is not None:
            end, set_cookie = kept
            self._backend = end
            end.hand_over(self)
            self._backend_found(end, set_cookie)
            return
        self._finding = Deferred.fromCoroutine(self._find(effect))
        self._finding.addErrback(self._not_found)

    def _release_backend(self, effect: ReleaseBackend) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            if backend.idle:
                self._seeker.keep(backend)
            else:
                backend.let_go().abortConnection()
        self._seeker.give_back(worked=True)
        self._brake()

    def _drop_backend(self, effect: DropBackend) -> None:
        if self._finding is not None:
            finding, self._finding = self._finding, None
            finding.cancel()
        backend, self._backend = self._backend, None
        for side in _SIDES:
            self._stop_pump(side)
        if backend is not None:
            backend.let_go().abortConnection()
        self._seeker.give_back()
        self._client.release("refused")
        self._brake()

    def _move_body(self, effect: MoveBody) -> None:
        backend = self._backend
        if backend is None or not backend.leg.connected or not self._client.leg.connected:
            return
        legs = (self._client.leg, backend.leg)
        source, sink = legs if effect.side is Side.CLIENT else legs[::-1]
        pump = make_body_pump(source, sink, self, self._shelf, effect.count)
        self._pumps[effect.side] = pump
        pump.start()

    def _open_tunnel(self, effect: Tunnel) -> None:
        backend = self._backend
        assert backend is not None
        self._watch.stop()
        self._tunnel = Relay(
            self._client.let_go(),
            backend.let_go(),
            self._reactor,
            self._shelf,
            self._tunnel_ended,
            idle_timeout_s=self._facts.idle_timeout_s,
        )
        self._tunnel.start(before_in=effect.from_client, before_out=effect.from_backend)

    def _tunnel_ended(self, outcome: Outcome) -> None:
        self._over = True
        self._seeker.give_back(worked=True)
        self._done(outcome)

    def _request_seen(self, effect: RequestSeen) -> None:
        path = effect.path
        if self._facts.settings.log_query and effect.query:
            path += b"?" + effect.query
        for side, pump in self._pumps.items():
            self._partly[side] += pump.moved
        fields = {
            **self._facts.fields,
            "backend": self._seeker.name,
            "method": _text(effect.method),
            "host": _text(effect.host),
            "path": _text(path[:LOGGED_PATH]),
            "status": effect.status,
            "bytes_in": effect.bytes_in + self._partly[Side.CLIENT],
            "bytes_out": effect.bytes_out + self._partly[Side.BACKEND],
            "seconds": round(self._reactor.seconds() - self._asked_at, 3),
        }
        if effect.detail:
            fields["detail"] = effect.detail
        usual = effect.status < 500 and not effect.detail
        log_event(self.log, "request", usual=usual, **fields)
        self._partly[Side.CLIENT] = self._partly[Side.BACKEND] = 0
        if self._backend is None:
            self._seeker.name = "-"
        if effect.unauthorised:
            self._unauthorised()

    def _backend_silent(self, effect: BackendSilent) -> None:
        self._seeker.silent(effect.reason, costly=effect.costly)

    def _end_session(self, effect: EndSession) -> None:
        self._over = True
        self._watch.stop()
        if self._outcome is None:
            self._outcome = Outcome(Cause(effect.cause), Phase.RELAY, effect.detail)
        for side in _SIDES:
            self._stop_pump(side)
        leg = self._client.let_go()
        if effect.abort:
            leg.abortConnection()
            self._reactor.callLater(0, self._gone)
        else:
            linger(leg, self._reactor, self._gone)

    def _gone(self) -> None:
        assert self._outcome is not None
        self._done(self._outcome)

    # -- backends -------------------------------------------------------------------------------

    async def _find(self, effect: FindBackend) -> None:
        """Have a backend found, and tell the session."""
        try:
            end, set_cookie = await self._seeker.find(self, effect)
        except NotFound as error:
            self._finding = None
            self._feed(self._session.backend_refused, error.status)
            return
        self._finding = None
        self._backend = end
        end.begin()
        self._backend_found(end, set_cookie)

    def _backend_found(self, end: HTTPEnd, set_cookie: bytes) -> None:
        self._brake()
        if self._backend is end and end.leg.connected:
            self._feed(self._session.backend_ready, set_cookie)
        else:
            self._backend = None
            self._seeker.give_back()
            self._feed(self._session.backend_refused, 502)

    def _backend_failed(self, backend: HostPort, reason: str) -> None:
        log_backend_failed(self.log, self._facts.fields, backend, reason)

    def _not_found(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        session = self._facts.fields["session"]
        self.log.failure("session {session} failed", failure, session=session)
        self._feed(self._session.backend_refused, 502)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


# By type: a table costs less than a dispatcher that makes a function for each call.
_PERFORM: dict[type, Callable[[HTTPRelay, Any], None]] = {
    Send: HTTPRelay._send,
    FindBackend: HTTPRelay._find_backend,
    ReleaseBackend: HTTPRelay._release_backend,
    DropBackend: HTTPRelay._drop_backend,
    MoveBody: HTTPRelay._move_body,
    Tunnel: HTTPRelay._open_tunnel,
    RequestSeen: HTTPRelay._request_seen,
    BackendSilent: HTTPRelay._backend_silent,
    EndSession: HTTPRelay._end_session,
}
