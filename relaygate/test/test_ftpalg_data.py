"""Tests of how an FTP session prepares and begins its transfers, as scripts."""

from __future__ import annotations

from relaygate.protocols.ftpeffects import (
    BounceRefused,
    DialActive,
    DialBackendData,
    Direction,
    FTPPolicy,
    ListenBackendData,
    OpenPassive,
    StartData,
    Wait,
)
from relaygate.test.ftpscript import PUBLIC, ScriptTestCase, asks, closes, command, own, told

DOWN = Direction.DOWNLOAD
NO_DATA = own(425, "Cannot open data connection.")
PASSIVE_OPEN = told("227 Entering Passive Mode (198,51,100,1,195,80).")
EXTENDED_OPEN = told("229 Entering Extended Passive Mode (|||50000|).")


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
        self.does(EXTENDED_OPEN, DialBackendData(1, 4000))
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
        self.does(OpenPassive(1, False), asks("EPSV"), EXTENDED_OPEN, DialBackendData(1, 4000))

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
        self.does(asks("EPSV"), own(200, f"{verb} command successful."), DialBackendData(1, 4000))
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
        ):
            self.client(line)
            self.does(BounceRefused(command(line), text), own(501, text))
        for line, text in (
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
