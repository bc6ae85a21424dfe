"""
An HTTP session as a pure object: one client's connection, and its requests one after the other.

Each input (bytes of either side, their ends, what became of what was asked for, time that is up)
returns effects (:mod:`relaygate.protocols.httpeffects`), which somebody performs in their order.
One request is under way at a time; what a client has sent ahead waits, within a bound, so answers
come in the order of requests::

    head complete -> FindBackend -> backend_ready -> head and body out | response in -> Release
                        ^                  |
                        +-- gone, and the request may be repeated

The two directions of one exchange are independent: a response may begin while its request's body is
still on its way.  Then the connection ends with the response, since the client may or may not send
the rest.

A body whose length is known, or that ends with the connection, passes by the session
(:class:`MoveBody`) if much of it is still to come.
"""

from __future__ import annotations

from relaygate.protocols.httpanswer import CONTINUE, MOVE_FROM, Answering
from relaygate.protocols.httpbody import BodyUntilEnd, CountedBody, chunk, last_chunk
from relaygate.protocols.httpeffects import (
    BackendSilent,
    DropBackend,
    Effect,
    FindBackend,
    HTTPPolicy,
    MoveBody,
    RequestSeen,
    Side,
    Wait,
)
from relaygate.protocols.httpexchange import Exchange, route_for
from relaygate.protocols.httpfields import (
    Parties,
    find_cookie,
    request_bytes,
    trailers_through,
)
from relaygate.protocols.httphead import HeadReader, HTTPViolation, parse_request
from relaygate.protocols.httppages import page
from relaygate.protocols.httptarget import Routes, place_of

# What a client may send before it is its turn; then it is not read.
AHEAD_BYTES = 64 * 1024


