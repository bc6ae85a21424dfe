"""Tests of an FTP session's transfers, as scripts."""

from __future__ import annotations

from relaygate.protocols.ftp import Reply
from relaygate.protocols.ftpeffects import (
    DataEnd,
    DialActive,
    DialBackendData,
    Direction,
    End,
    FTPPolicy,
    ListenBackendData,
    OpenPassive,
    StartData,
    Wait,
)
from relaygate.protocols.ftpexchange import UNAVAILABLE
from relaygate.test.ftpscript import PUBLIC, ScriptTestCase, asks, closes, own, told

DOWN, UP, UNKNOWN = Direction.DOWNLOAD, Direction.UPLOAD, Direction.UNKNOWN
NO_DATA = own(425, "Cannot open data connection.")
BROKEN = own(426, "Data connection broken off, transfer aborted.")
PASSIVE_OPEN = told("227 Entering Passive Mode (198,51,100,1,195,80).")
EXTENDED_OPEN = told("229 Entering Extended Passive Mode (|||50000|).")
GONE = told(bytes(UNAVAILABLE).decode().strip())


class PassiveTests(ScriptTestCase):
    """The client dials: PASV and EPSV."""

    def test_offer(self) -> None:
        """PASV asks both sides, and answers with the outside's address (Requirement 17, 19).

        Lesson 20 is that this address belongs to the way by which the client came: it is given
        for each transfer.
        """
        self.log_in()
        self.offer()

    def test_either_order(self) -> None:
        """The port of ours may open before the backend has one."""
        self.log_in()
        self.client("EPSV")
        self.does(OpenPassive(1, False), asks("EPSV"))
        self.comes(self.session.passive_opened(1, PUBLIC, 50000))
        self.does_nothing()
        self.waits_for(Wait.REPLY)
        self.backend("229 ok (|||4000|)")
        self.does(DialBackendData(1, 4000), EXTENDED_OPEN)
        self.waits_for(Wait.COMMAND)

    def test_backend_without_epsv(self) -> None:
        """Where EPSV is refused PASV follows, once and for all (Requirement 16, 17)."""
        self.log_in()
        self.client("PASV")
        self.backend("500 What?")
        self.backend("227-Well:", " (10,0,0,77,15,160)", "227 end")
        self.comes(self.session.passive_opened(1, PUBLIC, 50000))
        self.does(
            OpenPassive(1, False),
            asks("EPSV"),
            asks("PASV"),
            DialBackendData(1, 4000),
            PASSIVE_OPEN,
        )
        self.client("EPSV")
        self.backend("229 oddly enough (|||4001|)")
        self.comes(self.session.passive_opened(2, PUBLIC, 50000))
        self.does(
            closes(1, abort=False),
            OpenPassive(2, False),
            asks("PASV"),
            DialBackendData(2, 4001),
            EXTENDED_OPEN,
        )

    def test_epsv_answered_by_227(self) -> None:
        """The reply's code decides how it is read (Requirement 16)."""
        self.log_in()
        self.client("EPSV")
        self.backend("227 (10,0,0,77,15,160)")
        self.does(OpenPassive(1, False), asks("EPSV"), DialBackendData(1, 4000))

    def test_backend_refuses(self) -> None:
        """A backend's no to both is 425; its troubles are told in its words (Requirement 8)."""
        for line, answer in (
            ("530 Log in, says 10.0.0.5.", told("530 Log in, says 198.51.100.1.")),
            ("425 No ports.", told("425 No ports.")),
            ("200 Sure.", NO_DATA),
            ("229 (|||0|)", NO_DATA),
        ):
            self.log_in()
            self.client("PASV")
            self.backend(line)
            self.does(OpenPassive(1, False), asks("EPSV"), closes(1), answer)
            self.comes(self.session.passive_opened(1, PUBLIC, 50000))
            self.does_nothing()
        self.client("PASV")
        self.backend("502 no", "502 no")
        self.does(OpenPassive(2, False), asks("EPSV"), asks("PASV"), closes(2), NO_DATA)

    def test_no_port_left(self) -> None:
        """A range that is used up is 425, once the backend has answered (Requirement 8, 21)."""
        self.log_in()
        self.client("PASV", "NOOP")
        self.comes(self.session.data_failed(1))
        self.does(OpenPassive(1, False), asks("EPSV"), closes(1))
        self.backend("229 (|||4000|)")
        self.does(NO_DATA, asks("NOOP"))

    def test_spewed(self) -> None:
        """However often a client asks, one transfer is prepared at a time (Requirement 21)."""
        self.log_in()
        for number in range(1, 5):
            self.client("PASV")
            self.backend("229 (|||4000|)")
            self.comes(self.session.passive_opened(number, PUBLIC, 50000))
            before = [closes(number - 1, abort=False)] if number > 1 else []
            self.does(
                *before,
                OpenPassive(number, False),
                asks("EPSV"),
                DialBackendData(number, 4000),
                PASSIVE_OPEN,
            )

    def test_ipv6(self) -> None:
        """PASV cannot name an IPv6 address, and EPSV needs none (Requirement 19, 20)."""
        self.log_in(client="2001:db8::7")
        self.client("PASV")
        self.does(own(522, "Network protocol not supported, use EPSV."))
        self.client("EPSV 1")
        self.does(own(522, "Network protocol not supported, use (2)."))
        self.client("EPSV 2")
        self.comes(self.session.passive_opened(1, "2001:db8::1", 50000))
        self.backend("229 (|||4000|)")
        self.does(OpenPassive(1, False), asks("EPSV"), DialBackendData(1, 4000), EXTENDED_OPEN)

    def test_address_of_the_wrong_family(self) -> None:
        """An outside address that PASV cannot name is an answer too (Requirement 19)."""
        self.log_in()
        self.client("PASV")
        self.comes(self.session.passive_opened(1, "2001:db8::1", 50000))
        self.backend("229 (|||4000|)")
        self.does(
            OpenPassive(1, False),
            asks("EPSV"),
            closes(1),
            own(522, "Network protocol not supported, use EPSV."),
        )

    def test_epsv_all(self) -> None:
        """Behind EPSV ALL there is nothing but EPSV (Requirement 20)."""
        self.log_in()
        self.client("EPSV ALL")
        self.does(own(200, "Only EPSV from now on."))
        for line in ("PASV", "PORT 192,0,2,7,8,1", "EPRT |1|192.0.2.7|2049|"):
            self.client(line)
            self.does(own(503, "Not allowed after EPSV ALL."))
        self.client("EPSV 9", "EPSV x")
        self.does(
            own(522, "Network protocol not supported, use (1)."), own(501, "Invalid EPSV format.")
        )
        self.client("EPSV")
        self.does(OpenPassive(1, False), asks("EPSV"))

    def test_given_back(self) -> None:
        """ABOR, QUIT and a new login give back what was prepared (Requirement 21)."""
        for line, reply in (("ABOR", "225 Nothing."), ("QUIT", "221 Bye."), ("USER x", "331 ?")):
            self.log_in()
            self.offer()
            self.client(line)
            self.backend(reply)
            self.assertEqual(self.seen.count(closes(1, abort=False)), 1, line)

    def test_nobody_came(self) -> None:
        """A listener that has had its time is 425 at the next transfer (Requirement 21)."""
        self.log_in()
        self.offer()
        self.comes(self.session.data_failed(1))
        self.does(closes(1))
        self.client("LIST")
        self.does(NO_DATA, self.transferred("LIST", 425))
        self.client("LIST")
        self.does(own(425, "Use PORT or PASV first."))


