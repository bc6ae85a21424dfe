"""Tests of an FTP session's transfers and what interrupts them, as scripts."""

from __future__ import annotations

from relaygate.protocols.ftp import Reply
from relaygate.protocols.ftpeffects import (
    DataEnd,
    DialBackendData,
    Direction,
    End,
    OpenPassive,
    StartData,
    Wait,
)
from relaygate.protocols.ftpexchange import UNAVAILABLE
from relaygate.test.ftpscript import PUBLIC, ScriptTestCase, asks, closes, own, told

DOWN, UP, UNKNOWN = Direction.DOWNLOAD, Direction.UPLOAD, Direction.UNKNOWN
NO_DATA = own(425, "Cannot open data connection.")
BROKEN = own(426, "Data connection broken off, transfer aborted.")
EXTENDED_OPEN = told("229 Entering Extended Passive Mode (|||50000|).")
GONE = told(bytes(UNAVAILABLE).decode().strip())


class TransferTests(ScriptTestCase):
    """A command that moves data."""

    def setUp(self) -> None:
        self.log_in()

    def test_download(self) -> None:
        """226 waits for the data's end towards the client (Requirement 27)."""
        self.offer()
        self.flow("RETR a b ", DOWN)
        self.waits_for(Wait.DATA)
        self.backend("226 Done.")
        self.does_nothing()
        self.waits_for(Wait.DATA)
        self.data_ends()
        self.does(told("226 Done."), self.transferred("RETR a b", 226))
        self.waits_for(Wait.COMMAND)

    def test_upload(self) -> None:
        """Commands behind an upload wait until it has reached the backend (Requirement 28)."""
        for line in ("STOR a", "APPE a"):
            self.setUp()
            self.offer()
            self.flow(line, UP)
            self.client("NOOP")
            self.data_ends()
            self.does_nothing()
            self.waits_for(Wait.REPLY)
            self.backend("226 Stored.")
            self.does(told("226 Stored."), self.transferred(line, 226, UP), asks("NOOP"))

    def test_listings(self) -> None:
        """Listings are downloads, and their replies pass as they are (Requirement 29)."""
        for line in ("LIST", "NLST -a", "MLSD /"):
            self.setUp()
            self.offer()
            self.flow(line, DOWN)
            self.data_ends()
            self.backend("226-Nothing", "226 there.")
            self.does(told("226-Nothing", "226 there."), self.transferred(line, 226))

    def test_restart(self) -> None:
        """Nothing of ours stands between REST and its transfer (Requirement 14)."""
        self.offer()
        self.client("REST 100", "RETR a")
        self.does(asks("REST 100"))
        self.backend("350 Go on.")
        self.does(told("350 Go on."), asks("RETR a"))

    def test_commands_between(self) -> None:
        """What was prepared outlasts other commands, also refused ones (Requirement 13)."""
        self.offer()
        self.client("CWD x", "TYPE I", "SIZE a")
        self.backend("550 No.", "200 ok", "213 9")
        self.does(
            *(asks("CWD x"), told("550 No."), asks("TYPE I"), told("200 ok")),
            *(asks("SIZE a"), told("213 9")),
        )
        self.flow("RETR a", DOWN)

    def test_held(self) -> None:
        """A transfer waits until the backend is reached, and is 425 if it cannot be."""
        for reached in (True, False):
            self.setUp()
            self.client("EPSV", "LIST")
            self.comes(self.session.passive_opened(1, PUBLIC, 50000))
            self.backend("229 (|||4000|)")
            self.does(OpenPassive(1, False), asks("EPSV"), EXTENDED_OPEN, DialBackendData(1, 4000))
            self.waits_for(Wait.PREPARING)
            if reached:
                self.comes(self.session.backend_data_ready(1))
                self.does(asks("LIST"))
            else:
                self.comes(self.session.data_failed(1))
                self.does(closes(1), NO_DATA, self.transferred("LIST", 425))

    def test_refused(self) -> None:
        """A refusal passes at once and gives both legs back (Requirement 26)."""
        self.offer()
        self.client("RETR none")
        self.backend("550 No such file.")
        self.does(
            asks("RETR none"),
            closes(1, abort=False),
            told("550 No such file."),
            self.transferred("RETR none", 550),
        )
        self.offer(2)

    def test_without_preliminary(self) -> None:
        """A backend that skips 1yz has moved no data."""
        self.offer()
        self.client("LIST")
        self.backend("226 Nothing.")
        self.does(
            asks("LIST"),
            closes(1, abort=False),
            told("226 Nothing."),
            self.transferred("LIST", 226),
        )

    def test_unique_name(self) -> None:
        """STOU's name is in its 150, which passes (Requirement 14)."""
        self.offer()
        self.client("STOU")
        self.backend("150 FILE: a b.1")
        self.does(asks("STOU"), told("150 FILE: a b.1"), StartData(1, UP, False, False))
        self.data_ends()
        self.backend("226 Stored.")
        self.does(told("226 Stored."), self.transferred("STOU a b.1", 226, UP))

    def test_unknown_transfer(self) -> None:
        """A command that we do not know is a transfer if the backend says so (Requirement 13)."""
        self.offer()
        self.flow("XMLS /", UNKNOWN)
        self.backend("110 MARK 1 = 1")
        self.does(told("110 MARK 1 = 1"))
        self.data_ends()
        self.backend("226 Done.")
        self.does(told("226 Done."), self.transferred("XMLS /", 226, UNKNOWN))
        self.client("XMLS /")
        self.backend("150 Again.")
        self.does(asks("XMLS /"), told("150 Again."))

    def test_broken(self) -> None:
        """Broken data is 426, also where the backend saw an end (Requirement 8, 28, 40)."""
        for end in (DataEnd.CLIENT_BROKE, DataEnd.BACKEND_BROKE):
            self.setUp()
            self.offer()
            self.flow("STOR a", UP)
            self.data_ends(end=end)
            self.does_nothing()
            self.backend("226 Stored.")
            self.does(BROKEN, self.transferred("STOR a", 426, UP))
            self.offer(2)
            self.flow("STOR a", UP, 2)
            self.data_ends(2, end)
            self.backend("451 Strange.")
            self.does(told("451 Strange."), self.transferred("STOR a", 451, UP, number=2))

    def test_failed(self) -> None:
        """A backend's failure waits for the data's end, but not for long (Requirement 27)."""
        self.offer()
        self.flow("STOR a", UP)
        self.backend("552 Disk full.")
        self.does_nothing()
        self.waits_for(Wait.DRAIN)
        self.comes(self.session.timed_out())
        self.does(closes(1), told("552 Disk full."), self.transferred("STOR a", 552, UP))

    def test_client_never_comes(self) -> None:
        """A client that does not come, or fails its handshake, hears so (Requirement 34)."""
        for code in (425, 522):
            self.setUp()
            self.offer()
            self.flow("RETR a", DOWN)
            self.comes(self.session.data_failed(1, Reply.of(code, "No.")))
            self.does(closes(1))
            self.data_ends()
            self.backend("426 Broken.")
            self.does(own(code, "No."), self.transferred("RETR a", code))

    def test_idle_clock(self) -> None:
        """No idle clock of the control connection runs while data moves (Requirement 15)."""
        self.offer()
        self.flow("RETR a", DOWN)
        self.waits_for(Wait.DATA)
        self.client("NOOP")
        self.waits_for(Wait.DATA)

    def test_421(self) -> None:
        """A 421 inside a transfer ends it all (Requirement 8)."""
        self.offer()
        self.flow("RETR a", DOWN)
        self.backend("421 Going down.")
        self.ends(End.BACKEND, told("421 Going down."))

    def test_control_lost(self) -> None:
        """Whose control connection is gone has no transfer any more (Requirement 28)."""
        self.offer()
        self.flow("STOR a", UP)
        self.comes(self.session.client_lost())
        self.ends(End.CLIENT)
        self.setUp()
        self.offer()
        self.flow("STOR a", UP)
        self.comes(self.session.backend_lost())
        self.ends(End.BACKEND, GONE)

    def test_stale_inputs(self) -> None:
        """What is reported about a transfer that is over leads to nothing (Requirement 5)."""
        self.offer()
        self.offer_again()
        session = self.session
        for effects in (
            session.backend_data_ready(1),
            session.passive_opened(1, PUBLIC, 50000),
            session.backend_listening(1, "10.0.0.9", 2049),
            session.active_dialled(1),
            session.data_failed(1),
            session.data_ended(1, DataEnd.WHOLE),
        ):
            self.assertEqual(effects, [])
        self.flow("RETR a", DOWN, 2)

    def offer_again(self) -> None:
        """Ask for another address."""
        self.client("EPSV")
        self.backend("229 (|||4000|)")
        self.comes(self.session.passive_opened(2, PUBLIC, 50000))
        self.comes(self.session.backend_data_ready(2))
        self.does(
            closes(1, abort=False),
            OpenPassive(2, False),
            asks("EPSV"),
            DialBackendData(2, 4000),
            EXTENDED_OPEN,
        )