class HTTPSession(Answering):
    """
    A session of a client, *parties*, on a service's *routes*, under *policy*; *sni* is the host
    (small letters) that the client's TLS asked for, if it did.
    """

    def __init__(
        self, policy: HTTPPolicy, routes: Routes, parties: Parties, sni: bytes | None = None
    ) -> None:
        super().__init__(policy, parties)
        self._routes = routes
        self._sni = sni
        self._heads = HeadReader(policy.limits)
        self._advancing = False

    # -- what it waits for ----------------------------------------------------------------------

    @property
    def wants_client(self) -> bool:
        """Whether the client is to be read."""
        return not self._over and len(self._ahead) < AHEAD_BYTES

    @property
    def waits_for(self) -> tuple[Wait, int, int]:
        """What for, and numbers that change when it is for another one of the kind."""
        exchange = self._exchange
        if self._over:
            return Wait.NOTHING, 0, 0
        if exchange is not None:
            return exchange.waits_for, self._served, exchange.attempts
        begun = self._heads.begun or not self._served
        return Wait.HEAD if begun else Wait.NEXT, self._served, 0

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._exchange is None

    # -- inputs: the client ---------------------------------------------------------------------

    def client_received(self, data: bytes) -> list[Effect]:
        """Bytes came from the client."""
        if not self._over:
            exchange, more = self._exchange, True
            if not self._ahead and exchange is not None and self._takes_body(exchange):
                # A body's bytes are not kept, so they need not be copied to where others are.
                more = self._pass_body(exchange, data)
            else:
                self._ahead += data
            if more:
                self._advance()
        return self._flush()

    def client_ended(self) -> list[Effect]:
        """The client's stream has ended in order; it may still read (Requirement 61)."""
        if not self._over:
            self._client_ended = True
            exchange = self._exchange
            if exchange is None:
                cut = self._heads.begun
                self._end("client" if cut else "done", "ended within a head" if cut else "")
            elif not exchange.request_done and exchange.ready:
                self._request_broken(HTTPViolation(400, "ended its stream within a body"))
        return self._flush()

    def client_lost(self) -> list[Effect]:
        """The client's connection is broken."""
        if not self._over:
            if self._exchange is not None:
                status = self._exchange.response.status if self._exchange.response else 0
                self._effects += [self._exchange.seen(status, "client lost"), DropBackend()]
                self._exchange = None
            self._end("client", "connection reset", abort=True)
        return self._flush()

    # -- inputs: the backend --------------------------------------------------------------------

    def backend_ready(self, set_cookie: bytes = b"") -> list[Effect]:
        """What :class:`FindBackend` asked for is there; *set_cookie* is for the client."""
        exchange = self._exchange
        if not self._over and exchange is not None and not exchange.ready:
            self._backend_ready(exchange, set_cookie)
            self._advance()
            if self._client_ended and exchange is self._exchange and not exchange.request_done:
                self._request_broken(HTTPViolation(400, "ended its stream within a body"))
        return self._flush()

    def backend_refused(self, status: int) -> list[Effect]:
        """There is no backend to be had; the client is answered *status*."""
        if not self._over and self._exchange is not None:
            self._fail(status, "no backend")
        return self._flush()

    def backend_received(self, data: bytes) -> list[Effect]:
        """Bytes came from the backend."""
        exchange = self._exchange
        if self._over:
            return self._flush()
        if exchange is None or not exchange.ready:
            # It speaks without having been asked.
            self._pinned.clear()
            self._effects.append(DropBackend())
            return self._flush()
        try:
            if exchange.response is None:
                data = self._read_heads(exchange, data)
            if exchange.response is not None:
                self._pass_response(exchange, data)
        except HTTPViolation as error:
            self._fail(502, f"the backend {error}")
        return self._flush()

    def backend_ended(self, *, broken: bool) -> list[Effect]:
        """The backend's stream has ended: in order, or *broken*."""
        exchange = self._exchange
        if self._over:
            return self._flush()
        if exchange is None or not exchange.ready:
            self._pinned.clear()
            self._effects.append(DropBackend())
        elif exchange.response is None:
            self._backend_gone(exchange)
        elif isinstance(exchange.answer, BodyUntilEnd) and not broken:
            exchange.answer.end()
            self._response_done(exchange)
        else:
            self._fail(502, "the backend broke off within a response")
        return self._flush()

    def body_moved(self, side: Side, count: int) -> list[Effect]:
        """All of what :class:`MoveBody` said has been moved."""
        exchange = self._exchange
        if self._over or exchange is None:
            return self._flush()
        if side is Side.CLIENT:
            exchange.bytes_in += count
            exchange.moving_in = False
            assert isinstance(exchange.body, CountedBody)
            exchange.body.moved()
            self._advance()
        else:
            exchange.bytes_out += count
            assert isinstance(exchange.answer, CountedBody)
            exchange.answer.moved()
            self._pass_response(exchange, b"")
        return self._flush()

    def timed_out(self) -> list[Effect]:
        """The time is up for what it waits for."""
        wait, exchange = self.waits_for[0], self._exchange
        if wait is Wait.NEXT:
            self._end("done", "no further request")
        elif wait is Wait.HEAD and not self._heads.begun:
            self._end("timeout", "no request")
        elif wait is Wait.HEAD:
            self._refuse(HTTPViolation(408, "took too long for a head"), "timeout")
        elif exchange is None:
            pass
        elif wait is Wait.CONTINUE:
            self._send(Side.CLIENT, CONTINUE)
            exchange.expecting = False
            self._advance()
        elif wait is Wait.BODY:
            self._request_broken(HTTPViolation(408, "sends its body too slowly"), "timeout")
        elif wait in (Wait.RESPONSE, Wait.LATE_RESPONSE):
            self._effects.append(BackendSilent("no answer in time", costly=True))
            self._fail(504, "the backend took too long")
        elif wait is Wait.STREAM:
            self._fail(504, "a response's body moved too slowly")
        return self._flush()

    def stop(self) -> list[Effect]:
        """End now."""
        if not self._over:
            if self._exchange is not None:
                self._fail(503, "the node is shutting down", stopping=True)
            self._end("shutdown", "")
        return self._flush()

    # -- requests -------------------------------------------------------------------------------

    def _advance(self) -> None:
        """See :class:`Answering`."""
        # What a step brings about may ask for more of them: they follow, and do not nest.
        if not self._advancing:
            self._advancing = True
            while not self._over and self._step():
                pass
            self._advancing = False

    def _step(self) -> bool:
        """Whether another step may follow."""
        exchange = self._exchange
        if exchange is None:
            return self._begin_request()
        if not self._takes_body(exchange) or (exchange.expecting and not self._ahead):
            return False
        return self._pass_body(exchange, bytes(self._ahead))

    @staticmethod
    def _takes_body(exchange: Exchange) -> bool:
        """Whether what comes from the client is its body, and passes through here."""
        return exchange.ready and not exchange.request_done and not exchange.moving_in

    def _begin_request(self) -> bool:
        """Whether a request, of what has come, has begun."""
        try:
            raw = self._heads.receive(bytes(self._ahead))
            self._ahead.clear()
            if raw is None:
                if self._client_ended:
                    self._end("done", "")
                return False
            self._ahead += self._heads.take_rest()
            head = parse_request(raw, self._policy.limits)
            place = place_of(head, self._parties.scheme, self._parties.reached)
        except HTTPViolation as error:
            self._refuse(error)
            return False
        exchange = Exchange(head, place, None, self._policy, self._served)
        self._exchange = exchange
        try:
            if head.method == b"OPTIONS" and head.named.get(b"max-forwards") == [b"0"]:
                # RFC 9110 section 7.6.2: it asks us.
                self._answer(204, "", keep=exchange.request_done)
                return True
            exchange.route = route_for(head, place, self._routes, self._policy, self._sni)
        except HTTPViolation as error:
            keep = error.status in (405, 417, 421) and exchange.request_done
            self._answer(error.status, f"the client {error}", keep=keep)
            return True
        if exchange.route in self._pinned:
            self._backend_ready(exchange, b"")
            return True
        if self._pinned:
            self._pinned.clear()
            self._effects.append(DropBackend())
        cookie = find_cookie(head.named, self._policy.cookie) if self._policy.cookie else b""
        self._effects.append(
            FindBackend(exchange.route, cookie, steady=not exchange.repeatable, again=False)
        )
        return True

    def _backend_ready(self, exchange: Exchange, set_cookie: bytes) -> None:
        exchange.ready = True
        exchange.set_cookie = set_cookie
        self._replies = HeadReader(None)
        self._send(
            Side.BACKEND,
            request_bytes(
                exchange.head,
                exchange.place,
                self._policy.fields,
                self._parties,
                cookie=self._policy.cookie,
                upgrade=exchange.upgrade,
                expect=exchange.expecting,
            ),
        )

    def _pass_body(self, exchange: Exchange, data: bytes) -> bool:
        """Pass what of the body is in *data* on, keep the rest; whether the request is complete."""
        body = exchange.body
        # Who does not wait for our word needs none.
        exchange.expecting = False
        try:
            data = body.receive(data)
        except HTTPViolation as error:
            self._request_broken(error)
            return False
        self._ahead[:] = body.rest
        body.rest = b""
        exchange.bytes_in += len(data)
        most = self._policy.max_body
        if most and exchange.bytes_in > most:
            self._request_broken(HTTPViolation(413, f"sent more than {most} bytes"))
            return False
        if data:
            self._send(Side.BACKEND, chunk(data) if exchange.head.chunked else data)
        if body.ended:
            if exchange.head.chunked:
                trailers = trailers_through(body.trailers, self._policy.fields)
                self._send(Side.BACKEND, last_chunk(trailers))
            exchange.request_done = True
            return True
        if isinstance(body, CountedBody) and body.left > MOVE_FROM:
            exchange.moving_in = True
            self._effects.append(MoveBody(Side.CLIENT, body.left))
        return False

    def _request_broken(self, error: HTTPViolation, cause: str = "client") -> None:
        """The request under way cannot be completed: the backend must not take it for whole."""
        exchange = self._exchange
        assert exchange is not None
        self._effects.append(DropBackend())
        if exchange.response is None:
            self._answer(error.status, f"the client {error}", keep=False)
            return
        self._effects.append(exchange.seen(exchange.response.status, f"the client {error}"))
        self._exchange = None
        self._end(cause, f"the client {error}", abort=True)

    def _refuse(self, error: HTTPViolation, cause: str = "client") -> None:
        """Answer what is no request, and end."""
        what = f"the client {error}"
        self._send(Side.CLIENT, page(error.status, self._policy.fields.server))
        self._effects.append(RequestSeen(b"-", b"-", b"-", b"", error.status, 0, 0, what))
        self._end(cause, what)
