"""Tests of the protection of an FTP session, on either side, as scripts."""

from __future__ import annotations

from relaygate.protocols.ftpeffects import (
    DialBackendData,
    Direction,
    End,
    FTPPolicy,
    LoginSeen,
    OpenPassive,
    Side,
    StartData,
    StartTLS,
    TLSMode,
    Use,
    Wait,
)
from relaygate.protocols.ftpexchange import UNAVAILABLE
from relaygate.test.ftpscript import PUBLIC, ScriptTestCase, asks, closes, own, told

ALLOW = FTPPolicy(control=Use.ALLOW, data=Use.ALLOW)
REQUIRE = FTPPolicy(control=Use.REQUIRE, data=Use.REQUIRE)
IMPLICIT = FTPPolicy(control=Use.REQUIRE, data=Use.ALLOW, implicit=True)
EXPLICIT_BACKEND = FTPPolicy(backend=TLSMode.EXPLICIT)
GO = own(234, "Start TLS now.")
SET = own(200, "Protection set.")
SIZED = own(200, "PBSZ=0 successful.")
GONE = told(bytes(UNAVAILABLE).decode().strip())
LOG_IN = own(530, "Log in with USER and PASS first.")


class ClientTests(ScriptTestCase):
    """Explicit TLS towards the client."""

    def greet(self, policy: FTPPolicy) -> None:
        """Begin a session with a greeting."""
        self.start(policy)
        self.backend("220 Hello.")
        self.does(told("220 Hello."))

    def secure(self, policy: FTPPolicy, mechanism: str = "TLS") -> None:
        """Begin a session and protect it."""
        self.greet(policy)
        self.client("AUTH " + mechanism)
        self.does(GO, StartTLS(Side.CLIENT))
        self.waits_for(Wait.SECURING)
        self.comes(self.session.client_secured("ftp.example"))
        self.does_nothing()

    def login(self) -> None:
        """Log in."""
        self.client("USER joe")
        self.backend("230 In.")
        self.does(asks("USER joe"), told("230 In."), LoginSeen(b"joe", True, 230))

    def test_mechanisms(self) -> None:
        """TLS and its old names are one, others are refused (Requirement 32)."""
        for mechanism in ("TLS", "tls", "SSL", "TLS-C"):
            self.secure(ALLOW, mechanism)
        self.greet(ALLOW)
        for line, code, text in (
            ("AUTH", 501, "Syntax error: command needs an argument."),
            ("AUTH KERBEROS_V4", 504, "Unknown mechanism, use TLS."),
            ("AUTH TLS-P", 504, "Unknown mechanism, use TLS."),
        ):
            self.client(line)
            self.does(own(code, text))

    def test_grammar(self) -> None:
        """Each command has its place and its code (Requirement 32)."""
        self.greet(ALLOW)
        self.client("PBSZ 0", "PROT P")
        self.does(
            own(503, "PBSZ not allowed on insecure control connection."),
            own(503, "PROT not allowed on insecure control connection."),
        )
        self.secure(ALLOW)
        for line, code, text in (
            ("AUTH TLS", 503, "Already using TLS."),
            ("PROT P", 503, "You must issue the PBSZ command prior to PROT."),
            ("PBSZ", 501, "PBSZ needs a number."),
            ("PBSZ 4096", 200, "PBSZ=0 successful."),
            ("PROT S", 536, "Level not supported with TLS, use C or P."),
            ("PROT e", 536, "Level not supported with TLS, use C or P."),
            ("PROT X", 504, "Unknown level, use C or P."),
            ("PROT", 504, "Unknown level, use C or P."),
            ("PROT p", 200, "Protection set."),
            ("PROT C", 200, "Protection set."),
        ):
            self.client(line)
            self.does(own(code, text))

    def test_off(self) -> None:
        """Where TLS is not offered, the backend's is not either (Requirement 33)."""
        self.greet(FTPPolicy())
        self.client("AUTH TLS")
        self.does(own(502, "TLS is not offered here."))

    def test_required(self) -> None:
        """Nothing secret passes in clear where TLS is required (Requirement 33)."""
        self.greet(REQUIRE)
        for line in ("USER joe", "PASS x", "ACCT x", "LIST", "PASV", "SITE x", "STAT", "REIN"):
            self.client(line)
            self.does(own(530, "TLS is required here, send AUTH TLS first."))
        self.client("SYST")
        self.backend("215 UNIX")
        self.does(asks("SYST"), told("215 UNIX"))

    def test_data_required(self) -> None:
        """No transfer begins in clear where that is refused (Requirement 33)."""
        self.secure(REQUIRE)
        self.login()
        self.client("LIST", "PBSZ 0", "PROT C")
        self.does(
            own(521, "Data connections must be protected, send PROT P first."),
            SIZED,
            own(534, "Refused by this server's policy."),
        )
        self.client("PROT P")
        self.does(SET)
        self.protected_offer()
        self.flow("LIST", Direction.DOWNLOAD, private=True)

    def protected_offer(self) -> None:
        """Prepare a transfer whose client side is protected."""
        self.client("EPSV")
        self.backend("229 (|||4000|)")
        self.comes(self.session.passive_opened(1, PUBLIC, 50000))
        self.comes(self.session.backend_data_ready(1))
        self.does(
            OpenPassive(1, True),
            asks("EPSV"),
            DialBackendData(1, 4000),
            told("229 Entering Extended Passive Mode (|||50000|)."),
        )

    def test_data_off(self) -> None:
        """Protected transfers can be refused too (Requirement 33)."""
        self.secure(FTPPolicy(control=Use.ALLOW, data=Use.OFF))
        self.client("PBSZ 0", "PROT P")
        self.does(SIZED, own(534, "Refused by this server's policy."))

    def test_changed_protection(self) -> None:
        """What was prepared for another protection is given back (Requirement 33)."""
        self.secure(ALLOW)
        self.login()
        self.client("PBSZ 0", "PROT P")
        self.does(SIZED, SET)
        self.protected_offer()
        self.client("PROT P")
        self.does(SET)
        self.client("PROT C")
        self.does(closes(1, abort=False), SET)
        self.client("LIST")
        self.does(own(425, "Use PORT or PASV first."))

    def test_injection(self) -> None:
        """Commands in clear behind AUTH end the session unread (Requirement 30)."""
        self.greet(ALLOW)
        self.client("AUTH TLS", "FEAT")
        self.ends(End.CLIENT, GO, StartTLS(Side.CLIENT))

    def test_injection_in_the_queue(self) -> None:
        """They do so too if AUTH itself had to wait (Requirement 30)."""
        self.greet(ALLOW)
        self.client("SYST", "AUTH TLS", "FEAT")
        self.does(asks("SYST"))
        self.backend("215 UNIX")
        self.ends(End.CLIENT, told("215 UNIX"), GONE)

    def test_failed_handshake(self) -> None:
        """A handshake that fails or takes too long ends the session wordlessly (Requirement 33)."""
        for lose in ("client_lost", "timed_out"):
            self.greet(ALLOW)
            self.client("AUTH TLS")
            self.comes(getattr(self.session, lose)())
            end = End.CLIENT if lose == "client_lost" else End.TIMEOUT
            self.ends(end, GO, StartTLS(Side.CLIENT))

    def test_login_before_tls(self) -> None:
        """Who logged in in clear does it again under TLS (Requirement 11, 30)."""
        self.greet(ALLOW)
        self.login()
        self.client("AUTH TLS")
        self.comes(self.session.client_secured())
        self.does(GO, StartTLS(Side.CLIENT))
        for line in ("LIST", "CWD x", "PASV", "SITE x"):
            self.client(line)
            self.does(LOG_IN)
        self.login()
        self.client("CWD x")
        self.does(asks("CWD x"))

    def test_server_name(self) -> None:
        """HOST has to name whom the handshake named (Requirement 10)."""
        self.secure(ALLOW)
        self.client("HOST other.example")
        self.does(own(504, "TLS was made for another host."))
        self.client("HOST FTP.example.")
        self.does(asks("HOST FTP.example."))

    def test_clear_control(self) -> None:
        """CCC is refused, under TLS and without (Requirement 41)."""
        self.greet(ALLOW)
        self.client("CCC")
        self.secure(ALLOW)
        self.client("CCC")
        self.does(own(534, "The control connection stays as it is."))

    def test_reinitialise(self) -> None:
        """REIN would end what protects either side, and is refused (Requirement 11)."""
        self.secure(ALLOW)
        self.client("REIN")
        self.does(own(502, "Command not implemented."))


