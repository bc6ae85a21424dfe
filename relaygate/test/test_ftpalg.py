"""Tests of an FTP session's control connection, as scripts."""

from __future__ import annotations

from relaygate.protocols.ftp import TOO_LONG, Command
from relaygate.protocols.ftpalg import MAX_WAITING, PAUSE_AT
from relaygate.protocols.ftpeffects import End, FTPPolicy, LoginSeen, Use, Wait
from relaygate.protocols.ftpexchange import UNAVAILABLE
from relaygate.test.ftpscript import ScriptTestCase, asks, closes, own, told

NOT_HERE = own(502, "Command not implemented.")
LOG_IN = own(530, "Log in with USER and PASS first.")


class GreetingTests(ScriptTestCase):
    """How a session begins."""

    def test_greeting(self) -> None:
        """The backend's greeting is the client's, and 120 comes before it (Requirement 7)."""
        self.start()
        self.does_nothing()
        self.waits_for(Wait.OPENING)
        self.backend("120 Soon.", "220-Hello", "220 there.")
        self.does(told("120 Soon."), told("220-Hello", "220 there."))
        self.waits_for(Wait.COMMAND)

    def test_unwelcome(self) -> None:
        """A greeting that refuses is passed on, and both sides close (Requirement 7, 8)."""
        for line in ("421 Too many users.", "530 Not you."):
            self.start()
            self.backend(line)
            self.ends(End.BACKEND, told(line))

    def test_silent_backend(self) -> None:
        """A backend that does not greet, or closes, leads to 421 (Requirement 7)."""
        self.start()
        self.comes(self.session.timed_out())
        self.ends(End.TIMEOUT, own(421, "Timeout, closing control connection."))
        self.start()
        self.comes(self.session.backend_lost())
        self.ends(End.BACKEND, told(bytes(UNAVAILABLE).decode().strip()))

    def test_early_commands(self) -> None:
        """Who speaks before the greeting waits for it (Requirement 5)."""
        self.start()
        self.client("USER joe")
        self.does_nothing()
        self.backend("220 Hello.")
        self.does(told("220 Hello."), asks("USER joe"))

    def test_masked(self) -> None:
        """The private network's addresses do not show in any text (Requirement 88)."""
        self.start()
        self.backend("220-I am 10.0.0.5:2121", "220 (10,0,0,9,1,2) 110.0.0.5 10.0.0.55 10.0.0.5.")
        self.does(
            told(
                "220-I am 198.51.100.1:2121",
                "220 (198.51.100.1,1,2) 110.0.0.5 10.0.0.55 198.51.100.1.",
            )
        )
        self.client("PWD")
        self.backend('257 "/10.0.0.5/a""b" is here')
        self.does(asks("PWD"), told('257 "/10.0.0.5/a""b" is here'))


class OrderTests(ScriptTestCase):
    """One final reply for each command, in order."""

    def test_pipelined(self) -> None:
        """Own replies stand in line with the backend's (Requirement 5)."""
        self.log_in()
        self.client("NOOP", "PBSZ 0", "SYST", "CCC")
        self.does(asks("NOOP"))
        self.backend("200 ok")
        self.does(
            told("200 ok"),
            own(503, "PBSZ not allowed on insecure control connection."),
            asks("SYST"),
        )
        self.backend("215 UNIX")
        self.does(told("215 UNIX"), own(534, "The control connection stays as it is."))

    def test_stray_reply(self) -> None:
        """A reply that nobody waits for is not taken for the next one's (Requirement 5)."""
        self.log_in()
        self.backend("226 Late.")
        self.does_nothing()
        self.client("NOOP")
        self.backend("200 ok")
        self.does(asks("NOOP"), told("200 ok"))

    def test_bad_lines(self) -> None:
        """What is no command is answered in its turn (Requirement 1, 3)."""
        self.log_in()
        self.client("NOOP", b"RETR a\0b", b"*")
        self.comes(self.session.command_received(TOO_LONG))
        self.backend("200 ok")
        self.does(
            asks("NOOP"),
            told("200 ok"),
            own(501, "CR, LF and NUL have no place inside a command."),
            own(500, "Command not understood."),
            own(500, "Command line too long."),
        )

    def test_bounded(self) -> None:
        """Reading stops when some commands wait, and too many are an attack (Requirement 3)."""
        self.log_in()
        self.client(*["NOOP"] * PAUSE_AT)
        self.assertTrue(self.session.takes_commands)
        self.client("NOOP")
        self.assertFalse(self.session.takes_commands)
        for _ in range(PAUSE_AT):
            self.backend("200 ok")
        self.assertTrue(self.session.takes_commands)
        self.seen.clear()
        self.client(*["NOOP"] * MAX_WAITING)
        self.does_nothing()
        self.client("NOOP")
        self.ends(End.CLIENT, told(bytes(UNAVAILABLE).decode().strip()))


