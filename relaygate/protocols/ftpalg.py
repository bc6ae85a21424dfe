"""
An FTP session as a pure object: the application-level gateway (RFC 6384 has the word).

It stands between a client and a backend.  Inputs are what came from either, and what became of
what it asked for; each returns the effects that follow (:mod:`~relaygate.protocols.ftpeffects`).
It knows no socket, no clock and no address but the client's.

Theory
======

**One command at a time.**  FTP has no numbers that pair a reply with its command; order alone does.
So a command goes to the backend when the one before it has had its final reply, and a client that
sends many at once has them wait here.  Replies that we make ourselves need no queue of their own
then: nothing of the backend's is ever due in front of them.  Commands that we send ourselves
(EPSV, AUTH) are part of such an exchange, and their replies end in it.

**Three exceptions**, all while a transfer runs: ABOR, which has to overtake it; STAT, which asks
about it; and QUIT, when the transfer has not ended a second later.  They are told apart from the
transfer's own replies by their codes, and ABOR by a NOOP behind it.

::

    opening --greeting--> idle --command--> exchange --final reply--> idle
                                               |
             what kinds there are:  Passing, Login, Features, ...   the backend answers
                                    Securing                        the client's TLS handshake
                                    Preparation                     an address for a transfer
                                    Transferring                    data flows

    a 421 of the backend's, at any time: it is passed on, and the session ends
    any peer lost, a limit, a violation: the session ends

**At most one transfer is prepared and one in flight.**  A transfer is prepared by its address, may
then wait while other commands pass, is in flight with the backend's 1yz, and is given back at the
next address, ABOR, QUIT, a new login, or a change of what data connections are protected by.

**What an unprotected byte can do.**  From a 234 to the end of the handshake nothing may come, not
even what was sent before: it would be taken for a protected command, or reply (CVE-2011-0411).

**Which commands** pass, by :data:`_VERBS`: those with an entry have a method here, all others are
the backend's.  Those that carry an address, in any dialect, never reach it.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Concatenate, Final, ParamSpec

from relaygate.protocols.ftp import BadLine, Command, Reply
from relaygate.protocols.ftpaddr import (
    FTPAddressError,
    is_ipv4,
    parse_eprt,
    parse_epsv,
    parse_port,
)
from relaygate.protocols.ftpdata import NO_DATA, Preparation, Transferring
from relaygate.protocols.ftpeffects import (
    BackendTLS,
    DataEnd,
    Direction,
    Effect,
    End,
    FTPPolicy,
    Side,
    Wait,
)
from relaygate.protocols.ftpexchange import (
    UNAVAILABLE,
    Abortion,
    Core,
    Exchange,
    Farewell,
    Features,
    Login,
    Opening,
    Passing,
    Reinitialisation,
    Securing,
    Transfer,
)
from relaygate.protocols.ftpmask import Mask

PAUSE_AT: Final = 16
"""Commands that wait before no more should be read: more than any client sends ahead."""

MAX_WAITING: Final = 4096
"""Commands that wait before it is an attack: what one read of 64 KiB of short ones may hold."""

# An HTTP client that was led here: what it sends behind this may be someone else's words
# (CVE-2021-31971), so not one more line is read.
_HTTP: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PRI", "PUT", "TRACE"}
)
_BEFORE_LOGIN: Final = frozenset(
    {"ACCT", "AUTH", "CCC", "CLNT", "FEAT", "HELP", "HOST", "NOOP", "OPTS", "PASS", "PBSZ", "PROT"}
    | {"QUIT", "REIN", "SYST", "USER"}
)
_BEFORE_TLS: Final = _BEFORE_LOGIN - {"ACCT", "PASS", "REIN", "USER"}
_DIRECTIONS: Final = {
    "APPE": Direction.UPLOAD,
    "LIST": Direction.DOWNLOAD,
    "MLSD": Direction.DOWNLOAD,
    "NLST": Direction.DOWNLOAD,
    "RETR": Direction.DOWNLOAD,
    "STOR": Direction.UPLOAD,
    "STOU": Direction.UPLOAD,
}

_Input = ParamSpec("_Input")


def _input(
    method: Callable[Concatenate[FTPSession, _Input], None],
) -> Callable[Concatenate[FTPSession, _Input], list[Effect]]:
    """Make a method an input: nothing behind the end, then all that it leads to, as effects."""

    @functools.wraps(method)
    def run(self: FTPSession, /, *arguments: _Input.args, **named: _Input.kwargs) -> list[Effect]:
        if not self._core.ended:
            method(self, *arguments, **named)
            self._proceed()
        return self._core.take()

    return run


class FTPSession:
    """
    One client's session with one backend.

    :param policy: what the service allows.
    :param client: the address of the client, as the gateway's outside sees it.
    :param hidden: addresses that no reply may show: both ends of the backend's control connection.
    :param shown: what is shown in their place: the address that the client reached.
    """

    def __init__(
        self, policy: FTPPolicy, client: str, hidden: Iterable[str] = (), shown: str = ""
    ) -> None:
        self._core = Core(policy, client, Mask(hidden, shown))
        self._waiting: deque[Command | BadLine] = deque()
        self._current: Exchange | None = None
        self._client_gone = False
        self._server_name: str | None = None

    # What can be asked about a session.

    @property
    def waits_for(self) -> Wait:
        """Which limit runs now."""
        current = self._current
        if current is None:
            return Wait.COMMAND
        if current.wait is Wait.DATA and self._quit_waits():
            return Wait.QUIT
        return current.wait

    @property
    def takes_commands(self) -> bool:
        """Whether the client's control connection should be read."""
        return len(self._waiting) < PAUSE_AT

    @property
    def logged_in(self) -> bool:
        """Whether the backend has taken the client's login."""
        return self._core.logged_in

    @property
    def failed_logins(self) -> int:
        """How many 530 the backend has answered to logins."""
        return self._core.failed_logins

    # Inputs: control.

    @_input
    def begin(self) -> None:
        """Both control connections stand."""
        self._take(Opening(self._core))

    @_input
    def command_received(self, event: Command | BadLine) -> None:
        """A line has come from the client."""
        if not self._core.client_open:
            self._violated(Side.CLIENT, "sent a command in clear behind the one that began TLS")
        elif len(self._waiting) >= MAX_WAITING:
            self._violated(Side.CLIENT, f"sent more than {MAX_WAITING} commands ahead")
        else:
            self._waiting.append(event)

    @_input
    def reply_received(self, reply: Reply) -> None:
        """A reply has come from the backend; one that nobody asked for leads to nothing."""
        if reply.code == 421:
            if self._core.client_open:
                self._core.pass_on(reply)
            self._core.end(End.BACKEND, "the backend answered 421")
        elif self._current is not None:
            self._current.reply_received(reply)

    @_input
    def client_secured(self, server_name: str | None = None) -> None:
        """The client's TLS handshake is done; *server_name* is what it asked for in it."""
        self._server_name = server_name
        if isinstance(self._current, Opening | Securing):
            self._current.client_secured()

    @_input
    def backend_secured(self) -> None:
        """The TLS handshake with the backend is done."""
        if isinstance(self._current, Opening):
            self._current.backend_secured()

    @_input
    def client_lost(self) -> None:
        """
        The client has ended or broken off its control connection.

        Commands that it sent before are still carried out, but not in a transfer's way.
        """
        self._client_gone = True

    @_input
    def backend_lost(self) -> None:
        """The backend has ended or broken off its control connection, or refused TLS."""
        if isinstance(self._current, Farewell):
            self._core.end(End.DONE, "the client quit", Reply.of(221, "Goodbye."))
        else:
            self._core.end(End.BACKEND, "the backend closed its control connection", UNAVAILABLE)

    @_input
    def client_violated(self, what: str) -> None:
        """The client sent what cannot be understood; *what* completes "the client …"."""
        self._violated(Side.CLIENT, what)

    @_input
    def backend_violated(self, what: str) -> None:
        """The backend sent what cannot be understood; *what* completes "the backend …"."""
        self._violated(Side.BACKEND, what)

    @_input
    def timed_out(self) -> None:
        """The limit of :attr:`waits_for` has run out."""
        wait, current = self.waits_for, self._current
        if isinstance(current, Transferring) and wait in (Wait.ABORT, Wait.DRAIN):
            current.cut()
        elif isinstance(current, Transferring) and wait is Wait.QUIT and current.takes_asides:
            quitting = self._waiting.popleft()
            assert isinstance(quitting, Command)
            current.ask(quitting)
        elif wait is not Wait.QUIT:
            reply = Reply.of(421, "Timeout, closing control connection.")
            self._core.end(End.TIMEOUT, f"nothing came in time while {wait.value} was due", reply)

    @_input
    def stop(self) -> None:
        """The gateway is going down."""
        self._core.end(End.SHUTDOWN, "the gateway is going down", UNAVAILABLE)

    # Inputs: data.  Those about a transfer that was given back lead to nothing.

    @_input
    def passive_opened(self, transfer: int, host: str, port: int) -> None:
        """A port is open for the client, who reaches it at *host* (an address of its family)."""
        if isinstance(self._current, Preparation) and self._is_current(transfer):
            self._current.passive_opened(host, port)

    @_input
    def backend_listening(self, transfer: int, host: str, port: int) -> None:
        """A port is open for the backend at *host*."""
        if isinstance(self._current, Preparation) and self._is_current(transfer):
            self._current.backend_listening(host, port)

    @_input
    def backend_data_ready(self, transfer: int) -> None:
        """The backend's data connection was dialled, and stands."""
        if (found := self._transfer(transfer)) is not None:
            found.backend_ready = True
            self._changed(found)

    @_input
    def active_dialled(self, transfer: int) -> None:
        """The client's data connection was dialled, and stands."""
        if isinstance(self._current, Transferring) and self._is_current(transfer):
            self._current.active_dialled()

    @_input
    def data_failed(self, transfer: int, reply: Reply = NO_DATA) -> None:
        """
        A transfer cannot begin: no port, nobody there, nobody came, or a handshake failed.

        *reply* is what the client is told, at the transfer's command if it has not come yet.
        """
        if (found := self._transfer(transfer)) is not None:
            self._core.fail(found, reply)
            self._changed(found)

    @_input
    def data_ended(self, transfer: int, end: DataEnd) -> None:
        """A transfer that began has ended, this way."""
        if isinstance(self._current, Transferring) and self._is_current(transfer):
            self._current.data_ended(end)

    # How it goes on.

    def _take(self, exchange: Exchange) -> None:
        self._current = exchange
        exchange.begin()

    def _proceed(self) -> None:
        """Do all that can be done without another input."""
        while not self._core.ended:
            current = self._current
            if current is not None and current.done:
                self._current = None
            elif self._client_gone and not self._may_finish():
                self._core.end(End.CLIENT, "the client closed its control connection")
            elif isinstance(current, Transferring) and self._overtake(current):
                continue
            elif current is None and self._waiting:
                self._start(self._waiting.popleft())
            else:
                return

    def _may_finish(self) -> bool:
        if self._current is None:
            return bool(self._waiting)
        return not isinstance(self._current, Transferring | Securing)

    def _overtake(self, current: Transferring) -> bool:
        """Let STAT and ABOR past a transfer; return whether something was sent."""
        head = self._waiting[0] if self._waiting else None
        if isinstance(head, Command):
            if head.verb == "STAT" and head.argument is None and current.takes_asides:
                self._waiting.popleft()
                current.ask(head)
                return True
            if head.verb == "ABOR" and current.takes_abort:
                self._waiting.popleft()
                current.abort(head)
                return True
        if any(isinstance(event, Command) and event.verb == "ABOR" for event in self._waiting):
            # It cannot be sent yet, and its client may wait for it with the data standing still.
            current.cut()
            return current.done
        return False

    def _quit_waits(self) -> bool:
        head = self._waiting[0] if self._waiting else None
        return isinstance(head, Command) and head.verb == "QUIT"

    def _is_current(self, transfer: int) -> bool:
        current = self._current
        return (
            isinstance(current, Preparation | Transferring)
            and current.transfer.number == transfer
            and current.transfer.failed is None
        )

    def _transfer(self, number: int) -> Transfer | None:
        if isinstance(self._current, Preparation | Transferring) and self._is_current(number):
            return self._current.transfer
        offer = self._core.offer
        if offer is not None and offer.number == number and offer.failed is None:
            return offer
        return None

    def _changed(self, transfer: Transfer) -> None:
        current = self._current
        if isinstance(current, Preparation | Transferring) and current.transfer is transfer:
            current.changed()

    def _violated(self, side: Side, what: str) -> None:
        end = End.CLIENT if side is Side.CLIENT else End.BACKEND
        self._core.end(end, f"the {side.value} {what}", UNAVAILABLE)

    # The commands.

    def _start(self, event: Command | BadLine) -> None:
        core = self._core
        if isinstance(event, BadLine):
            core.answer(event.code, event.text)
            return
        verb = event.verb
        if verb in _HTTP:
            core.end(End.CLIENT, "the client speaks HTTP", UNAVAILABLE)
        elif verb not in _VERBS and verb.rstrip("0123456789") in _VERBS:
            # A server that ends verbs at the first digit would take it for ours.
            core.answer(500, "Command not understood.")
        elif core.protection.missing and verb not in _BEFORE_TLS:
            core.answer(530, "TLS is required here, send AUTH TLS first.")
        elif core.must_log_in_again and verb not in _BEFORE_LOGIN:
            core.answer(530, "Log in with USER and PASS first.")
        else:
            _VERBS.get(verb, FTPSession._pass)(self, event)

    def _pass(self, command: Command) -> None:
        offer = self._core.offer
        if offer is not None and offer.failed is None:
            self._take(Transferring(self._core, command, offer, Direction.UNKNOWN))
        else:
            self._take(Passing(self._core, command))

    def _refuse(self, _command: Command) -> None:
        self._core.answer(502, "Command not implemented.")

    def _login(self, command: Command) -> None:
        self._take(Login(self._core, command))

    def _host(self, command: Command) -> None:
        """HOST, which names the server before the user is named (RFC 7151, section 3)."""
        named = command.words.decode("latin-1").strip("[]").rstrip(".").lower()
        if self._core.user is not None:
            self._core.answer(503, "HOST comes before USER.")
        elif self._server_name is not None and named != self._server_name.rstrip(".").lower():
            self._core.answer(504, "TLS was made for another host.")
        else:
            self._pass(command)

    def _features(self, command: Command) -> None:
        if command.words:
            self._pass(command)
        else:
            self._take(Features(self._core, command))

    def _protection(self, command: Command) -> None:
        core = self._core
        private = core.protection.private
        reply = core.protection.answer(command)
        if reply.code == 234 and self._waiting:
            self._violated(Side.CLIENT, "sent a command in clear behind AUTH")
            return
        core.answer(reply.code, reply.text.decode())
        if core.protection.private != private:
            core.drop_offer()
        if reply.code == 234:
            self._take(Securing(core))

    def _reinitialise(self, command: Command) -> None:
        """REIN would end the protection of both sides (RFC 4217, section 11): not under TLS."""
        secured = self._core.protection.secured
        if secured or self._core.policy.backend is not BackendTLS.OFF:
            self._refuse(command)
        else:
            self._take(Reinitialisation(self._core, command))

    def _quit(self, command: Command) -> None:
        self._take(Farewell(self._core, command))

    def _abort(self, command: Command) -> None:
        self._take(Abortion(self._core, command))

    def _mode(self, command: Command) -> None:
        """Block and compressed mode end a file without ending its connection: not here."""
        if command.words.upper() in (b"B", b"C"):
            self._core.answer(504, "Only stream mode is supported.")
        else:
            self._pass(command)

    def _passive(self, command: Command) -> None:
        core = self._core
        extended = command.verb == "EPSV"
        if not core.logged_in:
            core.answer(530, "Log in with USER and PASS first.")
        elif not extended and core.only_epsv:
            core.answer(503, "Not allowed after EPSV ALL.")
        elif not extended and command.words:
            core.answer(501, "Syntax error: command does not accept arguments.")
        elif not extended and not is_ipv4(core.client):
            core.answer(522, "Network protocol not supported, use EPSV.")
        else:
            try:
                everything = extended and parse_epsv(command.words, core.client)
            except FTPAddressError as error:
                core.answer(error.code, str(error))
                return
            if everything:
                core.only_epsv = True
                core.answer(200, "Only EPSV from now on.")
            else:
                self._take(Preparation(core, command.verb, None))

    def _active(self, command: Command) -> None:
        core = self._core
        if not core.logged_in:
            core.answer(530, "Log in with USER and PASS first.")
        elif core.only_epsv:
            core.answer(503, "Not allowed after EPSV ALL.")
        elif not command.words:
            core.answer(501, "Syntax error: command needs an argument.")
        else:
            parse = parse_port if command.verb == "PORT" else parse_eprt
            try:
                port = parse(command.words, core.client)
            except FTPAddressError as error:
                core.answer(error.code, str(error))
                return
            self._take(Preparation(core, command.verb, port))

    def _transfer_command(self, command: Command) -> None:
        """A transfer; who is not logged in hears about it from the backend."""
        core = self._core
        if not core.logged_in:
            self._take(Passing(core, command))
        elif (refusal := core.protection.refusal) is not None:
            core.answer(refusal.code, refusal.text.decode())
        elif core.offer is None:
            core.answer(425, "Use PORT or PASV first.")
        else:
            direction = _DIRECTIONS[command.verb]
            self._take(Transferring(core, command, core.offer, direction))


_VERBS: Final[dict[str, Callable[[FTPSession, Command], None]]] = {
    **dict.fromkeys(("USER", "PASS", "ACCT"), FTPSession._login),
    **dict.fromkeys(("AUTH", "PBSZ", "PROT", "CCC"), FTPSession._protection),
    **dict.fromkeys(("PASV", "EPSV"), FTPSession._passive),
    **dict.fromkeys(("PORT", "EPRT"), FTPSession._active),
    **dict.fromkeys(_DIRECTIONS, FTPSession._transfer_command),
    "ABOR": FTPSession._abort,
    "FEAT": FTPSession._features,
    "HOST": FTPSession._host,
    "MODE": FTPSession._mode,
    "QUIT": FTPSession._quit,
    "REIN": FTPSession._reinitialise,
    # Addresses in other dialects, and commands in others' armour (RFC 1545, 1639, 2228).
    **dict.fromkeys(("LPRT", "LPSV", "SPSV", "CPSV", "SSCN"), FTPSession._refuse),
    **dict.fromkeys(("ADAT", "MIC", "CONF", "ENC"), FTPSession._refuse),
}
