"""Tests of the addresses in FTP's commands and replies."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.ftp import Reply, ReplyReader
from relaygate.protocols.ftpaddr import (
    BadSyntax,
    Forbidden,
    FTPAddressError,
    WrongFamily,
    eprt_argument,
    extended_passive_reply,
    is_ipv4,
    parse_eprt,
    parse_epsv,
    parse_port,
    passive_port,
    passive_reply,
    port_argument,
)
from relaygate.test.properties import example, given, st

V4 = "192.0.2.7"
V6 = "2001:db8::7"

HOSTS4 = st.ip_addresses(v=4).map(str)
HOSTS6 = st.ip_addresses(v=6).map(str).filter(lambda host: not is_ipv4(host))
PORTS = st.integers(1024, 65535)


def reply(*lines: bytes) -> Reply:
    """Make a server's reply out of its lines, as a reader does."""
    (found,) = ReplyReader().receive(b"".join(line + b"\r\n" for line in lines))
    return found


class PassiveTests(SynchronousTestCase):
    """What a server answers to PASV and EPSV."""

    def test_227(self) -> None:
        """The six numbers are found in any text, with or without brackets (Requirement 16)."""
        for text in (
            b"227 Entering Passive Mode (10,0,0,5,8,1).",
            b"227 Entering Passive Mode (10,0,0,5,8,1)",
            b"227 Entering Passive Mode. 10,0,0,5,8,1",
            b"227 =10,0,0,5,8,1",
            b"227 Server 2 says: 10, 0, 0, 5, 8, 1 or so",
            b"227 caf\xe9 (0,0,0,0,8,1)",
            b"227 (010,000,000,005,008,001)",
            b"227 10,0,0,5,8,1,99",
        ):
            self.assertEqual(passive_port(reply(text)), 2049, text)

    def test_227_of_many_lines(self) -> None:
        """Of a 227 with many lines the first numbers count (Requirement 4, 16)."""
        found = reply(b"227-Entering", b" (1,2,3,4,8,1)", b"227 (1,2,3,4,9,9)")
        self.assertEqual(passive_port(found), 2049)

    def test_bad_227(self) -> None:
        """Numbers that are none of an address are not repaired by others (Requirement 16)."""
        for text in (
            b"227 Entering Passive Mode",
            b"227 (1,2,3,4,5)",
            b"227 (1216,256,2,127,127,127)",
            b"227 (1,2,3,4,256,1) (1,2,3,4,8,1)",
            b"227 (1,2,3,4,0,0)",
            b"227 (1,2,3,4,8,-1)",
            b"227 (|||2049|)",
            b"200 (1,2,3,4,8,1)",
        ):
            self.assertRaises(BadSyntax, passive_port, reply(text))

    def test_229(self) -> None:
        """Any delimiter will do, and the code decides how it is read (Requirement 16, 18)."""
        for text in (
            b"229 Entering Extended Passive Mode (|||2049|)",
            b"229 Entering Extended Passive Mode (|||2049|).",
            b"229 (!!!2049!)",
            b"229 (1112049|1|) (~~~2049~)",
            b"229 Ok (|1|192.0.2.9|2049|)",
            b"229 ((((2049() (...2049.)",
        ):
            self.assertEqual(passive_port(reply(text)), 2049, text)
        found = reply(b"229-Wait", b"229 (|||2049|)")
        self.assertEqual(passive_port(found), 2049)

    def test_bad_229(self) -> None:
        """A 229 without a port is an error of the same family (Requirement 18)."""
        for text in (
            b"229 Entering Extended Passive Mode",
            b"229 (|||0|)",
            b"229 (|||65536|)",
            b"229 (|||x|)",
            b"229 (||2049|)",
            b"229 |||2049|",
            b"229 (1,2,3,4,8,1)",
        ):
            self.assertRaises(BadSyntax, passive_port, reply(text))

    @given(HOSTS4, st.integers(1, 65535))
    def test_written_and_read(self, host: str, port: int) -> None:
        """What is written is read back, and stands on one line (Requirement 4)."""
        for written in (passive_reply(host, port), extended_passive_reply(port)):
            self.assertEqual(passive_port(written), port)
            self.assertEqual(len(written.lines), 1)

    def test_no_address_in_229(self) -> None:
        """A 229 names no address, and six numbers cannot name one of IPv6 (Requirement 19)."""
        self.assertIn(b"(|||50000|)", bytes(extended_passive_reply(50000)))
        self.assertIn(b"(192,0,2,1,195,80)", bytes(passive_reply("192.0.2.1", 50000)))
        self.assertRaises(ValueError, passive_reply, V6, 50000)

    @given(
        st.sampled_from([227, 229]), st.binary(max_size=60) | st.text("0123,|(! )").map(str.encode)
    )
    @example(227, b"9" * 100_000)
    @example(227, b"1," * 50_000)
    @example(229, b"(" + b"|" * 100_000)
    @example(229, b"((!" * 30_000)
    def test_any_text(self, code: int, text: bytes) -> None:
        """Any text gives a port or an address error, however long (Requirement 16, 18)."""
        try:
            port = passive_port(Reply(code, (b"%d " % code + text,)))
        except FTPAddressError:
            return
        self.assertTrue(0 < port < 65536)