class CommandTests(ScriptTestCase):
    """What passes and what does not."""

    def test_unknown_commands_pass(self) -> None:
        """What the gateway does not know is the backend's, byte for byte (Requirement 12, 13)."""
        self.log_in()
        for line in (
            "SITE chmod  644 x ",
            "MFMT 1 x",
            "XSHA256 x",
            "OPTS UTF8 ON",
            "HELP",
            "CWD é",
        ):
            self.client(line)
            self.backend("200 as you like")
            self.does(asks(line), told("200 as you like"))
        self.client(b"CWD \xe9\xfe")
        (effect,) = self.seen
        self.assertEqual(effect, type(effect)(Command("CWD", b"\xe9\xfe")))  # type: ignore[arg-type, call-arg]

    def test_addresses_never_pass(self) -> None:
        """Addresses in other dialects, and what looks like ours, are refused (Requirement 13)."""
        self.log_in()
        for verb in ("LPRT", "LPSV", "SPSV", "CPSV", "SSCN", "ADAT", "MIC", "CONF", "ENC"):
            self.client(verb + " 1,2,3,4,5,6")
            self.does(NOT_HERE)
        for verb in ("PORT1", "PASV0", "EPRT12"):
            self.client(verb)
            self.does(own(500, "Command not understood."))

    def test_addresses_in_replies(self) -> None:
        """An address that answers another command is not passed on (Requirement 16, 88)."""
        self.log_in()
        self.client("XYZZY")
        self.backend("227 Entering Passive Mode (172,16,0,1,4,1)")
        self.does(asks("XYZZY"), NOT_HERE)

    def test_features(self) -> None:
        """The gateway's own features replace the backend's (Requirement 9)."""
        self.start(FTPPolicy(control=Use.ALLOW, data=Use.ALLOW))
        self.backend("220 Hello.")
        self.client("FEAT")
        self.backend(
            "211-Mine:",
            " AUTH TLS;SSL",
            " CCC",
            " EPSV",
            " CPSV",
            " HOST",
            " mlst size*;",
            "211-SSCN",
            " UTF8",
            "211 Done",
        )
        self.does(
            told("220 Hello."),
            asks("FEAT"),
            told(
                *("211-Mine:", " HOST", " mlst size*;", " UTF8", " EPRT", " EPSV"),
                *(" AUTH TLS", " AUTH SSL", " PBSZ", " PROT", "211 Done"),
            ),
        )

    def test_no_features(self) -> None:
        """A backend without FEAT, or before a login, gets the gateway's list (Requirement 9)."""
        self.start()
        self.backend("220 Hello.")
        self.seen.clear()
        for line in ("502 What?", "530 Log in.", "211 None"):
            self.client("FEAT")
            self.backend(line)
            self.does(asks("FEAT"), told("211-Features:", " EPRT", " EPSV", "211 End"))
        self.client("FEAT")
        self.backend("450 Busy.")
        self.does(asks("FEAT"), told("450 Busy."))
        self.client("FEAT x")
        self.backend("501 No.")
        self.does(asks("FEAT x"), told("501 No."))

    def test_host(self) -> None:
        """HOST passes before USER, and not behind it (Requirement 10)."""
        self.start()
        self.backend("220 Hello.")
        self.client("HOST ftp.example")
        self.backend("220 Which you are.")
        self.does(told("220 Hello."), asks("HOST ftp.example"), told("220 Which you are."))
        self.client("USER joe")
        self.backend("331 Password?")
        self.client("HOST ftp.example")
        self.does(asks("USER joe"), told("331 Password?"), own(503, "HOST comes before USER."))

    def test_modes(self) -> None:
        """Modes in which a file ends without its connection are refused."""
        self.log_in()
        self.client("MODE b")
        self.does(own(504, "Unimplemented mode, only stream is supported."))
        self.client("MODE S")
        self.does(asks("MODE S"))

    def test_http(self) -> None:
        """An HTTP client is let go at its first word (Requirement 43)."""
        for verb in ("GET", "post", "OPTIONS"):
            self.start()
            self.backend("220 Hello.")
            self.seen.clear()
            self.client(verb + " / HTTP/1.1", "USER joe")
            self.ends(End.CLIENT, told(bytes(UNAVAILABLE).decode().strip()))