class InterruptionTests(ScriptTestCase):
    """ABOR, STAT and QUIT while a transfer runs."""

    def setUp(self) -> None:
        self.log_in()
        self.offer()

    def test_abort_in_two_replies(self) -> None:
        """ABOR passes at once; 426 and 226 pass too (Requirement 6)."""
        self.flow("RETR a", DOWN)
        self.client("ABOR", "PWD")
        self.does(asks("ABOR"))
        self.waits_for(Wait.ABORT)
        self.backend("426 Aborted.")
        self.does(closes(1), told("426 Aborted."), self.transferred("RETR a", 426), asks("NOOP"))
        self.backend("226 ABOR done.")
        self.does(told("226 ABOR done."))
        self.backend("200 NOOP.")
        self.does(asks("PWD"))

    def test_abort_in_one_reply(self) -> None:
        """A server that answers ABOR and its transfer at once is understood (Requirement 6)."""
        for line in ("226 All is over.", "225 All is over."):
            self.setUp()
            self.flow("STOR a", UP)
            self.client("ABOR", "PWD")
            self.backend(line)
            code = int(line[:3])
            self.does(
                asks("ABOR"),
                closes(1),
                told(line),
                self.transferred("STOR a", code, UP),
                asks("NOOP"),
            )
            self.backend("200 NOOP.")
            self.does(asks("PWD"))

    def test_abort_of_broken_data(self) -> None:
        """Behind ABOR the backend's words count, also for data that broke (Requirement 6)."""
        self.flow("STOR a", UP)
        self.client("ABOR")
        self.data_ends(end=DataEnd.CLIENT_BROKE)
        self.backend("226 All is over.")
        self.does(
            asks("ABOR"),
            told("226 All is over."),
            self.transferred("STOR a", 226, UP),
            asks("NOOP"),
        )

    def test_abort_unheard(self) -> None:
        """A backend that is deaf while it writes loses its data connection (Requirement 6)."""
        self.flow("RETR a", DOWN)
        self.client("ABOR")
        self.comes(self.session.timed_out())
        self.does(asks("ABOR"), closes(1))
        self.waits_for(Wait.REPLY)
        self.backend("426 Broken.", "225 Nothing to abort.", "200 NOOP.")
        self.does(
            told("426 Broken."),
            self.transferred("RETR a", 426),
            asks("NOOP"),
            told("225 Nothing to abort."),
        )

    def test_abort_before_the_data(self) -> None:
        """A deaf backend that only then says 150 gets no data that looks whole (Requirement 28)."""
        self.client("STOR a", "ABOR")
        self.waits_for(Wait.ABORT)
        self.comes(self.session.timed_out())
        self.does(asks("STOR a"), asks("ABOR"), closes(1))
        self.backend("150 Here.", "426 Broken.", "225 Nothing.", "200 NOOP.")
        self.does(
            told("426 Broken."),
            self.transferred("STOR a", 426, UP),
            asks("NOOP"),
            told("225 Nothing."),
        )

    def test_abort_while_nothing_flows(self) -> None:
        """ABOR passes before the backend has said 150, too (Requirement 6)."""
        self.client("RETR a", "ABOR")
        self.does(asks("RETR a"), asks("ABOR"))
        self.backend("150 Here.")
        self.does(told("150 Here."))
        self.backend("426 Aborted.", "226 Done.", "200 NOOP.")
        self.does(
            closes(1, abort=False),
            told("426 Aborted."),
            self.transferred("RETR a", 426),
            asks("NOOP"),
            told("226 Done."),
        )

    def test_abort_in_the_queue(self) -> None:
        """An ABOR behind other commands ends the data and takes its turn (Requirement 5, 6)."""
        self.flow("RETR a", DOWN)
        self.client("NOOP", "ABOR")
        self.does(closes(1))
        self.backend("426 Broken.")
        self.does(told("426 Broken."), self.transferred("RETR a", 426), asks("NOOP"))
        self.backend("200 ok", "225 Nothing.")
        self.does(told("200 ok"), asks("ABOR"), told("225 Nothing."))

    def test_abort_of_the_tail(self) -> None:
        """ABOR while the last bytes still go to the client breaks them off (Requirement 6)."""
        self.flow("RETR a", DOWN)
        self.backend("226 Done.")
        self.client("ABOR")
        self.does(closes(1), BROKEN, self.transferred("RETR a", 426), asks("ABOR"))

    def test_abort_of_a_held_transfer(self) -> None:
        """ABOR of what has not begun never reaches the backend as a transfer (Requirement 6)."""
        self.client("EPSV", "LIST")
        self.comes(self.session.passive_opened(2, PUBLIC, 50000))
        self.backend("229 (|||4000|)")
        self.seen.clear()
        self.client("ABOR")
        self.does(
            closes(2, abort=False), BROKEN, self.transferred("LIST", 426, number=2), asks("ABOR")
        )

    def test_status(self) -> None:
        """STAT passes, and is answered before the transfer or behind it (Requirement 6)."""
        for replies in (("211 Busy.", "226 Done."), ("226 Done.", "211 Idle.")):
            self.setUp()
            self.flow("RETR a", DOWN)
            self.client("STAT", "STAT")
            self.data_ends()
            self.does(asks("STAT"))
            self.backend(replies[0])
            self.backend(replies[1])
            seen = [told(replies[0]), told(replies[1])]
            seen.insert(1 + replies.index("226 Done."), self.transferred("RETR a", 226))  # type: ignore[arg-type]
            if replies[0].startswith("211"):
                seen.insert(1, asks("STAT"))  # type: ignore[arg-type]
                self.assertEqual(self.seen[:2], seen[:2])
            else:
                self.does(*seen, asks("STAT"))

    def test_quit(self) -> None:
        """QUIT lets the transfer end first (Requirement 6)."""
        self.flow("STOR a", UP)
        self.client("QUIT")
        self.waits_for(Wait.QUIT)
        self.does_nothing()
        self.data_ends()
        self.backend("226 Stored.")
        self.does(told("226 Stored."), self.transferred("STOR a", 226, UP), asks("QUIT"))
        self.backend("221 Bye.")
        self.ends(End.DONE, told("221 Bye."))

    def test_impatient_quit(self) -> None:
        """A client that may wait for QUIT's answer before it sends on gets it (Requirement 6)."""
        for replies in (("221 Bye.", "226 Stored."), ("226 Stored.", "221 Bye.")):
            self.setUp()
            self.flow("STOR a", UP)
            self.client("QUIT")
            self.comes(self.session.timed_out())
            self.does(asks("QUIT"))
            self.waits_for(Wait.DATA)
            self.data_ends()
            self.backend(*replies)
            seen = [told(replies[0]), told(replies[1])]
            seen.insert(1 + replies.index("226 Stored."), self.transferred("STOR a", 226, UP))  # type: ignore[arg-type]
            self.ends(End.DONE, *seen)