class ActiveTests(ScriptTestCase):
    """The client waits: PORT and EPRT."""

    def prepare(self, line: str = "PORT 192,0,2,7,8,1") -> None:
        """Agree on a port of the client's."""
        self.log_in()
        self.client(line)
        self.backend("229 (|||4000|)")
        verb = line.split(maxsplit=1)[0]
        self.does(asks("EPSV"), DialBackendData(1, 4000), own(200, f"{verb} command successful."))
        self.comes(self.session.backend_data_ready(1))

    def test_download(self) -> None:
        """The client is dialled when the backend is ready, and then hears so (Requirement 25)."""
        for line in ("PORT 192,0,2,7,8,1", "EPRT |1|192.0.2.7|2049|"):
            self.prepare(line)
            self.client("RETR a")
            self.backend("150 Here.")
            self.does(asks("RETR a"), DialActive(1, 2049, False))
            self.waits_for(Wait.PREPARING)
            self.comes(self.session.active_dialled(1))
            self.does(told("150 Here."), StartData(1, DOWN, False, False))
            self.data_ends()
            self.backend("226 Done.")
            self.does(told("226 Done."), self.transferred("RETR a", 226, passive=False))

    def test_short_download(self) -> None:
        """A backend that is done before the client is dialled changes no order (Requirement 27)."""
        self.prepare()
        self.client("RETR a")
        self.backend("150 Here.", "226 Done.")
        self.does(asks("RETR a"), DialActive(1, 2049, False))
        self.comes(self.session.active_dialled(1))
        self.does(told("150 Here."), StartData(1, DOWN, False, False))
        self.data_ends()
        self.does(told("226 Done."), self.transferred("RETR a", 226, passive=False))

    def test_unreachable(self) -> None:
        """A client that cannot be dialled hears 425 and nothing else (Requirement 8, 25)."""
        self.prepare()
        self.client("RETR a", "NOOP")
        self.backend("150 Here.")
        self.comes(self.session.data_failed(1))
        self.does(asks("RETR a"), DialActive(1, 2049, False), closes(1))
        self.backend("426 Broken.")
        self.does(NO_DATA, self.transferred("RETR a", 425, passive=False), asks("NOOP"))

    def test_refused_while_dialling(self) -> None:
        """A refusal while the client is dialled ends the dial (Requirement 26)."""
        self.prepare()
        self.client("RETR a")
        self.backend("150 Here.", "451 Oh no.")
        self.does(
            asks("RETR a"),
            DialActive(1, 2049, False),
            closes(1),
            told("451 Oh no."),
            self.transferred("RETR a", 451, passive=False),
        )
        self.comes(self.session.active_dialled(1))
        self.does_nothing()

    def test_bounce(self) -> None:
        """Other addresses and low ports are refused and nothing is asked (Requirement 24)."""
        self.log_in()
        for line, text in (
            ("PORT 192,0,2,8,8,1", "Refused: that is a foreign address."),
            ("PORT 192,0,2,7,0,25", "Refused: that is a privileged port."),
            ("EPRT |1|127.0.0.1|2049|", "Refused: that is a foreign address."),
            ("PORT 1,2,3", "Invalid PORT format."),
            ("EPRT", "Syntax error: command needs an argument."),
            ("PASV now", "Syntax error: command does not accept arguments."),
        ):
            self.client(line)
            self.does(own(501, text))


