"""
The status page: is this node alive, is it ready, and inside, what are its figures.

It is for load balancers, supervisors and Prometheus, and off unless ``[status] listen`` says where.
It changes nothing, takes no input but a path, and writes nothing into the log (lesson 28).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.addresses import HostPort
from relaygate.protocols.statushttp import BadRequest, RequestReader, Response

MAX_CONNECTIONS = 64
# Seconds for a request, from the connection on, and for its answer.
REQUEST_LIMIT_S = 5.0
ANSWER_LIMIT_S = 15.0
# See shared().
REST_TIMES = 4
LONGEST_REST_S = 5.0

Page = Callable[[], Coroutine[Any, Any, Response]]

_NOTHING = Response(404, b"not found\n")


def truth(lacking: Callable[[], list[str]]) -> Page:
    """A page that is 200 when nothing is *lacking*, and else 503 with a line for each thing."""

    async def page() -> Response:
        lines = lacking()
        if lines:
            return Response(503, ("\n".join(lines) + "\n").encode())
        return Response(200, b"ok\n")

    return page


def shared(page: Page, clock: IReactorTime) -> Page:
    """
    *page*, made once for all who ask at the same time, and then not again for four times as long
    as that took: so however many ask, most of the node's time is its sessions'.
    """
    waiting: list[Deferred[Response]] = []
    last: Response | None = None
    until = 0.0

    def made(result: Response | Failure, began: float) -> None:
        nonlocal last, until
        now = clock.seconds()
        if isinstance(result, Response):
            last, until = result, now + min(LONGEST_REST_S, REST_TIMES * (now - began))
        asking = waiting[:]
        waiting.clear()
        for each in asking:
            if isinstance(result, Response):
                each.callback(result)
            else:
                each.errback(result)

    async def answer() -> Response:
        if last is not None and clock.seconds() < until:
            return last
        mine: Deferred[Response] = Deferred()
        waiting.append(mine)
        if len(waiting) == 1:
            Deferred.fromCoroutine(page()).addBoth(made, clock.seconds())
        return await mine

    return answer


class StatusPage(Service, Factory):
    """Serves *pages*, by path, at *address*."""

    noisy = False
    log = Logger()

    def __init__(self, address: HostPort, pages: Mapping[str, Page], reactor: Any) -> None:
        self.clock = reactor
        self.pages = pages
        self.connections: set[_Asking] = set()
        self._address = address
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        super().startService()
        address = self._address
        try:
            self._port = self.clock.listenTCP(address.port, self, interface=address.host)
        except CannotListenError as error:
            # The node's work is elsewhere; whoever looks at the page sees that it is not there.
            self.log.error(
                "status.listen: cannot listen on {address}: {reason}",
                address=str(address),
                reason=str(error.socketError),
            )

    def stopService(self) -> Any:
        """See :class:`twisted.application.service.IService`."""
        super().stopService()
        for asking in list(self.connections):
            cast(ITCPTransport, asking.transport).abortConnection()
        port, self._port = self._port, None
        return None if port is None else port.stopListening()

    def buildProtocol(self, addr: object) -> Protocol | None:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        if len(self.connections) >= MAX_CONNECTIONS:
            return None
        return _Asking(self)


class _Asking(Protocol):
    """One who asks, once."""

    def __init__(self, status: StatusPage) -> None:
        self._status = status
        self._reader = RequestReader()
        self._limit: IDelayedCall | None = None

    @property
    def _leg(self) -> ITCPTransport:
        return cast(ITCPTransport, self.transport)

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._status.connections.add(self)
        self._limit = self._status.clock.callLater(REQUEST_LIMIT_S, self._leg.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self._reader.found is not None:
            return
        try:
            requests = self._reader.receive(data)
        except BadRequest:
            self._leg.abortConnection()
            return
        for request in requests:
            page = self._status.pages.get(request.path)
            if page is None:
                self._answer(_NOTHING, with_body=request.with_body)
                continue
            assert self._limit is not None
            self._limit.reset(ANSWER_LIMIT_S)
            making = Deferred.fromCoroutine(page())
            making.addCallback(self._answer, with_body=request.with_body)
            making.addErrback(self._failed)

    def _answer(self, response: Response, *, with_body: bool) -> None:
        if self.connected:
            self._leg.write(bytes(response) if with_body else response.head())
            self._leg.loseConnection()

    def _failed(self, failure: Failure) -> None:
        self._status.log.failure("the status page failed", failure)
        if self.connected:
            self._leg.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._status.connections.discard(self)
        if self._limit is not None and self._limit.active():
            self._limit.cancel()
