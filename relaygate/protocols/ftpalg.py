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

**Which commands** pass: :mod:`~relaygate.protocols.ftpverbs`.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Concatenate, Final, ParamSpec

from relaygate.protocols.ftp import BadLine, Command, Reply
from relaygate.protocols.ftpeffects import (
    DataEnd,
    Effect,
    End,
    FTPPolicy,
    SendReply,
    Side,
    Wait,
)
from relaygate.protocols.ftpexchange import (
    BACKEND_CLOSED,
    GOODBYE,
    UNAVAILABLE,
    Core,
    DataConnection,
    Exchange,
    Farewell,
    Opening,
    Securing,
)
from relaygate.protocols.ftplate import ADDRESSES, BUSY, ENDS, FINALS, Doubt, Late
from relaygate.protocols.ftpmask import Mask
from relaygate.protocols.ftpprepare import NO_DATA, Preparation
from relaygate.protocols.ftptransfer import Transferring
from relaygate.protocols.ftpverbs import HTTP, exchange_for

PAUSE_AT: Final = 16
"""Commands that wait before no more should be read: more than any client sends ahead."""

MAX_WAITING: Final = 4096
"""Commands that wait before it is an attack: what one read of 64 KiB of short ones may hold."""

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
        self._late: Late | None = None
        self._doubt: Doubt | None = None
        self._client_gone = False

    # What can be asked about a session.

    @property
    def waits_for(self) -> Wait:
        """Which limit runs now."""
        current = self._current
        if current is None:
            return Wait.COMMAND
        if self._doubt is not None:
            return Wait.PROBE
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
        elif self._in_doubt(reply):
            return
        elif self._is_late(reply):
            self._late_said(reply)
        elif self._current is not None:
            self._current.reply_received(reply)

    @_input
    def client_secured(self, server_name: str | None = None) -> None:
        """The client's TLS handshake is done; *server_name* is what it asked for in it."""
        self._core.server_name = server_name
        if isinstance(self._current, Opening | Securing):
            self._current.client_secured()

    @_input
    def backend_secured(self) -> None:
        """The TLS handshake with the backend is done."""
        if isinstance(self._current, Opening):
            self._current.backend_secured()

    @_input
    def client_lost(self, broken: bool = False) -> None:
        """
        The client has ended its control connection, or *broken* it off.

        Commands that it sent before an end are still carried out, but not in a transfer's way.
        Behind a break nobody reads what they are answered, and no server would have seen them all.
        """
        self._client_gone = True
        if broken:
            self._core.end(End.CLIENT, "the client broke off its control connection")

    @_input
    def backend_lost(self) -> None:
        """The backend has ended or broken off its control connection, or refused TLS."""
        current = self._current
        if isinstance(current, Farewell):
            self._core.end(End.DONE, "the client quit", GOODBYE)
        elif not (isinstance(current, Transferring) and current.backend_lost()):
            self._core.end(End.BACKEND, BACKEND_CLOSED, UNAVAILABLE)

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
        going = current if isinstance(current, Transferring) and not current.probing else None
        if going is not None and wait in (Wait.ABORT, Wait.DRAIN):
            going.cut()
        elif going is not None and wait is Wait.QUIT and going.takes_asides:
            quitting = self._waiting.popleft()
            assert isinstance(quitting, Command)
            going.ask(quitting)
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
                if isinstance(current, Late) and current.begun is not None:
                    self._late = current
            elif self._core.backend_gone:
                self._part()
            elif current is None and self._late is not None and self._core.offer is not None:
                self._resume(self._late, self._core.offer, ready=True)
            elif self._client_gone and not self._may_finish():
                self._core.end(End.CLIENT, "the client closed its control connection")
            elif isinstance(current, Transferring) and self._overtake(current):
                continue
            elif current is None and self._waiting:
                self._start(self._waiting.popleft())
            else:
                return

    def _part(self) -> None:
        """The backend closed behind its last word: a client that wanted to go has what it wants."""
        if self._quit_waits():
            self._core.end(End.DONE, "the client quit", GOODBYE)
        else:
            self._core.end(End.BACKEND, BACKEND_CLOSED, UNAVAILABLE)

    def _in_doubt(self, reply: Reply) -> bool:
        """Take *reply* if it is in doubt whose it is, or brings that to light; whether it was."""
        current, doubt = self._current, self._doubt
        if self._late is None or not isinstance(current, Preparation) or reply.preliminary:
            return False
        if doubt is None:
            if not current.asked or reply.code not in FINALS - ENDS:
                return False
            self._doubt = Doubt(reply, current.asked)
            self._core.send(self._doubt.command)
            return True
        self._doubt = None
        if doubt.answered_by(reply):
            current.answered(doubt.reply)
            return True
        last, answer = (reply, doubt.reply) if reply.code in ENDS else (doubt.reply, reply)
        self._late_said(last)
        current.answered(answer, probed=True)
        return True

    def _late_said(self, reply: Reply) -> None:
        self._core.pass_on(reply)
        if not reply.preliminary:
            self._late = None

    def _is_late(self, reply: Reply) -> bool:
        """Whether *reply* is of a transfer that waits for its address."""
        if self._late is None or isinstance(self._current, Transferring):
            return False
        return self._current is None or reply.code in FINALS

    def _resume(self, late: Late, transfer: DataConnection, *, ready: bool) -> None:
        """The address of a transfer that waited for it is there, or will not come any more."""
        self._late = None
        assert late.begun is not None
        going = Transferring(self._core, late.command, transfer, late.direction)
        going.take_over(late.begun, ready=ready)
        self._take(going)

    def _may_finish(self) -> bool:
        """Whether there is something left to do for a client that is gone."""
        if not self._core.client_open or isinstance(self._current, Transferring):
            return False
        under_way = self._current is not None and not isinstance(self._current, Opening)
        return under_way or bool(self._waiting)

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

    def _transfer(self, number: int) -> DataConnection | None:
        if isinstance(self._current, Preparation | Transferring) and self._is_current(number):
            return self._current.transfer
        offer = self._core.offer
        if offer is not None and offer.number == number and offer.failed is None:
            return offer
        return None

    def _changed(self, transfer: DataConnection) -> None:
        current = self._current
        if isinstance(current, Preparation | Transferring) and current.transfer is transfer:
            current.changed()

    def _violated(self, side: Side, what: str) -> None:
        end = End.CLIENT if side is Side.CLIENT else End.BACKEND
        self._core.end(end, f"the {side.value} {what}", UNAVAILABLE)

    def _start(self, event: Command | BadLine) -> None:
        found: Exchange | Reply
        if isinstance(event, BadLine):
            found = Reply.of(event.code, event.text)
        elif self._late is not None and event.verb == "ABOR":
            # As if it had begun: what an ABOR brings is the same in any transfer.
            self._core.drop_offer()
            self._core.transfers += 1
            self._waiting.appendleft(event)
            self._resume(self._late, DataConnection(self._core.transfers, None), ready=False)
            return
        elif self._late is not None and event.verb not in ADDRESSES | {"QUIT"}:
            found = BUSY
        elif event.verb in HTTP:
            self._core.end(End.CLIENT, "the client speaks HTTP", UNAVAILABLE)
            return
        else:
            found = exchange_for(self._core, event)
        if isinstance(found, Reply):
            self._core.emit(SendReply(found))
        elif isinstance(found, Securing) and self._waiting:
            self._violated(Side.CLIENT, "sent a command in clear behind AUTH")
        else:
            self._take(found)
