"""
The dashboard's pages, and who may ask for them:

- ``Host`` must be the address that we listen on (or ``localhost`` there): a name that an attacker
  lets resolve to us is somebody else's (DNS rebinding).
- ``Origin`` and ``Sec-Fetch-Site``, where a browser sends them, must be our own page's.
- With a token every question needs it, as ``Authorization: Bearer``, which no other site can make
  a browser send.  Without one (this machine alone) nothing can be changed.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, resource, server

from relaygate.history import History

# RFC 9110 section 15.5.20.
MISDIRECTED = 421
MAX_BODY = 16 * 1024
# Browsers that watch at the same time.
MAX_WATCHERS = 16
# Sessions in one answer: while it is made, new ones wait for half a millisecond.
FEW_SESSIONS = 50
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


class IBoard(Protocol):
    """What the pages show."""

    history: History
    token: bytes
    watchers: set[server.Request]
    log: Logger

    @property
    def open(self) -> bool:
        """Whether it answers."""

    @property
    def hosts(self) -> frozenset[str]:
        """What ``Host`` may say; anything if it is empty."""

    @property
    def origin_scheme(self) -> str:
        """Which scheme our own page has."""

    async def answer(self, request: Mapping[str, Any]) -> bytes:
        """What the admin commands answer, as JSON."""

    def watch(self, request: server.Request) -> None:
        """Show *request* what there is, until it goes."""


def _field(request: server.Request, name: bytes) -> str:
    """A field of the head; several of one name are one that fits nothing."""
    values = request.requestHeaders.getRawHeaders(name, [])
    return ", ".join(value.decode("latin-1") for value in values)


class _Page(resource.Resource):
    """What all pages have: headers, and who may ask."""

    isLeaf = True
    needs_token = True

    def __init__(self, board: IBoard) -> None:
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
        if not board.open:
            # It was stopped, or another one with another token has taken its place.
            request.setHeader("Connection", "close")
            return http.SERVICE_UNAVAILABLE
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

    def __init__(self, board: IBoard, name: str, kind: str) -> None:
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
        # A browser that has gone is nobody's fault.
        gone: list[Failure] = []

        def done(answer: bytes) -> None:
            if not gone:
                request.setResponseCode(200 if answer.startswith(_OK) else 400)
                request.write(answer)
                request.finish()

        request.setHeader("Content-Type", "application/json")
        request.notifyFinish().addErrback(gone.append)
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
        board.watch(request)
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


def pages(board: IBoard) -> resource.Resource:
    """The paths that there are, for *board*."""
    root, api = _Folder(board), _Folder(board)
    for path, (name, kind) in _FILES.items():
        root.putChild(path, _File(board, name, kind))
    root.putChild(b"api", api)
    api.putChild(b"look", _Look(board))
    api.putChild(b"past", _Past(board))
    api.putChild(b"act", _Act(board))
    api.putChild(b"events", _Events(board))
    return root
