"""
The two peers of an FTP session, for tests: a client's control connection, and a backend.

They do what a test says; the backend answers by itself what its table has answers for, so that a
test need only say what it is about.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from OpenSSL import SSL
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.servicetls import SessionTLS
from relaygate.test.farend import Peer, reactor, until
from relaygate.test.test_servicetls import client_context, service_key


class Line(Peer):
    """The far end of a control connection."""

    def __init__(self, skt: socket.socket) -> None:
        super().__init__(skt)
        self.seen = 0
        self.context: SSL.Context | None = None
        # Where the next reply was looked for, and what a line that ends it begins with.
        self._looked = 0
        self._closing = b""

    def say(self, *lines: bytes) -> None:
        """Send lines."""
        self.send(b"".join(line + b"\r\n" for line in lines))

    @property
    def unseen(self) -> bytes:
        """What has come since the last reply or line that was waited for."""
        return bytes(self.received[self.seen :])

    async def reply(self, code: int | None = None) -> bytes:
        """Wait for the next reply, which must have this code."""
        await until(lambda: self._is_complete() or self.ending, f"a reply {code or ''}")
        if not self._is_complete():
            raise AssertionError(f"no reply, but {self.unseen[:100]!r} and {self.ending}")
        found = bytes(self.received[self.seen : self._looked])
        self.seen = self._looked
        self._closing = b""
        if code is not None and not found.startswith(b"%d" % code):
            raise AssertionError(f"{code} was due, and {found[:200]!r} came")
        return found

    def _is_complete(self) -> bool:
        """Whether all of a reply has come, up to where it was looked for."""
        while self._looked == self.seen or self._closing:
            end = self.received.find(b"\r\n", self._looked)
            if end < 0:
                return False
            line = bytes(self.received[self._looked : end])
            self._looked = end + 2
            if not self._closing:
                self._closing = line[:3] + b" "
                if line[3:4] != b"-":
                    self._closing = b""
            elif line.startswith(self._closing):
                self._closing = b""
        return True

    async def ask(self, line: bytes, code: int | None = None) -> bytes:
        """Send a command and wait for its reply."""
        self.say(line)
        return await self.reply(code)

    def start_tls(self, connection: SSL.Connection) -> None:
        """Begin a handshake, as the client or the server that *connection* is."""
        self._tls = connection
        self._shaking = True
        reactor.addWriter(self)

    @property
    def tls(self) -> SSL.Connection:
        """The TLS of this connection."""
        assert self._tls is not None
        return self._tls

    async def secured(self) -> None:
        """Wait for the end of the handshake."""
        await until(lambda: not self._shaking or self.ending, "the end of a handshake")
        if self.ending:
            raise AssertionError(f"{self.ending} in a handshake")

    async def secure(self, context: SSL.Context | None = None) -> None:
        """Do the client's handshake."""
        self.context = context or client_context()
        connection = SSL.Connection(self.context, self.socket)
        connection.set_connect_state()
        self.start_tls(connection)
        await self.secured()

    def secure_data(self, data: Line) -> None:
        """Begin the client's handshake on *data*, which resumes this connection's session."""
        assert self.context is not None
        connection = SSL.Connection(self.context, data.socket)
        connection.set_connect_state()
        session = self.tls.get_session()
        assert session is not None
        connection.set_session(session)
        data.start_tls(connection)


