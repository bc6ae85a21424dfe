"""
The exchanges of an FTP session that move no data: one command, its replies, and what they mean.

A session has at most one exchange under way.  It is told the backend's replies, answers the
client through the :class:`Core` that all exchanges of a session share, and says when it is done.
"""

from __future__ import annotations

from collections.abc import Callable

from relaygate.protocols.ftp import Command, Reply
from relaygate.protocols.ftpeffects import (
    CloseData,
    Effect,
    End,
    EndSession,
    FTPPolicy,
    LoginSeen,
    SendCommand,
    SendReply,
    Side,
    StartTLS,
    TLSMode,
    Wait,
)
from relaygate.protocols.ftpfeat import adapt_features
from relaygate.protocols.ftpmask import Mask
from relaygate.protocols.ftptls import ClientProtection

# Replies that carry an address: a backend's is never passed on, whatever it was the answer to.
_ADDRESS_CODES = frozenset({227, 228, 229})


class DataConnection:
    """
    One data connection of the client's and the backend's that belongs to it.

    ``number`` names it to both nodes.  ``port`` is where the client waits, or None if it is the
    client that dials.  ``backend_ready`` says that the backend's leg stands or will come by
    itself, ``failed`` what the client is to be told because a leg cannot.
    """

    def __init__(self, number: int, port: int | None) -> None:
        self.number = number
        self.port = port
        self.backend_ready = False
        self.failed: Reply | None = None


class Core:
    """What the exchanges of one session share: its facts, and the effects that are due."""

    def __init__(self, policy: FTPPolicy, client: str, mask: Mask) -> None:
        self.policy = policy
        self.client = client
        self.protection = ClientProtection(policy)
        self.client_open = True
        """Whether the client can be written to: not inside its TLS handshake."""
        self.server_name: str | None = None
        """What the client asked for in its TLS handshake."""
        self.user: bytes | None = None
        self.logged_in = False
        self.must_log_in_again = False
        self.failed_logins = 0
        self.only_epsv = False
        """Whether the client has sent EPSV ALL."""
        self.backend_has_epsv = True
        self.unprepared = True
        """Whether the backend holds no data port that was asked for and not used up.

        It might take the end of a connection that we gave back for an empty file.
        """
        self.offer: DataConnection | None = None
        """The transfer that is prepared and not begun."""
        self.transfers = 0
        self.backend_gone = False
        """Whether the backend has closed behind its last word, and nothing is due any more."""
        self.ended = False
        self._mask = mask
        self._effects: list[Effect] = []

    def take(self) -> list[Effect]:
        """Return the effects that are due, once."""
        effects, self._effects = self._effects, []
        return effects

    def emit(self, effect: Effect) -> None:
        """Add an effect; behind the last one of a session there is none."""
        if not self.ended:
            self._effects.append(effect)

    def send(self, command: Command) -> None:
        """Send a command to the backend."""
        self.emit(SendCommand(command))

    def pass_on(self, reply: Reply) -> None:
        """Pass a reply of the backend's on to the client."""
        if reply.code in _ADDRESS_CODES:
            reply = Reply.of(502, "Command not implemented.")
        self.emit(SendReply(self.masked(reply)))

    def masked(self, reply: Reply) -> Reply:
        """Return a reply of the backend's without the private network's addresses."""
        return self._mask.apply(reply)

    def fail(self, transfer: DataConnection, reply: Reply) -> None:
        """Note why a transfer cannot be, and give back what it has."""
        if transfer.failed is None:
            transfer.failed = reply
            self.emit(CloseData(transfer.number, abort=True))

    def drop_offer(self) -> None:
        """Give back what was prepared for a transfer that will not come."""
        if self.offer is not None:
            if self.offer.failed is None:
                self.emit(CloseData(self.offer.number, abort=False))
            self.offer = None

    def end(self, end: End, detail: str, reply: Reply | None = None) -> None:
        """End the session, with a last word of ours to the client if it can hear it."""
        if reply is not None and self.client_open:
            self.emit(SendReply(reply))
        self.emit(EndSession(end, detail))
        self.ended = True


UNAVAILABLE = Reply.of(421, "Service not available, closing control connection.")
GOODBYE = Reply.of(221, "Goodbye.")
BACKEND_CLOSED = "the backend closed its control connection"


class Exchange:
    """One command and its replies; :attr:`done` when the last one is here."""

    wait = Wait.REPLY
    """What the session waits for while this is under way."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.done = False

    def begin(self) -> None:
        """The exchange is the session's now."""

    def reply_received(self, reply: Reply) -> None:
        """Take a reply of the backend's."""


