"""
A transfer whose command comes before its address.

RFC 959 lets a client name a file first and the data port afterwards; servers with patience say 1yz
and wait, most say 425.  So the command goes to the backend as it is::

    STOR a  ->  425, 550, ...      it is over
            ->  150                it waits; PASV, EPSV, PORT or EPRT prepare it, and it begins

While it waits nothing is due but its final reply, which is told apart by its code from what an
address is answered.  Other commands are refused: a reply to them could not be told from it.
"""

from __future__ import annotations

from typing import Final

from relaygate.protocols.ftp import Command, Reply
from relaygate.protocols.ftpeffects import Direction
from relaygate.protocols.ftpexchange import Core, Exchange

ADDRESSES: Final = frozenset({"PASV", "EPSV", "PORT", "EPRT"})
"""What may come meanwhile, beside ABOR and QUIT."""

FINALS: Final = frozenset({226, 250, 425, 426, 450, 451, 452, 550, 551, 552, 553})
"""What ends a transfer, and is no answer to an address."""

BUSY: Final = Reply.of(503, "A transfer waits: send PASV or PORT, or ABOR.")


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