class BackendActiveTests(ScriptTestCase):
    """The backend dials us."""

    POLICY = FTPPolicy(backend_active=True)

    def test_ipv4(self) -> None:
        """The backend is told a port of ours by PORT, whatever the client used."""
        self.log_in(self.POLICY)
        self.client("PASV")
        self.does(OpenPassive(1, False), ListenBackendData(1))
        self.waits_for(Wait.PREPARING)
        self.comes(self.session.backend_listening(1, "10.0.0.9", 2049))
        self.comes(self.session.passive_opened(1, PUBLIC, 50000))
        self.does(asks("PORT 10,0,0,9,8,1"))
        self.backend("200 ok")
        self.does(PASSIVE_OPEN)
        self.flow("RETR a", DOWN)

    def test_ipv6(self) -> None:
        """On IPv6 it is EPRT."""
        self.log_in(self.POLICY)
        self.client("PORT 192,0,2,7,8,1")
        self.comes(self.session.backend_listening(1, "fd00::9", 2049))
        self.backend("200 ok")
        self.does(
            ListenBackendData(1),
            asks("EPRT |2|fd00::9|2049|"),
            own(200, "PORT command successful."),
        )

    def test_refused(self) -> None:
        """A backend that will not dial, or a port that cannot be had, is 425 (Requirement 8)."""
        self.log_in(self.POLICY)
        self.client("PORT 192,0,2,7,8,1")
        self.comes(self.session.backend_listening(1, "10.0.0.9", 2049))
        self.backend("500 No.")
        self.does(ListenBackendData(1), asks("PORT 10,0,0,9,8,1"), closes(1), NO_DATA)
        self.client("PASV")
        self.comes(self.session.data_failed(2))
        self.does(OpenPassive(2, False), ListenBackendData(2), closes(2), NO_DATA)


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
            self.does(OpenPassive(1, False), asks("EPSV"), DialBackendData(1, 4000), EXTENDED_OPEN)
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

    def test_unprepared(self) -> None:
        """A transfer without an address is 425, and the backend never hears of it."""
        self.client("LIST")
        self.does(own(425, "Use PORT or PASV first."))

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