@implementer(IReadDescriptor)
class Door:
    """A listening socket that hands each connection to *came*."""

    def __init__(self, host: str, came: Callable[[socket.socket], object], port: int = 0) -> None:
        self._socket = socket.create_server((host, port))
        self._socket.setblocking(False)
        self._came = came
        self.port: int = self._socket.getsockname()[1]
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "door"

    def doRead(self) -> None:
        try:
            skt, _ = self._socket.accept()
        except OSError:
            return
        self._came(skt)

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more."""
        reactor.removeReader(self)
        self._socket.close()


class BackendLine(Line):
    """The backend's end of a control connection: answers from the table, and notes the rest."""

    def __init__(self, skt: socket.socket, backend: Backend) -> None:
        super().__init__(skt)
        self._backend = backend
        self.commands: list[bytes] = []

    def _take(self, data: bytes) -> None:
        super()._take(data)
        if self.ending:
            self.close()
        while b"\r\n" in self.unseen:
            line = self.unseen.partition(b"\r\n")[0]
            self.seen += len(line) + 2
            self.commands.append(line)
            self._backend.command(self, line)

    async def heard(self, *lines: bytes) -> None:
        """Wait until *lines* were the last ones."""
        count = len(lines)
        await until(lambda: tuple(self.commands[-count:]) == lines, f"{lines!r}")


class Backend:
    """
    A server: :attr:`answers` has for each verb what is said, or a function that says it.

    A verb that is not in it is noted and not answered.  Control connections are in
    :attr:`controls`, data connections in :attr:`arrived`.
    """

    greeting: bytes | None = b"220 ready"

    def __init__(self, host: str, *, implicit: bool = False) -> None:
        self.answers: dict[bytes, bytes | Callable[[BackendLine, bytes], object]] = {
            b"USER": b"331 password",
            b"PASS": b"230 in",
            b"TYPE": b"200 type",
            b"NOOP": b"200 noop",
            b"QUIT": b"221 bye",
            b"PBSZ": b"200 size",
            b"PROT": b"200 level",
            b"RETR": b"150 here",
            b"LIST": b"150 here",
            b"STOR": b"150 there",
            b"AUTH": self._auth,
            b"EPSV": self._passive,
        }
        self.host = host
        self.controls: list[BackendLine] = []
        self.arrived: list[Line] = []
        self.secured_data = False
        self.tls = SessionTLS(service_key("ftp.inside"))
        self._implicit = implicit
        self._taken = 0
        self._data: list[Door] = []
        self._door = Door(host, self._control_came)
        self.port = self._door.port

    def _control_came(self, skt: socket.socket) -> None:
        line = BackendLine(skt, self)
        self.controls.append(line)
        if self._implicit:
            self.shake(line)
        if self.greeting is not None:
            line.say(self.greeting)

    def command(self, line: BackendLine, command: bytes) -> None:
        """Answer one, if there is an answer for it."""
        answer = self.answers.get(command.partition(b" ")[0])
        if isinstance(answer, bytes):
            line.say(answer)
        elif answer is not None:
            answer(line, command)

    def shake(self, peer: Line) -> None:
        """Begin a handshake as its server."""
        connection = SSL.Connection(self.tls.context, peer.socket)
        connection.set_accept_state()
        peer.start_tls(connection)

    def _auth(self, line: BackendLine, _command: bytes) -> None:
        # At once, since what is sent from now on is under TLS.
        line.socket.sendall(b"234 go\r\n")
        self.shake(line)

    def _passive(self, line: BackendLine, _command: bytes) -> None:
        line.say(b"229 here (|||%d|)" % self.listen())

    def listen(self) -> int:
        """Open a data port; it stays open until the next one."""
        for door in self._data:
            door.close()
        self._data = [Door(self.host, self._data_came)]
        return self._data[0].port

    def _data_came(self, skt: socket.socket) -> None:
        peer = Line(skt)
        self.arrived.append(peer)
        if self.secured_data:
            self.shake(peer)

    async def control(self) -> BackendLine:
        """The last control connection."""
        await until(lambda: self.controls, "a control connection at the backend")
        return self.controls[-1]

    async def data(self) -> Line:
        """The next data connection."""
        await until(lambda: len(self.arrived) > self._taken, "a data connection at the backend")
        self._taken += 1
        return self.arrived[self._taken - 1]

    def forget(self) -> None:
        """Of the data connections only those that come from now on are of interest."""
        self._taken = len(self.arrived)

    def close(self) -> None:
        """Close everything."""
        for door in (self._door, *self._data):
            door.close()
        for peer in (*self.controls, *self.arrived):
            peer.close()
