"""
The internal node's admin socket: what ``relaygate status`` and its like talk to.

A unix socket of mode 0600, so the file system says who may. One JSON object a line each way:
``{"command": "drain", "kind": "node"}`` is answered with ``{"ok": true, "result": {...}}`` or with
``{"ok": false, "error": "words for people"}``.  Requests on one connection are answered in order.
Every room may add commands (:meth:`AdminCommands.register`); what they are given is read through
:class:`Arguments`, which bounds it.  The DMZ node has no such socket: it has no management surface.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet import tcp, unix
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

# A request names a thing or two; a list of networks to ban may be longer.
MAX_REQUEST_BYTES = 64 * 1024
MAX_CONNECTIONS = 32
# Seconds for a command; those that ask DMZ nodes have shorter limits of their own.
ANSWER_LIMIT_S = 30.0
# Seconds in which a connection on which nothing is asked ends.
IDLE_LIMIT_S = 300.0

Answer = dict[str, Any]
Handler = Callable[["Arguments"], Coroutine[Any, Any, Answer]]


class AdminError(Exception):
    """The command cannot be done; its text is for whoever gave it."""


class Arguments:
    """
    The arguments of one command; each is taken once, and what is left over is a mistake.

    All of its methods raise :class:`AdminError` for an argument that is none.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def text(self, name: str, default: str | None = None, *, longest: int = 256) -> str:
        """A printable text of at most *longest* characters; required without a *default*."""
        value = self._values.pop(name, default)
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            raise AdminError(f"{name}: expected a text of at most {longest} characters")
        return value

    def choice(self, name: str, *words: str) -> str:
        """One of *words*."""
        value = self._values.pop(name, None)
        if value not in words:
            raise AdminError(f"{name}: expected one of {', '.join(words)}")
        return cast(str, value)

    def number(self, name: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number from *least* to *most*; required without a *default*."""
        value = self._values.pop(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise AdminError(f"{name}: expected a whole number from {least} to {most}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._values.pop(name, default)
        if not isinstance(value, bool):
            raise AdminError(f"{name}: expected true or false")
        return value

    def texts(self, name: str, *, most: int, longest: int = 256) -> list[str]:
        """A list of at most *most* printable texts, empty if it is absent."""
        value = self._values.pop(name, [])
        if not isinstance(value, list) or len(value) > most:
            raise AdminError(f"{name}: expected a list of at most {most} texts")
        return [Arguments({name: each}).text(name, longest=longest) for each in value]

    def finish(self) -> None:
        """Nothing may be left.  Raises :class:`AdminError`."""
        if self._values:
            raise AdminError(f"unknown argument: {min(self._values)[:64]!r}")


class AdminCommands:
    """The table of commands, and the one place that answers a request."""

    log = Logger()

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def register(self, name: str, handler: Handler) -> None:
        """
        *handler* answers the command *name*.

        It takes its :class:`Arguments`, calls their ``finish``, and returns what JSON can carry;
        it may raise :class:`AdminError`.
        """
        assert name not in self._handlers
        self._handlers[name] = handler

    async def answer(self, line: bytes) -> bytes:
        """The answer to the request *line*, with its line end."""
        try:
            result = await self._result(line)
        except AdminError as error:
            reply: Answer = {"ok": False, "error": str(error)}
        except CancelledError:
            reply = {"ok": False, "error": "no answer in time"}
        except Exception:  # noqa: BLE001 - a mistake of ours costs this answer and not the node
            self.log.failure("an admin command failed")
            reply = {"ok": False, "error": "internal error: see the log"}
        else:
            reply = {"ok": True, "result": result}
        return json.dumps(reply, separators=(",", ":")).encode() + b"\n"

    async def _result(self, line: bytes) -> Answer:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            raise AdminError("expected one JSON object a line") from None
        if not isinstance(request, dict):
            raise AdminError("expected one JSON object a line")
        return await self.perform(request)

    async def perform(self, request: Mapping[str, Any]) -> Answer:
        """Do what *request* says.  Raises :class:`AdminError`."""
        arguments = dict(request)
        name = arguments.pop("command", None)
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            raise AdminError(f"no such command; this node knows {known}")
        return await handler(Arguments(arguments))


class _Connection(Protocol):
    """One who asks."""

    def __init__(self, port: AdminPort) -> None:
        self._port = port
        self._buffer = bytearray()
        self._working: Deferred[None] | None = None
        self._gone = False
        self._limit = port.clock.callLater(IDLE_LIMIT_S, self._too_long)

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._buffer += data
        if self._working is None:
            self._next()

    def _next(self) -> None:
        line, end, rest = self._buffer.partition(b"\n")
        transport = cast(ITransport, self.transport)
        if not end:
            if len(line) > MAX_REQUEST_BYTES:
                transport.write(b'{"ok":false,"error":"the request is too long"}\n')
                transport.loseConnection()
            return
        self._buffer = rest
        # What comes meanwhile waits in the kernel: one request at a time, however many are sent.
        cast(Any, transport).pauseProducing()
        answering = Deferred.fromCoroutine(self._port.commands.answer(bytes(line)))
        answering.addTimeout(ANSWER_LIMIT_S, self._port.clock)
        working: Deferred[None] = answering.addCallbacks(transport.write, self._failed)
        self._working = working
        working.addCallback(lambda _: self._done())

    def _done(self) -> None:
        self._working = None
        if not (self._gone or cast(Any, self.transport).disconnecting):
            self._limit.reset(IDLE_LIMIT_S)
            cast(Any, self.transport).resumeProducing()
            # By the clock: requests that are answered at once would nest.
            self._port.clock.callLater(0, self._if_idle)

    def _if_idle(self) -> None:
        if not self._gone and self._working is None:
            self._next()

    def _failed(self, failure: Failure) -> None:
        failure.trap(TimeoutError)
        cast(ITransport, self.transport).write(b'{"ok":false,"error":"no answer in time"}\n')

    def _too_long(self) -> None:
        cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._gone = True
        if self._limit.active():
            self._limit.cancel()
        self._port.gone(self)


class _Socket(unix.Port):
    """
    A listening unix socket that takes its name over from whoever had it.

    A node that was killed leaves its socket behind, and one that is being replaced still has its
    own; the newer one's name is put in the place of the older one's in one step.
    """

    def __init__(self, path: Path, factory: Factory, reactor: Any) -> None:
        self._path = path
        self._inode = 0
        self._made = path.with_name(path.name + f".{os.getpid()}")
        super().__init__(bytes(self._made), factory, mode=0o600, reactor=reactor)

    def startListening(self) -> None:
        """See :class:`twisted.internet.interfaces.IListeningPort`."""
        # Nobody else may connect in the moment between binding and the change of mode.
        mask = os.umask(0o177)
        try:
            self._made.unlink(missing_ok=True)
            super().startListening()
            self._inode = self._made.stat().st_ino
            self._made.rename(self._path)
        finally:
            os.umask(mask)

    def connectionLost(self, reason: Failure) -> None:
        """Remove the name, unless it is somebody else's by now."""
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except OSError:
            pass
        tcp.Port.connectionLost(self, reason)


class AdminPort(Service, Factory):
    """The socket at *path*, whose requests *commands* answers."""

    noisy = False
    log = Logger()

    def __init__(self, path: Path, commands: AdminCommands, reactor: Any) -> None:
        self.commands = commands
        self.clock = reactor
        self._path = path
        self._reactor = reactor
        self._socket: _Socket | None = None
        self._connections: set[_Connection] = set()

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        super().startService()
        socket = _Socket(self._path, self, self._reactor)
        try:
            socket.startListening()
        except (CannotListenError, OSError, ValueError) as error:
            why = getattr(error, "socketError", error)
            # The node's work is elsewhere; without the socket it cannot be looked at, no more.
            self.log.error(
                "admin.socket: cannot listen on {path}: {reason}",
                path=str(self._path),
                reason=getattr(why, "strerror", None) or str(why),
            )
            return
        self._socket = socket

    def stopService(self) -> Any:
        """See :class:`twisted.application.service.IService`."""
        super().stopService()
        for connection in list(self._connections):
            cast(ITransport, connection.transport).loseConnection()
        socket, self._socket = self._socket, None
        return None if socket is None else socket.stopListening()

    def buildProtocol(self, addr: object) -> Protocol | None:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        if len(self._connections) >= MAX_CONNECTIONS:
            return None
        connection = _Connection(self)
        self._connections.add(connection)
        return connection

    def gone(self, connection: _Connection) -> None:
        """*connection* has ended."""
        self._connections.discard(connection)
