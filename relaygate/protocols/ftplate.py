"""
A transfer whose command comes before its address.

RFC 959 lets a client name a file first and the data port afterwards; servers with patience say 1yz
and wait, most say 425.  So the command goes to the backend as it is::

    STOR a  ->  425, 550, ...      it is over
            ->  150                it waits; PASV, EPSV, PORT or EPRT prepare it, and it begins

While it waits nothing is due but its final reply, and the answer to an address.  Where a code may
be either, one command more, whose own answer has a code that neither has, is sent behind the
address: by what comes before that answer the two are told apart.  Other commands of the client's
are refused: a reply to them could not be told from the last one.
"""

from __future__ import annotations

from typing import Final

from relaygate.protocols.ftp import Command, Reply
from relaygate.protocols.ftpeffects import Direction
from relaygate.protocols.ftpexchange import Core, Exchange

ADDRESSES: Final = frozenset({"PASV", "EPSV", "PORT", "EPRT"})
"""What may come meanwhile, beside ABOR and QUIT."""

FINALS: Final = frozenset({226, 250, 425, 426, 450, 451, 452, 550, 551, 552, 553})
"""What ends a transfer."""

ENDS: Final = frozenset({226, 250, 426})
"""Those of them that refuse no address, either."""

BUSY: Final = Reply.of(503, "A transfer waits: send PASV or PORT, or ABOR.")


class Doubt:
    """
    Whose a *reply* is: the transfer's, then its last one, or the answer to *asked*.

    The backend answers in order.  So if the answer to *asked* is still due it comes before that to
    :attr:`command`, and else it has come already.
    """

    def __init__(self, reply: Reply, asked: str) -> None:
        self.reply = reply
        # PORT and EPRT are answered 200, as NOOP is.
        self._code = 215 if asked in ("PORT", "EPRT") else 200
        self.command = Command("SYST" if self._code == 215 else "NOOP")

    def answered_by(self, reply: Reply) -> bool:
        """Whether *reply* is the answer to :attr:`command`."""
        return reply.code == self._code


class Late(Exchange):
    """The command of a transfer that nothing is prepared for, until the backend's first word."""

    def __init__(self, core: Core, command: Command, direction: Direction) -> None:
        super().__init__(core)
        self.command = command
        self.direction = direction
        self.begun: Reply | None = None
        """The backend's 1yz, when it waits for the address."""

    def begin(self) -> None:
        """Pass the command on."""
        self.core.send(self.command)

    def reply_received(self, reply: Reply) -> None:
        """Take the backend's first word, and later its last."""
        self.core.pass_on(reply)
        if not reply.preliminary:
            self.done = True
        elif self.begun is None:
            self.begun = reply
            self.done = True