class LoginTests(ScriptTestCase):
    """Who the client is."""

    def test_logins(self) -> None:
        """Every way to log in passes, and secrets stay out of the audit (Requirement 11)."""
        ways = (
            (("USER joe", "230 In."),),
            (("USER joe", "331 Password?"), ("PASS -a  b ", "230 In.")),
            (("USER joe", "331 Password?"), ("PASS", "332 Account?"), ("ACCT x", "230 In.")),
            (("USER joe", "232 Known by certificate."),),
        )
        for way in ways:
            self.start()
            self.backend("220 Hello.")
            self.seen.clear()
            for line, reply in way:
                self.assertFalse(self.session.logged_in)
                self.client(line)
                self.backend(reply)
                seen = [LoginSeen(b"joe", True, int(reply[:3]))] if reply.startswith("23") else []
                self.does(asks(line), told(reply), *seen)
            self.assertTrue(self.session.logged_in)

    def test_failed_logins(self) -> None:
        """Failed logins are told to the audit, and each 530 is counted (Requirement 11)."""
        self.start()
        self.backend("220 Hello.")
        self.client("USER joe")
        self.backend("331 Password?")
        self.seen.clear()
        for line in ("530 Wrong.", "530 Wrong.", "421 Too often."):
            self.client("PASS secret")
            self.backend(line)
        self.assertEqual(self.session.failed_logins, 2)
        self.ends(
            End.BACKEND,
            *(asks("PASS secret"), told("530 Wrong."), LoginSeen(b"joe", False, 530)) * 2,
            asks("PASS secret"),
            told("421 Too often."),
        )

    def test_second_user(self) -> None:
        """A second USER logs the first one out until its password has come (Requirement 11)."""
        self.log_in()
        self.client("USER ann")
        self.backend("331 Password?")
        self.assertFalse(self.session.logged_in)
        self.client("PASV")
        self.does(asks("USER ann"), told("331 Password?"), LOG_IN)
        self.client("PASS x")
        self.backend("230 In.")
        self.does(asks("PASS x"), told("230 In."), LoginSeen(b"ann", True, 230))

    def test_refused_second_user(self) -> None:
        """A backend that refuses a second USER leaves the first one logged in (Requirement 11)."""
        self.log_in()
        self.client("USER ann")
        self.backend("530 Cannot change.")
        self.does(asks("USER ann"), told("530 Cannot change."), LoginSeen(b"ann", False, 530))
        self.assertTrue(self.session.logged_in)

    def test_no_ports_for_strangers(self) -> None:
        """Nothing is opened or dialled for who is not logged in (Requirement 21)."""
        self.start()
        self.backend("220 Hello.")
        self.seen.clear()
        for line in ("PASV", "EPSV", "PORT 192,0,2,7,8,1", "EPRT |1|192.0.2.7|2049|", "EPSV ALL"):
            self.client(line)
            self.does(LOG_IN)
        self.client("LIST")
        self.backend("530 Not you.")
        self.does(asks("LIST"), told("530 Not you."))

    def test_reinitialise(self) -> None:
        """REIN is the backend's to take where nothing is protected (Requirement 11)."""
        self.log_in()
        self.offer()
        self.client("REIN")
        self.backend("220 As new.")
        self.does(asks("REIN"), told("220 As new."), closes(1, abort=False))
        self.assertFalse(self.session.logged_in)


