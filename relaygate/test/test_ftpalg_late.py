"""Tests of transfers whose command comes before their address, as scripts."""

from __future__ import annotations

from relaygate.protocols.ftpeffects import (
    DataEnd,
    DialActive,
    DialBackendData,
    Direction,
    End,
    OpenPassive,
    StartData,
    Wait,
)
from relaygate.protocols.ftplate import BUSY, ENDS
from relaygate.test.ftpscript import PUBLIC, ScriptTestCase, asks, closes, own, told

UP, DOWN = Direction.UPLOAD, Direction.DOWNLOAD
UNPREPARED = own(425, "Use PORT or PASV first.")


class LateTests(ScriptTestCase):
    """A client that names the file first."""

    def setUp(self) -> None:
        self.log_in()

    def begin(self, line: str = "STOU", begun: str = "150 FILE: a.1") -> None:
        """The transfer's command, and a server that waits for the address."""
        self.client(line)
        self.does(asks(line))
        self.backend(begun)
        self.does(told(begun))
        self.waits_for(Wait.COMMAND)

    def test_refused(self) -> None:
        """What most servers say to it passes, and nothing stays (Requirement 8)."""
        for answer in ("425 Use PORT or PASV first.", "550 No such file.", "501 A name?"):
            self.client("RETR a")
            self.backend(answer)
            self.does(asks("RETR a"), told(answer))
        self.client("NOOP")
        self.does(asks("NOOP"))

    def test_passive(self) -> None:
        """With its address the transfer is like any other (Requirement 14)."""
        self.begin()
        self.offer_late()
        self.does(StartData(1, UP, False, False))
        self.waits_for(Wait.DATA)
        self.data_ends()
        self.backend("226 Stored.")
        self.does(told("226 Stored."), self.transferred("STOU a.1", 226, UP))
        self.client("STOR b")
        self.does(asks("STOR b"))

    def offer_late(self) -> None:
        """PASV, answered by both sides."""
        self.client("PASV")
        self.does(OpenPassive(1, False), asks("EPSV"))
        self.backend("229 ok (|||4000|)")
        self.does(DialBackendData(1, 4000))
        self.comes(self.session.passive_opened(1, PUBLIC, 50000))
        said = self.seen.pop(0)
        self.assertEqual(said, told("227 Entering Passive Mode (198,51,100,1,195,80)."))

    def test_active(self) -> None:
        """The client is dialled at once, for it has been told 1yz already."""
        self.begin("RETR a", "150 Here.")
        self.client("PORT 192,0,2,7,8,0")
        self.does(asks("EPSV"))
        self.backend("229 ok (|||4000|)")
        self.does(
            own(200, "PORT command successful."),
            DialBackendData(1, 4000),
            DialActive(1, 2048, False),
        )
        self.comes(self.session.active_dialled(1))
        self.does(StartData(1, DOWN, False, False))
        self.data_ends()
        self.backend("226 Sent.")
        self.does(told("226 Sent."), self.transferred("RETR a", 226, DOWN, passive=False))

    def test_not_reached(self) -> None:
        """If nobody is there, the client hears 425 when the server has given up."""
        self.begin("RETR a", "150 Here.")
        self.client("PORT 192,0,2,7,8,0")
        self.backend("229 ok (|||4000|)")
        self.seen.clear()
        self.comes(self.session.data_failed(1))
        self.does(closes(1, abort=True))
        self.backend("426 Broken.")
        failed = own(425, "Cannot open data connection.")
        self.does(failed, self.transferred("RETR a", 425, DOWN, passive=False))

    def test_other_commands(self) -> None:
        """What is neither an address nor an end is refused, and never a hang (Requirement 5)."""
        self.begin()
        self.client("NOOP", "USER x", "RETR b", "REST 3")
        self.does(*[own(503, BUSY.text.decode())] * 4)

    def test_server_gives_up(self) -> None:
        """Its last word passes whenever it comes, also between PASV and the answer to it."""
        self.begin()
        self.backend("425 Nobody came.")
        self.does(told("425 Nobody came."))
        self.client("NOOP")
        self.does(asks("NOOP"))
        self.backend("200 ok")
        self.seen.clear()
        self.begin()
        self.client("EPSV")
        self.does(OpenPassive(1, False), asks("EPSV"))
        self.comes(self.session.passive_opened(1, PUBLIC, 50000))
        self.backend("425 Nobody came.")
        self.does(asks("NOOP"))
        self.backend("229 ok (|||4000|)")
        self.does(told("425 Nobody came."), DialBackendData(1, 4000))
        self.backend("200 noop")
        self.does(told("229 Entering Extended Passive Mode (|||50000|)."))
        self.client("NOOP")
        self.does(asks("NOOP"))

    def test_every_last_word(self) -> None:
        """All that ends a transfer does so between PASV and its answer, and none is that answer."""
        for code in (226, 250, 425, 426, 450, 451, 452, 550, 551, 552, 553):
            self.log_in()
            self.begin()
            self.client("EPSV")
            self.does(OpenPassive(1, False), asks("EPSV"))
            self.backend(f"{code} Over.")
            if code in ENDS:
                self.does(told(f"{code} Over."))
                self.backend("500 What?")
                self.does(asks("PASV"))
                continue
            self.does(asks("NOOP"))
            self.backend("500 What?")
            self.does(told(f"{code} Over."), asks("PASV"))
            self.comes(self.session.passive_opened(1, PUBLIC, 50000))
            self.backend("200 noop", "227 ok (127,0,0,1,15,160)")
            self.does(
                told("229 Entering Extended Passive Mode (|||50000|)."),
                DialBackendData(1, 4000),
            )

    def test_refused_address(self) -> None:
        """
        A refusal of the address by a code that may end a transfer is told as that, at once.

        The transfer waits on, and the next address is for it (Requirement 5).
        """
        for refusal, heard in (
            ("550 No ports.", own(425, "Cannot open data connection.")),
            ("425 No ports.", told("425 No ports.")),
        ):
            self.log_in()
            self.begin()
            self.client("PASV")
            self.does(OpenPassive(1, False), asks("EPSV"))
            self.backend("500 What?")
            self.does(asks("PASV"))
            self.backend(refusal)
            self.does(asks("NOOP"))
            self.waits_for(Wait.PROBE)
            self.backend("200 noop")
            self.does(closes(1, abort=True), heard)
            self.client("PASV")
            self.does(OpenPassive(2, False), asks("PASV"))
            self.backend("227 ok (127,0,0,1,15,160)")
            self.comes(self.session.passive_opened(2, PUBLIC, 50000))
            self.seen.clear()
            self.data_ends(2)
            self.backend("226 Stored.")
            self.does(told("226 Stored."), self.transferred("STOU a.1", 226, UP, number=2))

    def test_last_word_in_doubt(self) -> None:
        """The transfer's last word may come when its address has been refused already."""
        self.begin()
        self.client("EPSV")
        self.backend("550 No ports.")
        self.seen.clear()
        self.backend("426 Nobody came.")
        self.does(told("426 Nobody came."), asks("PASV"))
        self.backend("200 noop", "425 No ports.")
        self.does(closes(1, abort=True), told("425 No ports."))
        self.client("NOOP")
        self.does(asks("NOOP"))

    def test_abort(self) -> None:
        """ABOR brings what it brings in any transfer, in one reply or two (Requirement 6)."""
        for answers in (("426 Aborted.", "226 Done."), ("226 Done.",)):
            self.log_in()
            self.begin()
            self.client("ABOR")
            self.does(asks("ABOR"))
            self.backend(answers[0])
            self.does(
                closes(1, abort=True),
                told(answers[0]),
                self.transferred("STOU a.1", int(answers[0][:3]), UP),
                asks("NOOP"),
            )
            for answer in answers[1:]:
                self.backend(answer)
                self.does(told(answer))
            self.backend("200 noop")
            self.client("SYST")
            self.does(asks("SYST"))

    def test_quit(self) -> None:
        """QUIT passes."""
        self.begin()
        self.client("QUIT")
        self.does(asks("QUIT"))
        self.backend("221 Bye.")
        self.ends(End.DONE, told("221 Bye."))

    def test_stale_port(self) -> None:
        """
        While the backend holds a port that we gave up on, no transfer begins (Requirement 28).

        It would take the end of that connection for the end of an empty file.
        """
        for spoil in ("PROT C", "refused", "failed"):
            self.log_in()
            self.offer()
            if spoil == "failed":
                self.comes(self.session.data_failed(1))
                self.client("STOR a")
                self.does(
                    closes(1, abort=True),
                    own(425, "Cannot open data connection."),
                    self.transferred("STOR a", 425, UP),
                )
            elif spoil == "refused":
                self.client("STOR a")
                self.backend("550 No.")
                self.seen.clear()
            else:
                self.client("ABOR")
                self.backend("225 ok")
                self.seen.clear()
            self.client("STOR b")
            self.does(UNPREPARED)

    def test_lost(self) -> None:
        """A client that leaves meanwhile ends the session."""
        self.begin()
        self.comes(self.session.client_lost())
        self.ends(End.CLIENT)

    def test_ends(self) -> None:
        """How the data ends is told as ever (Requirement 28)."""
        self.begin()
        self.offer_late()
        self.seen.clear()
        self.data_ends(end=DataEnd.CLIENT_BROKE)
        self.backend("226 Stored.")
        broken = own(426, "Data connection broken off, transfer aborted.")
        self.does(broken, self.transferred("STOU a.1", 426, UP))
