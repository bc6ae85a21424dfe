"""Both ends of HTTP in tests, byte by byte: a scripted backend, a client that is a socket."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from relaygate.config import HTTPConfig
from relaygate.test.peers import in_thread
from relaygate.test.test_sessions import SessionCase

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: files.example\r\n\r\n"
_LAST_CHUNK = re.compile(rb"(?:^|\r\n)0\r\n(?:.+\r\n)*\r\n")
_HEAD_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")


class Backend(Protocol):
    """
    One connection of a :class:`Script`: it answers each request, when it is whole, with the next
    answer of the script.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.data = bytearray()
        self.over: Failure | None = None
        self._unanswered = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self._unanswered += data
        while (request := self._whole()) is not None:
            self.script.requests.append(request)
            answer = self.script.answer(request)
            if answer is None:
                continue
            transport: Any = self.transport
            if answer == b"":
                transport.abortConnection()
                return
            transport.write(answer)
            if self.script.closes(answer):
                transport.loseConnection()

    def _whole(self) -> bytes | None:
        head, found, rest = bytes(self._unanswered).partition(b"\r\n\r\n")
        if not found:
            return None
        length = _HEAD_LENGTH.search(head)
        if length is not None:
            size = len(head) + 4 + int(length[1])
        elif b"\r\nTransfer-Encoding: chunked" in head:
            last = _LAST_CHUNK.search(rest)
            if last is None:
                return None
            size = len(head) + 4 + last.end()
        else:
            size = len(head) + 4
        if len(self._unanswered) < size:
            return None
        request = bytes(self._unanswered[:size])
        del self._unanswered[:size]
        return request

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over = reason


class Script(Factory):
    """A backend: *answers* in turn, the last one for ever; None says nothing, b"" resets."""

    noisy = False

    def __init__(self, *answers: bytes | Callable[[bytes], bytes | None] | None) -> None:
        self.answers = list(answers) or [OK]
        self.requests: list[bytes] = []
        self.connections: list[Backend] = []

    def buildProtocol(self, addr: object) -> Protocol:
        backend = Backend(self)
        self.connections.append(backend)
        return backend

    def answer(self, request: bytes) -> bytes | None:
        """The answer to *request*."""
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(request) if callable(answer) else answer

    @staticmethod
    def closes(answer: bytes) -> bool:
        """Whether the connection ends with *answer*."""
        head = answer.partition(b"\r\n\r\n")[0].lower()
        return b"\r\nconnection: close" in head

    @property
    def heard(self) -> bytes:
        """All that has come on all connections."""
        return b"".join(bytes(each.data) for each in self.connections)


def exchange(port: int, *pieces: bytes, ends: bool = False, limit_s: float = 30.0) -> bytes:
    """
    Send *pieces* and return all that comes until the other side closes, or says "reset" behind it.

    With *ends* our direction is closed behind the last piece.
    """
    with socket.create_connection(("127.0.0.1", port), limit_s) as client:
        for piece in pieces:
            client.sendall(piece)
        if ends:
            client.shutdown(socket.SHUT_WR)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """All that comes until the end, with "<reset>" behind it if it was none in order."""
    said = bytearray()
    try:
        while data := client.recv(1 << 16):
            said += data
    except ConnectionResetError:
        said += b"<reset>"
    return bytes(said)


def read_answer(client: socket.socket) -> bytes:
    """One answer with a Content-Length, or one that has no body."""
    said = bytearray()
    while b"\r\n\r\n" not in said:
        data = client.recv(1 << 16)
        if not data:
            return bytes(said)
        said += data
    head, _, body = bytes(said).partition(b"\r\n\r\n")
    length = _HEAD_LENGTH.search(head)
    missing = (int(length[1]) if length else 0) - len(body)
    while missing > 0:
        data = client.recv(missing)
        if not data:
            break
        said += data
        missing -= len(data)
    return bytes(said)


def parts(answer: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, fields (names in small letters) and what follows of *answer*."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    fields = {}
    for each in lines:
        name, _, value = each.partition(b":")
        fields[name.lower()] = value.strip()
    return int(line.split(b" ")[1]), fields, body


class HTTPCase(SessionCase):
    """Both nodes with a service of HTTP, whose backend is :attr:`script`."""

    async def serve(self, *answers: Any, protocol: Any = "http", **keys: Any) -> Script:
        """
        Start them; *keys* are of :class:`HTTPConfig`, or those in *service*.

        *over* is what the script is behind.
        """
        self.script = Script(*answers)
        service, over = keys.pop("service", {}), keys.pop("over", lambda script: script)
        await self.start(protocol, over(self.script), http=HTTPConfig(**keys), **service)
        return self.script

    def asking(self, work: Callable[..., bytes], *args: Any) -> Deferred[bytes]:
        """Begin *work* in a thread."""
        return Deferred.fromCoroutine(in_thread(work, *args))

    async def ask(self, *pieces: bytes, ends: bool = False) -> bytes:
        """Send *pieces*, and return all that comes until the end."""
        return await in_thread(exchange, self.port, *pieces, ends=ends)