class ImplicitTests(ScriptTestCase):
    """Implicit TLS towards the client."""

    def test_opening(self) -> None:
        """No word is said in clear, whoever is ready first (Requirement 42)."""
        for client_first in (True, False):
            self.start(IMPLICIT)
            self.does(StartTLS(Side.CLIENT))
            if client_first:
                self.comes(self.session.client_secured())
                self.backend("220 Hello.")
            else:
                self.backend("120 Wait.", "220 Hello.")
                self.does_nothing()
                self.comes(self.session.client_secured())
            self.does(told("220 Hello."))

    def test_private_from_the_start(self) -> None:
        """Data is private unless PROT C is sent, and PBSZ may be left out (Requirement 42)."""
        self.start(IMPLICIT)
        self.comes(self.session.client_secured())
        self.backend("220 Hello.")
        self.client("USER joe")
        self.backend("230 In.")
        self.seen.clear()
        self.client("PBSZ 0", "PROT P", "AUTH TLS")
        self.does(SIZED, SET, own(503, "Already using TLS."))
        self.client("PASV")
        self.does(OpenPassive(1, True), asks("EPSV"))

    def test_clear_bytes(self) -> None:
        """A client that speaks in clear hears nothing (Requirement 42)."""
        self.start(IMPLICIT)
        self.client("USER joe")
        self.ends(End.CLIENT, StartTLS(Side.CLIENT))

    def test_unwelcome(self) -> None:
        """A refusal, too, is not said in clear (Requirement 42)."""
        for line in ("421 Full.", "530 No."):
            self.start(IMPLICIT)
            self.backend(line)
            self.ends(End.BACKEND, StartTLS(Side.CLIENT))


