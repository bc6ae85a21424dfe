"""
Scripts for FTP sessions without a network.

A test reads like a session: ``client("RETR a")`` and ``backend("150 Here it comes")`` are what the
two peers send, ``does(...)`` is what the session has to do about it, all of it and in this order.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.ftp import Command, CommandReader, Reply, ReplyReader
from relaygate.protocols.ftpalg import FTPSession
from relaygate.protocols.ftpeffects import (
    CloseData,
    DataEnd,
    DialBackendData,
    Direction,
    Effect,
    End,
    EndSession,
    FTPPolicy,
    LoginSeen,
    OpenPassive,
    SendCommand,
    SendReply,
    StartData,
    TransferSeen,
    Wait,
)

CLIENT = "192.0.2.7"
PUBLIC = "198.51.100.1"


def command(text: str) -> Command:
    """Read one command."""
    (found,) = CommandReader(telnet=False).receive(text.encode() + b"\n")
    assert isinstance(found, Command)
    return found


def told(*lines: str) -> SendReply:
    """What tells the client the reply with these lines."""
    (reply,) = ReplyReader().receive("".join(line + "\n" for line in lines).encode())
    return SendReply(reply)


def asks(text: str) -> SendCommand:
    """What sends the backend this command."""
    return SendCommand(command(text))


def closes(transfer: int, *, abort: bool = True) -> CloseData:
    """What gives a transfer back."""
    return CloseData(transfer, abort)


class ScriptTestCase(SynchronousTestCase):
    """A test case with one session, which a test begins with :meth:`start` or :meth:`log_in`."""

    def start(self, policy: FTPPolicy | None = None, client: str = CLIENT) -> None:
        """Begin a session whose backend has not said anything."""
        self.session = FTPSession(policy or FTPPolicy(), client, ["10.0.0.5", "10.0.0.9"], PUBLIC)
        self.seen: list[Effect] = list(self.session.begin())

    def log_in(self, policy: FTPPolicy | None = None, client: str = CLIENT) -> None:
        """Begin a session and log in over it, without TLS."""
        self.start(policy, client)
        self.backend("220 Hello.")
        self.client("USER joe")
        self.backend("230 Welcome.")
        self.does(
            told("220 Hello."), asks("USER joe"), told("230 Welcome."), LoginSeen(b"joe", True, 230)
        )

    def client(self, *lines: str | bytes) -> None:
        """The client sends lines, all of them before any answer."""
        reader = CommandReader()
        for line in lines:
            data = line.encode() if isinstance(line, str) else line
            for event in reader.receive(data + b"\r\n"):
                self.seen += self.session.command_received(event)

    def backend(self, *lines: str) -> None:
        """The backend sends lines."""
        for reply in ReplyReader().receive("".join(line + "\n" for line in lines).encode()):
            self.seen += self.session.reply_received(reply)

    def comes(self, effects: list[Effect]) -> None:
        """Another input was given to the session."""
        self.seen += effects

    def does(self, *effects: Effect) -> None:
        """Check what the session has done since the last check."""
        seen, self.seen = self.seen, []
        self.assertEqual(seen, list(effects), "\n".join(["", *map(repr, seen)]))

    def does_nothing(self) -> None:
        """Check that the session has done nothing since the last check."""
        self.does()

    def ends(self, end: End, *before: Effect) -> None:
        """Check that the session is over, and that nothing stirs it any more."""
        last = self.seen.pop()
        assert isinstance(last, EndSession), last
        self.assertIs(last.end, end, last.detail)
        self.does(*before)
        self.client("NOOP")
        self.backend("200 ok")
        self.comes(self.session.timed_out())
        self.comes(self.session.client_lost())
        self.does_nothing()

    def waits_for(self, wait: Wait) -> None:
        """Check which limit runs."""
        self.assertIs(self.session.waits_for, wait)

    def offer(self, number: int = 1, *, protected: bool = False) -> None:
        """PASV, a port for the client and the backend's, whose data connection stands."""
        self.client("PASV")
        self.does(OpenPassive(number, protected), asks("EPSV"))
        self.backend("229 ok (|||4000|)")
        self.does(DialBackendData(number, 4000))
        self.comes(self.session.passive_opened(number, PUBLIC, 50000))
        self.does(told("227 Entering Passive Mode (198,51,100,1,195,80)."))
        self.comes(self.session.backend_data_ready(number))
        self.does_nothing()

    def flow(
        self, line: str, direction: Direction, number: int = 1, *, private: bool = False
    ) -> None:
        """Begin a transfer with what :meth:`offer` prepared, and let its data flow."""
        self.client(line)
        self.does(asks(line))
        self.backend("150 Here.")
        self.does(told("150 Here."), StartData(number, direction, private, False))

    def data_ends(self, number: int = 1, end: DataEnd = DataEnd.WHOLE) -> None:
        """The data of a transfer ends."""
        self.comes(self.session.data_ended(number, end))

    def transferred(
        self,
        line: str,
        code: int,
        direction: Direction = Direction.DOWNLOAD,
        *,
        number: int = 1,
        passive: bool = True,
        private: bool = False,
    ) -> TransferSeen:
        """What the audit is told about a transfer."""
        verb, _, path = line.partition(" ")
        return TransferSeen(number, verb, path.encode(), direction, passive, private, False, code)


def own(code: int, text: str) -> SendReply:
    """What tells the client a reply of ours."""
    return SendReply(Reply.of(code, text))