class Opening(Exchange):
    """
    The greeting, and the TLS handshakes before the client hears it.

    The backend's side runs in a line (greeting, AUTH TLS, handshake, PBSZ, PROT; with implicit
    TLS the handshake comes first), the client's implicit handshake beside it.
    """

    wait = Wait.OPENING

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self._greeting: Reply | None = None
        self._backend_open = False
        self._next: Callable[[Reply], None] | None = self._greeted

    def begin(self) -> None:
        """Start the handshakes that come before any word."""
        if self.core.policy.implicit:
            self.core.client_open = False
            self.core.emit(StartTLS(Side.CLIENT))
        if self.core.policy.backend is TLSMode.IMPLICIT:
            self._next = None
            self.core.emit(StartTLS(Side.BACKEND))

    def reply_received(self, reply: Reply) -> None:
        """Take the greeting, or the answer to a command of ours."""
        if self._next is None:
            self._refuse("it sent a reply in clear behind the one that began TLS")
        elif not reply.preliminary:
            self._next(reply)
        elif self._greeting is None and self.core.client_open:
            self.core.pass_on(reply)

    def client_secured(self) -> None:
        """The client's implicit handshake is done."""
        self.core.client_open = True
        self.core.protection.secure()
        self._open()

    def backend_secured(self) -> None:
        """The backend's handshake is done, of either kind."""
        if self._greeting is None:
            self._next = self._greeted
        else:
            self._protect()

    def _greeted(self, reply: Reply) -> None:
        if reply.code >= 300:
            if self.core.client_open:
                self.core.pass_on(reply)
            self.core.end(End.BACKEND, f"the backend's greeting was {reply.code}")
            return
        self._greeting = reply
        if self.core.policy.backend is TLSMode.EXPLICIT:
            self.core.send(Command("AUTH", b"TLS"))
            self._next = self._authorised
        elif self.core.policy.backend is TLSMode.IMPLICIT:
            self._protect()
        else:
            self._finish()

    def _authorised(self, reply: Reply) -> None:
        if reply.code != 234:
            self._refuse(f"it answered AUTH TLS with {reply.code}")
            return
        self._next = None
        self.core.emit(StartTLS(Side.BACKEND))

    def _protect(self) -> None:
        self.core.send(Command("PBSZ", b"0"))
        self._next = self._sized

    def _sized(self, _reply: Reply) -> None:
        # Whatever it thought of PBSZ: what matters is whether it takes the level.
        self.core.send(Command("PROT", b"P" if self.core.policy.backend_data else b"C"))
        self._next = self._levelled

    def _levelled(self, reply: Reply) -> None:
        if reply.code >= 300:
            self._refuse(f"it answered PROT with {reply.code}")
        else:
            self._finish()

    def _finish(self) -> None:
        self._backend_open = True
        self._open()

    def _open(self) -> None:
        if self._backend_open and self.core.client_open and self._greeting is not None:
            self.core.pass_on(self._greeting)
            self.done = True

    def _refuse(self, why: str) -> None:
        self.core.end(End.BACKEND, f"the backend cannot be used: {why}", UNAVAILABLE)


class Passing(Exchange):
    """A command that the backend answers, and its answer as it is."""

    def __init__(self, core: Core, command: Command) -> None:
        super().__init__(core)
        self.command = command

    def begin(self) -> None:
        """Pass the command on."""
        self.core.send(self.command)

    def reply_received(self, reply: Reply) -> None:
        """Pass a reply on."""
        if not reply.preliminary:
            reply = self.translate(reply)
            self.done = True
        self.core.pass_on(reply)
        if self.done:
            self.finished(reply)

    def translate(self, reply: Reply) -> Reply:
        """Return the final reply as the client is to see it."""
        return reply

    def finished(self, reply: Reply) -> None:
        """The final reply was passed on."""


class Login(Passing):
    """USER, PASS or ACCT (RFC 959, section 4.1.1): the backend decides, the audit takes note."""

    def finished(self, reply: Reply) -> None:
        """Note who the client is now."""
        core = self.core
        named = self.command.verb == "USER"
        user = self.command.words if named else core.user or b""
        if reply.code == 202:
            return  # superfluous: it changes nothing
        if reply.code < 300:
            if named or not core.logged_in:
                core.emit(LoginSeen(user, ok=True, code=reply.code))
            core.user, core.logged_in, core.must_log_in_again = user, True, False
        elif reply.code < 400:
            if named:
                # Another password is due: until it has come, nobody is logged in.
                core.drop_offer()
                core.user, core.logged_in = user, False
        elif reply.code == 530 or not core.logged_in:
            core.failed_logins += reply.code == 530
            core.emit(LoginSeen(user, ok=False, code=reply.code))


class Features(Passing):
    """FEAT, of whose answer the gateway owns some lines."""

    def translate(self, reply: Reply) -> Reply:
        """See :func:`~relaygate.protocols.ftpfeat.adapt_features`."""
        return adapt_features(reply, tls=self.core.protection.offered)


class Reinitialisation(Passing):
    """REIN, which makes a new session of this one, if the backend takes it."""

    def finished(self, reply: Reply) -> None:
        """Forget the login."""
        if reply.code < 300:
            self.core.drop_offer()
            self.core.user, self.core.logged_in = None, False
            self.core.only_epsv = False


class Abortion(Passing):
    """ABOR where no transfer runs: what was prepared is given back."""

    def begin(self) -> None:
        """Pass the command on."""
        self.core.drop_offer()
        super().begin()


class Farewell(Passing):
    """QUIT, where no transfer runs."""

    def begin(self) -> None:
        """Pass the command on; nothing will come of what was prepared."""
        self.core.drop_offer()
        super().begin()

    def finished(self, reply: Reply) -> None:
        """End the session, if the backend agrees."""
        if reply.code < 300:
            self.core.end(End.DONE, "the client quit")


class Securing(Exchange):
    """AUTH TLS of the client's (RFC 4217, section 4): 234, and nothing but a handshake."""

    wait = Wait.SECURING

    def __init__(self, core: Core, reply: Reply) -> None:
        super().__init__(core)
        self._reply = reply

    def begin(self) -> None:
        """Agree, and start TLS behind that."""
        self.core.emit(SendReply(self._reply))
        self.core.client_open = False
        self.core.emit(StartTLS(Side.CLIENT))

    def client_secured(self) -> None:
        """What was in clear does not count any more: who logged in has to do it again."""
        core = self.core
        core.client_open = True
        core.protection.secure()
        # RFC 2228, section 3, has the server ask for the login again.
        core.must_log_in_again = core.user is not None
        core.logged_in = False
        core.drop_offer()
        self.done = True
