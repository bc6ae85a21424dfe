"""
The dashboard of an internal node: a page, what it shows, and the few things that it can do.

It is a front of the admin commands (:mod:`relaygate.admin`) and knows nothing of its own but the
past.  Who may ask what:

- ``Host`` must be the address that we listen on (or ``localhost`` there): a name that an attacker
  lets resolve to us is somebody else's (DNS rebinding).
- ``Origin`` and ``Sec-Fetch-Site``, where a browser sends them, must be our own page's.
- With a token every question needs it, as ``Authorization: Bearer``, which no other site can make
  a browser send.  Without one (this machine alone) nothing can be changed.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web import http, resource, server
from zope.interface import implementer

from relaygate.addresses import HostPort
from relaygate.admin import AdminCommands, AdminPort
from relaygate.config import DashboardConfig
from relaygate.history import FINE_S, History, Recent
from relaygate.keeper import DASHBOARD, Keeper
from relaygate.servicekeys import ServiceFiles, load_service_key, load_token
from relaygate.servicetls import service_context

# RFC 9110 section 15.5.20.
MISDIRECTED = 421
MAX_BODY = 16 * 1024
# Browsers that watch at the same time.
MAX_WATCHERS = 16
# Seconds between two looks, and of silence after which a connection ends.
EVERY_S = 2.0
IDLE_LIMIT_S = 60
# Sessions in one answer: a thousand at once held new ones up for some 80 ms on a busy machine.
FEW_SESSIONS = 100
# A watcher that does not read is let go.
MAX_UNSENT = 4 * 1024 * 1024
LOOKS = frozenset({"status", "sessions", "bans"})
ACTS = frozenset({"drain", "resume", "ban", "unban", "end"})

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Server": "relaygate",
}
_FILES = {
    b"": ("index.html", "text/html; charset=utf-8"),
    b"app.js": ("app.js", "text/javascript; charset=utf-8"),
    b"style.css": ("style.css", "text/css; charset=utf-8"),
    b"uplot.js": ("uplot.js", "text/javascript; charset=utf-8"),
    b"uplot.css": ("uplot.css", "text/css; charset=utf-8"),
}


def admin_doors(
    socket: Path | None,
    config: DashboardConfig | None,
    commands: AdminCommands,
    keepers: dict[str, Keeper[ServiceFiles]],
    reactor: Any,
) -> Iterator[Service]:
    """The services by which operators come in, as far as the file wants them.

    What keeps the dashboard's certificate is put among the *keepers*, which are told to reload.
    Raises :class:`relaygate.identity.IdentityError` where token or certificate cannot be used.
    """
    if socket is not None:
        yield AdminPort(socket, commands, reactor)
    if config is not None:
        board = Dashboard(config, commands, reactor)
        if board.keeper is not None:
            keepers[DASHBOARD] = board.keeper
            yield board.keeper
        yield board


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

            files = load(datetime.fromtimestamp(reactor.seconds(), UTC))
            self._contexts = _Contexts(files)
            use = self._contexts.use
            self.keeper = Keeper("dashboard's TLS", files, load, use, paths, reactor)
        self.watchers: set[server.Request] = set()
        self.shown: dict[str, Any] = {}
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
        site = server.Site(_root(self), timeout=IDLE_LIMIT_S, reactor=self.reactor)
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

    async def ask(self, **request: Any) -> dict[str, Any]:
        """What the admin commands answer."""
        answer: dict[str, Any] = json.loads(await self.answer(request))
        return answer

    async def answer(self, request: dict[str, Any]) -> bytes:
        """The same as it is written: a thousand sessions are not taken apart once more."""
        return await self.commands.answer(json.dumps(request).encode())

    def _look(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._tell())

    async def _tell(self) -> None:
        """Take a look, keep a point of it, and show it to whoever watches."""
        now = self.reactor.seconds()
        due = now - self._noted >= FINE_S
        if not (self.watchers or due):
            return
        answer = await self.ask(command="status")
        if not answer["ok"]:
            return
        status = answer["result"]
        if due:
            self._noted = now
            self.history.note(now, status["services"])
        self.shown = {"status": status, "recent": list(self.recent.events), "now": now}
        words = b"data: " + json.dumps(self.shown, separators=(",", ":")).encode() + b"\n\n"
        for request in list(self.watchers):
            self._show(request, words)

    def _show(self, request: server.Request, words: bytes) -> None:
        transport: Any = request.transport
        waiting = getattr(transport, "_tempDataLen", 0) + len(getattr(transport, "dataBuffer", b""))
        if waiting > MAX_UNSENT:
            transport.abortConnection()
        else:
            request.write(words)


def _field(request: server.Request, name: bytes) -> str:
    """A field of the head; several of one name are one that fits nothing."""
    values = request.requestHeaders.getRawHeaders(name, [])
    return ", ".join(value.decode("latin-1") for value in values)


class _Page(resource.Resource):
    """What all pages have: headers, and who may ask."""

    isLeaf = True
    needs_token = True

    def __init__(self, board: Dashboard) -> None:
        super().__init__()
        self.board = board

    def render(self, request: server.Request) -> Any:
        """Answer, if *request* is one of our own page's."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        code = self._refused(request)
        if code:
            request.setResponseCode(code)
            request.setHeader("Content-Type", "text/plain; charset=utf-8")
            if code == http.UNAUTHORIZED:
                request.setHeader("WWW-Authenticate", "Bearer")
            return b"refused\n"
        return super().render(request)

    def _refused(self, request: server.Request) -> int:
        board = self.board
        host = _field(request, b"host").lower()
        known = board.hosts
        if not host or (known and host not in known):
            return MISDIRECTED
        origin = _field(request, b"origin").lower()
        if origin not in ("", f"{board.origin_scheme}://{host}"):
            return http.FORBIDDEN
        if _field(request, b"sec-fetch-site") not in ("", "same-origin", "none"):
            return http.FORBIDDEN
        if not (self.needs_token and board.token):
            return 0
        given = _field(request, b"authorization").encode("latin-1")
        if hmac.compare_digest(given, b"Bearer " + board.token):
            return 0
        return http.UNAUTHORIZED


class _File(_Page):
    """A file of the package, which is nobody's secret."""

    needs_token = False

    def __init__(self, board: Dashboard, name: str, kind: str) -> None:
        super().__init__(board)
        self._kind = kind
        self._content = resources.files("relaygate").joinpath("web", name).read_bytes()

    def render_GET(self, request: server.Request) -> bytes:
        """See :class:`twisted.web.resource.IResource`."""
        request.setHeader("Content-Type", self._kind)
        return self._content


# How an answer to a command begins that was done.
_OK = b'{"ok":true'


class _JSON(_Page):
    """A page whose answer takes a while."""

    def later(self, request: server.Request, answering: Any) -> int:
        """Answer with the bytes that *answering*, a coroutine, returns."""

        def done(answer: bytes) -> None:
            if not request.finished and not request._disconnected:
                request.setResponseCode(200 if answer.startswith(_OK) else 400)
                request.write(answer)
                request.finish()

        request.setHeader("Content-Type", "application/json")
        # A browser that has gone is nobody's fault.
        request.notifyFinish().addErrback(lambda _: None)
        Deferred.fromCoroutine(answering).addCallback(done)
        return server.NOT_DONE_YET


class _Look(_JSON):
    """``/api/look?command=...``: one of the commands that change nothing."""

    def render_GET(self, request: server.Request) -> Any:
        """See :class:`twisted.web.resource.IResource`."""
        asked = {
            name.decode("ascii", "replace"): values[0].decode("utf-8", "replace")
            for name, values in list((request.args or {}).items())[:8]
        }
        if asked.get("command") not in LOOKS:
            request.setResponseCode(http.BAD_REQUEST)
            return b"no such look\n"
        few = {"limit": FEW_SESSIONS} if asked["command"] == "sessions" else {}
        return self.later(request, self.board.answer({**asked, **few}))


class _Past(_JSON):
    """``/api/past``: the curves."""

    def render_GET(self, request: server.Request) -> bytes:
        """See :class:`twisted.web.resource.IResource`."""
        request.setHeader("Content-Type", "application/json")
        past = self.board.history
        return json.dumps(
            {
                "fine": list(past.fine),
                "coarse": list(past.coarse),
                "may_act": bool(self.board.token),
            }
        ).encode()


class _Act(_JSON):
    """``/api/act``: one of the commands that change something; never without a token."""

    def render_POST(self, request: server.Request) -> Any:
        """See :class:`twisted.web.resource.IResource`."""
        kind = _field(request, b"content-type").partition(";")[0]
        if not self.board.token:
            request.setResponseCode(http.FORBIDDEN)
            return b"without admin.token_file nothing can be changed here\n"
        try:
            assert request.content is not None
            asked = json.loads(request.content.read(MAX_BODY + 1))
            if kind != "application/json" or asked["command"] not in ACTS:
                raise ValueError
            asked = {str(name): value for name, value in asked.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            request.setResponseCode(http.BAD_REQUEST)
            return b"expected one command as application/json\n"
        self.board.log.info(
            "dashboard: {command} from {address}",
            command=asked["command"],
            address=getattr(request.getClientAddress(), "host", "?"),
        )
        return self.later(request, self.board.answer(asked))


class _Events(_Page):
    """``/api/events``: what is shown, as server-sent events."""

    def render_GET(self, request: server.Request) -> Any:
        """See :class:`twisted.web.resource.IResource`."""
        board = self.board
        if len(board.watchers) >= MAX_WATCHERS:
            request.setResponseCode(http.SERVICE_UNAVAILABLE)
            return b"too many watch already\n"
        request.setHeader("Content-Type", "text/event-stream")
        request.write(b": relaygate\n\n")
        board.watchers.add(request)
        # It is quiet towards us for as long as it watches.
        request.channel.setTimeout(None)

        def gone(_: object) -> None:
            board.watchers.discard(request)

        request.notifyFinish().addBoth(gone)
        return server.NOT_DONE_YET


class _Nothing(_Page):
    """404, after the same questions as everywhere; it needs no token to say so."""

    needs_token = False

    def render_GET(self, request: server.Request) -> bytes:
        """See :class:`twisted.web.resource.IResource`."""
        request.setResponseCode(http.NOT_FOUND)
        request.setHeader("Content-Type", "text/plain; charset=utf-8")
        return b"not here\n"


class _Folder(_Nothing):
    """What has pages below it, and is none itself."""

    isLeaf = False

    def getChild(self, path: bytes, request: server.Request) -> resource.Resource:
        """Nothing else is there, and nobody is told more."""
        return _Nothing(self.board)


def _root(board: Dashboard) -> resource.Resource:
    """The paths that there are."""
    root, api = _Folder(board), _Folder(board)
    for path, (name, kind) in _FILES.items():
        root.putChild(path, _File(board, name, kind))
    root.putChild(b"api", api)
    api.putChild(b"look", _Look(board))
    api.putChild(b"past", _Past(board))
    api.putChild(b"act", _Act(board))
    api.putChild(b"events", _Events(board))
    return root