class ActiveTests(SynchronousTestCase):
    """What a client sends as PORT and EPRT."""

    def assert_refused(
        self,
        parse: Callable[[bytes, str], object],
        client: str,
        error: type[FTPAddressError],
        *arguments: bytes,
    ) -> None:
        """Each of *arguments* is refused with just this error."""
        for argument in arguments:
            failure = self.assertRaises(FTPAddressError, parse, argument, client)
            self.assertIs(type(failure), error, argument)
            self.assertTrue(str(failure).isascii())

    def test_port(self) -> None:
        """The client's own address and a high port are taken (Requirement 24)."""
        self.assertEqual(parse_port(b"192,0,2,7,4,0", V4), 1024)
        self.assertEqual(parse_port(b" 192,000,002,007,255,255 ", "::ffff:192.0.2.7"), 65535)

    def test_bad_port(self) -> None:
        """What is no PORT is 501, or 522 on IPv6 (Requirement 20, 24)."""
        self.assert_refused(
            parse_port,
            V4,
            BadSyntax,
            b"",
            b"192,0,2,7,4",
            b"192,0,2,7,4,0,0",
            b"192,0,2,7,4,256",
            b"192,0,2,7,4,-1",
            b"192.0.2.7,4,0",
            b"192,0,2,7,1.1",
            b"(192,0,2,7,4,0)",
            b"192, 0,2,7,4,0",
            b"192,0,2,7,4,\xb2",
            b"|1|192.0.2.7|2048|",
        )
        self.assert_refused(parse_port, V6, WrongFamily, b"192,0,2,7,4,0", b"")

    def test_bounce(self) -> None:
        """Foreign addresses and low ports are forbidden (Requirement 24)."""
        foreign = (b"192,0,2,8,4,0", b"127,0,0,1,4,0", b"0,0,0,0,4,0", b"10,0,0,1,0,25")
        self.assert_refused(
            parse_port, V4, Forbidden, *foreign, b"192,0,2,7,3,255", b"192,0,2,7,0,0"
        )
        self.assert_refused(
            parse_eprt,
            V4,
            Forbidden,
            b"|1|192.0.2.8|2048|",
            b"|1|127.0.0.1|2048|",
            b"|1|192.0.2.7|1023|",
            b"|1|192.0.2.7|0|",
        )
        self.assert_refused(parse_eprt, V6, Forbidden, b"|2|2001:db8::8|2048|", b"|2|::1|2048|")
        self.assertEqual((Forbidden.code, BadSyntax.code, WrongFamily.code), (501, 501, 522))

    def test_eprt(self) -> None:
        """Either protocol and any delimiter are taken (Requirement 20, 24)."""
        for argument, client in (
            (b"|1|192.0.2.7|2048|", V4),
            (b"|1|192.0.2.7|2048|", "::ffff:192.0.2.7"),
            (b"!1!192.0.2.7!02048!", V4),
            (b"|2|2001:db8::7|2048|", V6),
            (b"|2|2001:DB8:0:0::7|2048|", V6),
            (b"|2|fe80::1|2048|", "fe80::1%eth0"),
        ):
            self.assertEqual(parse_eprt(argument, client), 2048, argument)

    def test_bad_eprt(self) -> None:
        """What is no EPRT is 501, and the other protocol 522 (Requirement 20)."""
        self.assert_refused(
            parse_eprt,
            V4,
            BadSyntax,
            b"",
            b"||",
            b"||||",
            b"|||||",
            b"|1|192.0.2.7|2048",
            b"|1|192.0.2.7|65536|",
            b"|1|192.0.2.7|-1|",
            b"|1|192.0.2.7.5|2048|",
            b"|1|192.0.2.256|2048|",
            b"|1|192.0.02.7|2048|",
            b"|1|2001:db8::7|2048|",
            b"|1|localhost|2048|",
            b"|1||2048|",
            b" 1 192.0.2.7 2048 ",
            b"\x801\x80192.0.2.7\x802048\x80",
            b"|x|192.0.2.7|2048|",
            b"|1|192.0.2.7|2048||",
        )
        self.assert_refused(parse_eprt, V4, WrongFamily, b"|2|2001:db8::7|2048|", b"|3|x|2048|")
        self.assert_refused(parse_eprt, V6, WrongFamily, b"|1|192.0.2.7|2048|")

    def test_epsv(self) -> None:
        """EPSV takes the control connection's protocol, or ALL (Requirement 20)."""
        for argument in (b"", b" ", b"1"):
            self.assertFalse(parse_epsv(argument, V4))
        self.assertFalse(parse_epsv(b"2", V6))
        for argument in (b"ALL", b"all", b" All "):
            self.assertTrue(parse_epsv(argument, V4))
        self.assert_refused(parse_epsv, V4, WrongFamily, b"2", b"3", b"0")
        self.assert_refused(parse_epsv, V6, WrongFamily, b"1")
        self.assert_refused(parse_epsv, V4, BadSyntax, b"x", b"1 1", b"|||2048|")
        failure = self.assertRaises(WrongFamily, parse_epsv, b"1", V6)
        self.assertIn("(2)", str(failure))

    @given(HOSTS4 | HOSTS6, PORTS)
    def test_written_and_read(self, host: str, port: int) -> None:
        """What is written for a backend is what would be taken from a client."""
        self.assertEqual(parse_eprt(eprt_argument(host, port), host), port)
        if is_ipv4(host):
            self.assertEqual(parse_port(port_argument(host, port), host), port)

    @given(st.binary(max_size=60) | st.text("0123,|: .").map(str.encode), st.sampled_from([V4, V6]))
    def test_any_argument(self, argument: bytes, client: str) -> None:
        """Any argument gives a port of the client's own or an address error."""
        for parse in (parse_port, parse_eprt, parse_epsv):
            try:
                found = parse(argument, client)
            except FTPAddressError:
                continue
            if not isinstance(found, bool):
                self.assertTrue(1024 <= found < 65536)
