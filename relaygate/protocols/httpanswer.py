"""
The half of an HTTP session that is about answers: the backend's, passed on, and our own.

See :mod:`relaygate.protocols.httpalg`, which is the other half.
"""

from __future__ import annotations

from relaygate.protocols.httpbody import BodyUntilEnd, CountedBody, chunk, last_chunk
from relaygate.protocols.httpeffects import (
    BackendSilent,
    DropBackend,
    Effect,
    EndSession,
    FindBackend,
    HTTPPolicy,
    MoveBody,
    ReleaseBackend,
    Send,
    Side,
    Tunnel,
)
from relaygate.protocols.httpexchange import MAX_INTERIM, Exchange
from relaygate.protocols.httpfields import (
    Parties,
    binds_connection,
    persists,
    response_bytes,
    tokens,
    trailers_through,
)
from relaygate.protocols.httphead import HeadReader, HTTPViolation, ResponseHead, parse_response
from relaygate.protocols.httppages import page

# A body of which more is to come than this leaves the session.
MOVE_FROM = 64 * 1024
# How many backends are asked at most, where a request may be repeated.
MAX_ATTEMPTS = 3
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Answering:
    """What a session keeps, and what it does with answers."""

    def __init__(self, policy: HTTPPolicy, parties: Parties) -> None:
        self._policy = policy
        self._parties = parties
        self._replies = HeadReader(None)
        self._ahead = bytearray()
        self._client_ended = False
        self._exchange: Exchange | None = None
        self._served = 0
        # A route whose connection has become this client's own, and is kept beyond a request.
        self._pinned: list[int | None] = []
        self._over = False
        self._effects: list[Effect] = []

    def _advance(self) -> None:
        """Go on with what the client has sent, as far as it is its turn."""
        raise NotImplementedError

    # -- responses ------------------------------------------------------------------------------

    def _read_heads(self, exchange: Exchange, data: bytes) -> bytes:
        """Read interim heads and the final one; the body's bytes that came behind it."""
        while (raw := self._replies.receive(data)) is not None:
            data = b""
            head = parse_response(raw, exchange.head.method)
            if head.status >= 200:
                self._begin_response(exchange, head)
                return self._replies.take_rest()
            if self._interim(exchange, head):
                break
        return b""

    def _interim(self, exchange: Exchange, head: ResponseHead) -> bool:
        """Deal with an interim response; whether the protocol was changed by it."""
        if head.status == 101:
            chosen = tokens(head.named, b"upgrade")
            if not exchange.upgrade or chosen != [exchange.upgrade]:
                raise HTTPViolation(502, "changed to a protocol that nobody asked for")
            self._send_head(exchange, head, connection=b"Upgrade", upgrade=exchange.upgrade)
            self._effects += [
                exchange.seen(101),
                Tunnel(bytes(self._ahead), self._replies.take_rest()),
            ]
            self._exchange = None
            self._over = True
            return True
        exchange.interim += 1
        if exchange.interim > MAX_INTERIM:
            raise HTTPViolation(502, "sent interim responses without end")
        if head.status == 100:
            if exchange.expecting:
                self._send(Side.CLIENT, CONTINUE)
                exchange.expecting = False
                self._advance()
        elif exchange.head.minor:
            self._send_head(exchange, head)
        return False

    def _begin_response(self, exchange: Exchange, head: ResponseHead) -> None:
        exchange.begin_answer(head)
        if self._client_ended and not self._ahead:
            exchange.keep = False
        if not exchange.keep:
            connection = b"close"
        else:
            connection = b"" if exchange.head.minor else b"keep-alive"
        self._send_head(
            exchange,
            head,
            connection=connection,
            chunked=exchange.answer_chunked,
            cookie=exchange.set_cookie,
        )

    def _send_head(
        self,
        exchange: Exchange,
        head: ResponseHead,
        *,
        connection: bytes = b"",
        upgrade: bytes = b"",
        chunked: bool = False,
        cookie: bytes = b"",
    ) -> None:
        self._send(
            Side.CLIENT,
            response_bytes(
                head,
                exchange.place,
                self._policy.fields,
                self._parties,
                connection=connection,
                upgrade=upgrade,
                chunked=chunked,
                cookie=cookie,
            ),
        )

    def _pass_response(self, exchange: Exchange, data: bytes) -> None:
        answer = exchange.answer
        assert answer is not None
        own = answer.receive(data)
        exchange.bytes_out += len(own)
        if own:
            self._send(Side.CLIENT, chunk(own) if exchange.answer_chunked else own)
        if answer.ended:
            if exchange.answer_chunked:
                trailers = trailers_through(answer.trailers, self._policy.fields)
                self._send(Side.CLIENT, last_chunk(trailers))
            self._response_done(exchange)
        elif isinstance(answer, BodyUntilEnd):
            self._effects.append(MoveBody(Side.BACKEND, None))
        elif isinstance(answer, CountedBody) and answer.left > MOVE_FROM:
            self._effects.append(MoveBody(Side.BACKEND, answer.left))

    def _response_done(self, exchange: Exchange) -> None:
        response, answer = exchange.response, exchange.answer
        assert response is not None and answer is not None
        # What came behind a response belongs to nobody: it must not meet another request.
        clean = not answer.rest and exchange.request_done and not exchange.upgrade
        if not (clean and not response.until_end and persists(response.named, response.minor)):
            self._pinned.clear()
            self._effects.append(DropBackend())
        elif binds_connection(exchange.head.named, response.named):
            self._pinned = [exchange.route]
        elif exchange.route not in self._pinned:
            self._effects.append(ReleaseBackend())
        self._effects.append(exchange.seen(response.status))
        self._exchange = None
        self._served += 1
        if exchange.keep:
            self._advance()
        else:
            self._end("done", "")

    def _backend_gone(self, exchange: Exchange) -> None:
        self._pinned.clear()
        self._effects.append(BackendSilent("closed without an answer", costly=False))
        if exchange.repeatable and exchange.attempts + 1 < MAX_ATTEMPTS:
            exchange.attempts += 1
            exchange.ready = False
            self._effects += [
                DropBackend(),
                FindBackend(exchange.route, b"", steady=True, again=True),
            ]
        else:
            self._fail(502, "the backend closed without an answer")

    # -- ends -----------------------------------------------------------------------------------

    def _fail(self, status: int, what: str, *, stopping: bool = False) -> None:
        """The exchange under way cannot be completed, which is not the client's fault."""
        exchange = self._exchange
        assert exchange is not None
        self._pinned.clear()
        self._effects.append(DropBackend())
        if exchange.response is None:
            self._answer(status, what, keep=exchange.request_done and not stopping)
            return
        self._effects.append(exchange.seen(exchange.response.status, what))
        self._exchange = None
        self._end("backend", what, abort=True)

    def _answer(self, status: int, what: str, *, keep: bool) -> None:
        """Answer the request under way ourselves."""
        exchange = self._exchange
        assert exchange is not None
        keep = keep and exchange.persistent and not exchange.upgrade
        keep = keep and (bool(self._ahead) or not self._client_ended)
        head_only = exchange.head.method == b"HEAD"
        server = self._policy.fields.server
        self._send(Side.CLIENT, page(status, server, head_only=head_only, keep=keep))
        self._effects.append(exchange.seen(status, what))
        self._exchange = None
        self._served += 1
        if keep:
            self._advance()
        else:
            self._end("client" if status < 500 else "backend", what)

    def _end(self, cause: str, detail: str, *, abort: bool = False) -> None:
        if not self._over:
            if self._pinned:
                self._effects.append(DropBackend())
            self._over = True
            self._ahead.clear()
            self._effects.append(EndSession(cause, detail, abort))

    # -- effects --------------------------------------------------------------------------------

    def _send(self, side: Side, data: bytes) -> None:
        last = self._effects[-1] if self._effects else None
        if isinstance(last, Send) and last.side is side:
            self._effects[-1] = Send(side, last.data + data)
        else:
            self._effects.append(Send(side, data))

    def _flush(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects
