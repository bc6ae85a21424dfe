"""
A transfer of an FTP session: the command that uses what was prepared.

::

    held --backend's leg stands--> sent --1yz--> dialling --dialled--> flowing
                                     |    1yz, passive client -----------^
                                     |
                                     +--2yz, 4yz, 5yz: nothing flows, both legs are given back

The backend's final reply is told when it is here *and* the data has ended: only then has a download
reached the client, and only then may the next command reach the backend.  If the data was broken
off, the client hears so, even if the backend believes that it is complete.
"""

from __future__ import annotations

from typing import ClassVar, Final

from relaygate.protocols.ftp import Command, Reply
from relaygate.protocols.ftpeffects import (
    CloseData,
    DataEnd,
    DialActive,
    Direction,
    End,
    SendReply,
    StartData,
    TLSMode,
    TransferSeen,
    Wait,
)
from relaygate.protocols.ftpexchange import GOODBYE, Core, DataConnection, Exchange

BROKEN: Final = Reply.of(426, "Data connection broken off, transfer aborted.")


class Transferring(Exchange):
    """
    A command that moves data, or, with an unknown *direction*, one that may.

    Beside it, STAT and QUIT may be asked (*asides*): their replies are told apart by their codes,
    because some servers answer at once and some behind the transfer.
    """

    ASIDES: ClassVar[dict[str, frozenset[int]]] = {
        "STAT": frozenset({211, 212, 213, 500, 501, 502, 503, 504}),
        "QUIT": frozenset({221, 500, 501, 502, 503, 504}),
    }

    def __init__(
        self, core: Core, command: Command, transfer: DataConnection, direction: Direction
    ) -> None:
        super().__init__(core)
        self.transfer = transfer
        self._command = command
        self._path = command.words
        self._direction = direction
        self._protected = core.protection.private
        self._sent = False
        self._begun = False  # the backend has said 1yz
        self._late = False  # it had begun before there was an address
        self._ready = True
        self._held: Reply | None = None  # that 1yz, until the client is dialled
        self._over = False  # the data has ended, or will not come
        self._end = DataEnd.WHOLE
        self._final: Reply | None = None
        self._told = False
        self._aside = ""
        self._quit = False
        self._behind: list[Reply] = []  # answers to asides that came behind the final reply
        self._orphaned = False
        self._aborting = False
        self._probing = False
        self._twice = False  # a second final reply came behind ABOR

    @property
    def wait(self) -> Wait:  # type: ignore[override]
        """See :class:`Wait`."""
        if not self._sent or self._held is not None:
            return Wait.PREPARING
        if self._aborting:
            if self._probing:
                # Behind two answers the third is on its way, unless NOOP's was the second.
                return Wait.ABORT if self._twice else Wait.PROBE
            return Wait.REPLY if self._over else Wait.ABORT
        if not self._begun or self._over:
            return Wait.REPLY
        failed = self._final is not None and self._final.code >= 400
        return Wait.DRAIN if failed else Wait.DATA

    def take_over(self, begun: Reply, *, ready: bool) -> None:
        """
        Be one that the backend has agreed to already, by *begun*, before there was an address.

        Now there is one, if it is *ready*; otherwise there will be none.
        """
        self._sent = self._begun = self._late = True
        self._ready = ready
        self._note_name(begun)

    def begin(self) -> None:
        """Send the command, once nothing can keep the transfer from beginning."""
        if self._late:
            self.core.offer = None
            if not self._ready:
                return
            self.core.unprepared = True
            if self.transfer.port is None:
                self._start()
            else:
                self._dial()
        elif self._direction is Direction.UNKNOWN:
            self._send()
        else:
            self.core.offer = None
            self.changed()

    def changed(self) -> None:
        """Something about the backend's leg, or about the transfer as a whole, has changed."""
        failed = self.transfer.failed
        if failed is None:
            if not self._sent and self.transfer.backend_ready:
                self._send()
        elif not self._sent:
            self._tell(failed)
            self.done = True
        else:
            self._over = True
            self._held = None
            self._settle()

    def _send(self) -> None:
        self._sent = True
        self.core.send(self._command)

    # What the backend says.

    def reply_received(self, reply: Reply) -> None:
        """Take one of the backend's replies: to the command, to an aside, or to ABOR."""
        if self._probing:
            self._probed(reply)
        elif self._aside and reply.code in self.ASIDES[self._aside]:
            self._aside_answered(reply)
        elif reply.preliminary:
            self._preliminary(reply)
        elif self._final is None:
            self._final = reply
            if self._aborting:
                self._aborted()
            else:
                self._settle()
        elif self._aside:
            self._aside_answered(reply)

    def _preliminary(self, reply: Reply) -> None:
        if self._begun or self._over or self._aborting:
            if self._held is None and not self._over:
                self.core.pass_on(reply)
            return
        self._begun = True
        self.core.unprepared = True
        if self.core.offer is self.transfer:
            self.core.offer = None
        self._note_name(reply)
        if self.transfer.port is None:
            self.core.pass_on(reply)
            self._start()
        else:
            self._held = reply
            self._dial()

    def _note_name(self, reply: Reply) -> None:
        if self._command.verb == "STOU" and b"FILE: " in reply.text:
            self._path = reply.text.partition(b"FILE: ")[2]  # RFC 1123, section 4.1.2.9

    def _dial(self) -> None:
        assert self.transfer.port is not None
        self.core.emit(DialActive(self.transfer.number, self.transfer.port, self._protected))

    def _start(self) -> None:
        self.core.emit(
            StartData(
                self.transfer.number, self._direction, self._protected, self._backend_protected
            )
        )

    @property
    def _backend_protected(self) -> bool:
        policy = self.core.policy
        return policy.backend_data and policy.backend is not TLSMode.OFF

    # What becomes of the data.

    def active_dialled(self) -> None:
        """The client is reached: only now does it hear that the transfer begins."""
        if self._held is not None:
            self.core.pass_on(self._held)
            self._held = None
            self._start()
            self._settle()
        elif self._late and not self._over:
            self._start()

    def data_ended(self, end: DataEnd) -> None:
        """All that could be moved is moved."""
        if self._begun and not self._over and self._held is None:
            self._over = True
            self._end = end
            self._settle()

    def cut(self) -> None:
        """Break the data off, if there is any or may be: somebody has lost patience."""
        if self._over or self._told:
            return
        if not self._sent:
            self.core.emit(CloseData(self.transfer.number, abort=False))
            self._tell(BROKEN)
            self.done = True
        elif self._is_transfer:
            self._drop()
            self._end = DataEnd.CLIENT_BROKE
            self._settle()

    @property
    def probing(self) -> bool:
        """Whether ABOR is through, and what comes next is not clear."""
        return self._probing

    @property
    def _is_transfer(self) -> bool:
        return self._begun or self._direction is not Direction.UNKNOWN

    def _drop(self) -> None:
        if not self._over:
            # A backend that may still begin must not take the end of an upload for a whole file.
            refused = self._final is not None and not self._begun
            self.core.emit(CloseData(self.transfer.number, abort=not refused))
            self._over = True
            self._held = None

    def _settle(self) -> None:
        """Tell the end when it is known; be done when nothing more is due."""
        if self._final is None:
            return
        if not self._begun:
            if self._is_transfer:
                self._drop()
            self._over = True
        elif not self._over:
            if self._held is None or self._final.code < 400:
                return
            self._drop()
        if not self._told:
            self._tell_final(self._final)
        for reply in self._behind:
            self.core.pass_on(reply)
        self._behind.clear()
        if self._aside:
            return
        self.done = True
        if self._quit:
            self.core.end(End.DONE, "the client quit")
        elif self._orphaned:
            self.core.backend_gone = True

    def _tell_final(self, final: Reply) -> None:
        broken = self._end is not DataEnd.WHOLE and not self._aborting
        if self.transfer.failed is not None and self._is_transfer:
            self._tell(self.transfer.failed)
        elif broken and final.code < 400:
            self._tell(BROKEN)
        else:
            self.core.pass_on(final)
            self._note(final)

    def _tell(self, reply: Reply) -> None:
        self.core.emit(SendReply(reply))
        self._note(reply)

    def _note(self, reply: Reply) -> None:
        self._told = True
        if self._is_transfer:
            seen = TransferSeen(
                self.transfer.number,
                self._command.verb,
                self._path,
                self._direction,
                self.transfer.port is None,
                self._protected,
                self._backend_protected,
                reply.code,
            )
            self.core.emit(seen)

    def backend_lost(self) -> bool:
        """
        The backend has closed its control connection; return whether the transfer goes on.

        It does where the backend's last word on it is here: servers that were asked to quit close
        behind that, with the file's tail still on its way to a client that reads slowly.  What
        they call failed has no tail.
        """
        final = self._final
        if final is None or not self._begun or self._over or self._aborting:
            return False
        self._orphaned = True
        if self._aside == "QUIT":
            self._quit = True
            self._behind.append(GOODBYE)
        self._aside = ""
        if final.code >= 400:
            self.cut()
        return True

    # What the client asks meanwhile.

    @property
    def takes_asides(self) -> bool:
        """Whether STAT or QUIT may be sent now."""
        return self._begun and self._final is None and not (self._aside or self._aborting)

    def ask(self, command: Command) -> None:
        """Send STAT or QUIT while the data flows."""
        self._aside = command.verb
        self.core.send(command)

    def _aside_answered(self, reply: Reply) -> None:
        if not reply.preliminary:
            self._quit = self._aside == "QUIT" and reply.code < 300
            self._aside = ""
        if self._final is not None and not self._told:
            # The backend had the transfer's end first, and so has the client.
            self._behind.append(reply)
        else:
            self.core.pass_on(reply)
        self._settle()

    @property
    def takes_abort(self) -> bool:
        """Whether ABOR may be sent now."""
        return self._sent and self._is_transfer and self._final is None and not self._aborting

    def abort(self, command: Command) -> None:
        """
        Send ABOR: what it brings is the backend's to say, in one reply or in two.

        The data is left alone until it has, for a break that came before ABOR would change what
        it says.
        """
        self._aborting = True
        self.core.send(command)

    def _aborted(self) -> None:
        """
        Tell the first final reply behind ABOR; whether a second one follows, nobody can know.

        Servers send 426 and 226, or 226 alone.  So one NOOP asks what comes next: its 200 has
        nothing in common with what an ABOR is answered, and behind two replies any one is NOOP's.
        """
        assert self._final is not None
        self._drop()
        self._tell_final(self._final)
        self.core.send(Command("NOOP"))
        self._probing = True

    def _probed(self, reply: Reply) -> None:
        if reply.preliminary:
            return
        if self._twice or reply.code == 200:
            self.done = True
        else:
            self._twice = True
            self.core.pass_on(reply)