class BackendTests(ScriptTestCase):
    """TLS towards the backend, which the client knows nothing of."""

    def test_explicit(self) -> None:
        """The backend is protected before the client is greeted (Requirement 33)."""
        self.start(EXPLICIT_BACKEND)
        self.backend("220 Hello.")
        self.does(asks("AUTH TLS"))
        self.backend("234 Go.")
        self.does(StartTLS(Side.BACKEND))
        self.comes(self.session.backend_secured())
        self.does(asks("PBSZ 0"))
        self.backend("200 ok")
        self.does(asks("PROT P"))
        self.backend("200 ok")
        self.does(told("220 Hello."))

    def test_implicit(self) -> None:
        """Implicit TLS comes before the greeting."""
        self.start(FTPPolicy(backend=TLSMode.IMPLICIT, backend_data=False))
        self.does(StartTLS(Side.BACKEND))
        self.comes(self.session.backend_secured())
        self.backend("220 Hello.", "503 What for?", "200 ok")
        self.does(asks("PBSZ 0"), asks("PROT C"), told("220 Hello."))

    def test_never_in_clear(self) -> None:
        """A backend that refuses protection is not spoken to any further (Requirement 33)."""
        for replies in (("220 Hi.", "502 No."), ("220 Hi.", "431 No.")):
            self.start(EXPLICIT_BACKEND)
            self.backend(*replies)
            self.ends(End.BACKEND, asks("AUTH TLS"), GONE)
        self.start(EXPLICIT_BACKEND)
        self.backend("220 Hi.", "234 Go.")
        self.comes(self.session.backend_secured())
        self.backend("200 ok", "534 No.")
        self.ends(
            End.BACKEND,
            *(asks("AUTH TLS"), StartTLS(Side.BACKEND), asks("PBSZ 0"), asks("PROT P"), GONE),
        )

    def test_injection(self) -> None:
        """Replies in clear behind a 234 end the session (Requirement 31)."""
        self.start(EXPLICIT_BACKEND)
        self.backend("220 Hi.", "234 Go.", "200 PBSZ already.")
        self.ends(End.BACKEND, asks("AUTH TLS"), StartTLS(Side.BACKEND), GONE)

    def test_failed_handshake(self) -> None:
        """A handshake with the backend that fails is 421 (Requirement 8, 33)."""
        self.start(EXPLICIT_BACKEND)
        self.backend("220 Hi.", "234 Go.")
        self.comes(self.session.backend_lost())
        self.ends(End.BACKEND, asks("AUTH TLS"), StartTLS(Side.BACKEND), GONE)

    def test_sides_are_independent(self) -> None:
        """A clear client has protected transfers behind it (Requirement 33)."""
        self.test_explicit()
        self.client("USER joe")
        self.backend("230 In.")
        self.does(asks("USER joe"), told("230 In."), LoginSeen(b"joe", True, 230))
        self.offer()
        self.client("LIST")
        self.backend("150 Here.")
        self.does(asks("LIST"), told("150 Here."), StartData(1, Direction.DOWNLOAD, False, True))
        self.client("REIN")
        self.data_ends()
        self.seen.clear()
        self.backend("226 Done.")
        self.assertEqual(self.seen[-1], own(502, "Command not implemented."))