class EndTests(ScriptTestCase):
    """How a session ends."""

    def test_quit(self) -> None:
        """QUIT's reply is passed on, and the session is done."""
        self.log_in()
        self.client("QUIT")
        self.does(asks("QUIT"))
        self.backend("221-You were here", "221 Bye.")
        self.ends(End.DONE, told("221-You were here", "221 Bye."))

    def test_quit_refused(self) -> None:
        """A QUIT that the backend does not understand ends nothing."""
        self.log_in()
        self.client("QUIT now")
        self.backend("501 No arguments.")
        self.does(asks("QUIT now"), told("501 No arguments."))

    def test_quit_unanswered(self) -> None:
        """A backend that only closes at QUIT is answered for."""
        self.log_in()
        self.client("QUIT")
        self.comes(self.session.backend_lost())
        self.ends(End.DONE, asks("QUIT"), own(221, "Goodbye."))

    def test_421(self) -> None:
        """A 421 at any moment is passed on, and both sides close (Requirement 8)."""
        self.log_in()
        self.backend("421 Idle too long.")
        self.ends(End.BACKEND, told("421 Idle too long."))
        self.log_in()
        self.client("NOOP")
        self.backend("421 Going down.")
        self.ends(End.BACKEND, asks("NOOP"), told("421 Going down."))

    def test_idle(self) -> None:
        """A client that says nothing hears 421 in the end (Requirement 8, 15)."""
        self.log_in()
        self.waits_for(Wait.COMMAND)
        self.comes(self.session.timed_out())
        self.ends(End.TIMEOUT, own(421, "Timeout, closing control connection."))

    def test_slow_backend(self) -> None:
        """A reply that does not come ends the session, for it could come later (Requirement 5)."""
        self.log_in()
        self.client("NOOP", "SYST")
        self.waits_for(Wait.REPLY)
        self.comes(self.session.timed_out())
        self.ends(End.TIMEOUT, asks("NOOP"), own(421, "Timeout, closing control connection."))

    def test_going_down(self) -> None:
        """A gateway that goes down says 421 (Requirement 8)."""
        self.log_in()
        self.comes(self.session.stop())
        self.ends(End.SHUTDOWN, told(bytes(UNAVAILABLE).decode().strip()))

    def test_client_gone(self) -> None:
        """Commands that a client sent before it ended are still carried out."""
        self.log_in()
        self.client("DELE a", "DELE b")
        self.comes(self.session.client_lost())
        self.backend("250 ok", "250 ok")
        self.ends(End.CLIENT, asks("DELE a"), told("250 ok"), asks("DELE b"), told("250 ok"))
        self.log_in()
        self.comes(self.session.client_lost())
        self.ends(End.CLIENT)

    def test_client_broke_off(self) -> None:
        """Who is gone by a reset is not waited for, whatever is under way."""
        self.log_in()
        self.client("XSHA a", "DELE a", "QUIT")
        self.comes(self.session.client_lost(True))
        self.ends(End.CLIENT, asks("XSHA a"))

    def test_client_gone_before_greeting(self) -> None:
        """For who leaves before the greeting nothing is waited, but commands still count."""
        self.start()
        self.comes(self.session.client_lost())
        self.ends(End.CLIENT)
        self.start()
        self.client("NOOP")
        self.comes(self.session.client_lost())
        self.backend("220 Hello.", "200 ok")
        self.ends(End.CLIENT, told("220 Hello."), asks("NOOP"), told("200 ok"))

    def test_violations(self) -> None:
        """What cannot be understood ends the session, whoever sent it (Requirement 3, 4)."""
        for end in (End.CLIENT, End.BACKEND):
            self.log_in()
            violated = self.session.client_violated
            if end is End.BACKEND:
                violated = self.session.backend_violated
            self.comes(violated("sent rubbish"))
            self.ends(end, told(bytes(UNAVAILABLE).decode().strip()))
