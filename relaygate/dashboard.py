"""
The dashboard of an internal node: its server, and what it shows by itself.

It is a front of the admin commands (:mod:`relaygate.admin`) and knows nothing of its own but the
past.  Its pages, and who may ask for them, are in :mod:`relaygate.webpages`.

What is shown is made once for all who watch, and is little where nobody does: a look every five
seconds for the curves, at this node alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web import server
from zope.interface import implementer

from relaygate.addresses import HostPort
from relaygate.admin import AdminCommands, AdminError
from relaygate.clocks import time_of_day
from relaygate.config import DashboardConfig
from relaygate.history import FINE_S, History, Recent
from relaygate.keeper import Keeper
from relaygate.servicekeys import ServiceFiles, load_service_key, load_token
from relaygate.servicetls import service_context
from relaygate.webpages import pages

# Seconds between two looks, and of silence after which a connection ends.
EVERY_S = 2.0
IDLE_LIMIT_S = 60
# A watcher that does not read is let go.
MAX_UNSENT = 4 * 1024 * 1024


@implementer(IOpenSSLContextFactory)
class _Contexts:
    """What Twisted's TLS wants of a context."""

    def __init__(self, files: ServiceFiles) -> None:
        self.use(files)

    def getContext(self) -> SSL.Context:
        """See :class:`twisted.internet.interfaces.IOpenSSLContextFactory`."""
        return self._context

    def use(self, files: ServiceFiles) -> None:
        """Connections from now on are shown the certificate of *files*."""
        assert files.key is not None
        self._context = service_context(files.key)


class Dashboard(Service):
    """The web server at *config*'s address, in front of *commands*."""

    log = Logger()

    def __init__(self, config: DashboardConfig, commands: AdminCommands, reactor: Any) -> None:
        self.commands = commands
        self.reactor = reactor
        self.config = config
        self.history = History()
        self.recent = Recent()
        self.token = load_token(config.token_file) if config.token_file else b""
        self._listen = config.listen
        self._contexts: _Contexts | None = None
        self.keeper: Keeper[ServiceFiles] | None = None
        if config.certificate is not None and config.key is not None:
            paths = config.certificate, config.key

            def load(now: datetime) -> ServiceFiles:
                return ServiceFiles("dashboard", load_service_key(*paths, now=now), ())

            files = load(datetime.fromtimestamp(time_of_day(reactor), UTC))
            self._contexts = _Contexts(files)
            use = self._contexts.use
            self.keeper = Keeper("dashboard's TLS", files, load, use, paths, reactor)
        self.watchers: set[server.Request] = set()
        # How many endings those who watch have been told of.
        self._told = -1
        self._looks = LoopingCall(self._look)
        self._looks.clock = reactor
        self._noted = 0.0
        self._port: Any = None

    @property
    def hosts(self) -> frozenset[str]:
        """What ``Host`` may say; anything if it is empty."""
        if self._contexts is not None:
            # The certificate proves which name it is, and somebody else's name cannot be in it.
            return frozenset()
        return frozenset({str(HostPort(self._listen.host, self.port)), f"localhost:{self.port}"})

    @property
    def origin_scheme(self) -> str:
        """Which scheme our own page has."""
        return "http" if self._contexts is None else "https"

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._port.getHost().port)

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        super().startService()
        site = server.Site(pages(self), timeout=IDLE_LIMIT_S, reactor=self.reactor)
        site.noisy = False
        site.displayTracebacks = False
        host, port = self._listen.host, self._listen.port
        try:
            if self._contexts is None:
                self._port = self.reactor.listenTCP(port, site, interface=host)
            else:
                self._port = self.reactor.listenSSL(port, site, self._contexts, interface=host)
        except CannotListenError as error:
            self.log.error("admin.listen: cannot listen: {reason}", reason=str(error.socketError))
            return
        self.recent.start()
        self._looks.start(EVERY_S)

    def stopService(self) -> Any:
        """See :class:`twisted.application.service.IService`."""
        super().stopService()
        if self._port is None:
            return None
        self._looks.stop()
        self.recent.stop()
        for request in list(self.watchers):
            request.finish()
        port, self._port = self._port, None
        return port.stopListening()

    def succeed(self, older: Dashboard) -> None:
        """Go on with the past of *older*."""
        self.history, self.recent = older.history, older.recent

    @property
    def open(self) -> bool:
        """Whether it answers; connections of one that was stopped may outlive it a little."""
        return self._port is not None

    async def answer(self, request: Mapping[str, Any]) -> bytes:
        """What the admin commands answer, as JSON."""
        return await self.commands.answer(json.dumps(request).encode())

    def watch(self, request: server.Request) -> None:
        """Show *request* what there is, from the next look on, until it goes."""
        self.watchers.add(request)
        self._told = -1

    def _look(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._tell())

    async def _tell(self) -> None:
        """Take a look, keep a point of it, and show it to whoever watches."""
        now = self.reactor.seconds()
        due = now - self._noted >= FINE_S
        watched = bool(self.watchers)
        if not (watched or due):
            return
        # What the DMZ nodes have to say is asked for where somebody sees it.
        try:
            status = await self.commands.perform({"command": "status", "reports": watched})
        except AdminError:
            return
        date = time_of_day(self.reactor)
        if due:
            self._noted = now
            self.history.note(date, status["services"], status.get("forwards", ()))
        if watched:
            self._show_all(status, date)

    def _show_all(self, status: Mapping[str, Any], now: float) -> None:
        shown: dict[str, Any] = {"status": status, "now": now}
        # Endings are told again only where there are new ones, or somebody new to tell.
        if self._told != self.recent.count:
            shown["recent"] = list(self.recent.events)
            self._told = self.recent.count
        words = b"data: " + json.dumps(shown, separators=(",", ":")).encode() + b"\n\n"
        for request in list(self.watchers):
            self._show(request, words)

    def _show(self, request: server.Request, words: bytes) -> None:
        transport: Any = request.transport
        waiting = getattr(transport, "_tempDataLen", 0) + len(getattr(transport, "dataBuffer", b""))
        if waiting > MAX_UNSENT:
            transport.abortConnection()
        else:
            request.write(words)
