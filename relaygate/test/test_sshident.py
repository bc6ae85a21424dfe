"""Tests of the SSH identification reader against RFC 4253, section 4.2."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.sshident import (
    MAX_IDENTIFICATION,
    MAX_PREFACE,
    MAX_PREFACE_LINES,
    IdentificationReader,
    NotSSH,
)
from relaygate.test.parsercases import Outcome, ParserCases
from relaygate.test.properties import given, st


def reader_cases(*, preface: bool) -> ParserCases[IdentificationReader]:
    """Make the cases of a reader of a server's bytes (with preface) or a client's."""
    return ParserCases(
        make=lambda: IdentificationReader(preface=preface),
        receive=lambda reader, data: reader.receive(data),
        found=lambda reader: reader.identification,
        violation=NotSSH,
    )


CLIENT = reader_cases(preface=False)
SERVER = reader_cases(preface=True)

NEARLY_SSH = st.lists(
    st.sampled_from(
        [b"SSH-", b"2.0-", b"1.99-", b"1.5-", b"S", b"-", b"\r", b"\n", b"\0", b"x" * 80, b"\xe9"]
    )
    | st.binary(max_size=4),
    max_size=20,
).map(b"".join)
"""Bytes that come close to an identification far more often than chance would."""

ANY_INPUT = st.binary(max_size=400) | NEARLY_SSH


class IdentificationTests(SynchronousTestCase):
    """What either side may send."""

    def assert_passes(
        self, cases: ParserCases[IdentificationReader], data: bytes, identification: bytes
    ) -> None:
        """Check that all bytes pass unchanged and that the identification is found."""
        self.assertEqual(cases.check(data), Outcome(tuple(data), identification))

    def test_verbatim(self) -> None:
        """Identifications that real products send pass unchanged (Requirement 45)."""
        for identification in (
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10",
            b"SSH-2.0-mod_sftp",
            b"SSH-2.0-Go",
            b"SSH-2.0-JSCH-0.1.54",
            b"SSH-2.0-9.99 sshlib: Server, all rights reserved.",
            b"SSH-1.99-Cisco-1.25",
            b"SSH-2.0-",
            "SSH-2.0-Server Büro".encode(),
            "SSH-2.0-Server Büro".encode("latin-1"),
        ):
            for end in (b"\r\n", b"\n"):
                for cases in (CLIENT, SERVER):
                    self.assert_passes(cases, identification + end, identification)

    def test_preface(self) -> None:
        """A server may send other lines first (Requirement 45)."""
        for preface in (
            b"Authorised use only.\r\n\r\nS\r\nSS\nSSH\nssh-2.0-x\r\n \r\n",
            b"\n",
            "Nur für Befugte\r\n".encode("latin-1"),
            b"relaygate: no server available\r\n",
        ):
            self.assert_passes(SERVER, preface + b"SSH-2.0-x\r\n", b"SSH-2.0-x")

    def test_longest(self) -> None:
        """255 bytes with the line's end are allowed and 256 are not."""
        for end in (b"\r\n", b"\n"):
            longest = b"SSH-2.0-".ljust(MAX_IDENTIFICATION - len(end), b"x")
            self.assert_passes(CLIENT, longest + end, longest)
            error = CLIENT.check(longest + b"x" + end).error
            self.assertEqual(error, "sent an SSH identification of more than 255 bytes")

    def test_longest_preface(self) -> None:
        """The bound on the preface is on its bytes, however long its lines are."""
        preface = b"SS".ljust(MAX_PREFACE - 1, b"x") + b"\n"
        self.assert_passes(SERVER, preface + b"SSH-2.0-x\n", b"SSH-2.0-x")
        error = SERVER.check(b"SSx" + preface + b"SSH-2.0-x\n").error
        self.assertEqual(error, "sent more than 16384 bytes before its SSH identification")

    def test_most_preface_lines(self) -> None:
        """64 lines may come before the identification and 65 may not."""
        preface = b"\r\n" * MAX_PREFACE_LINES
        self.assert_passes(SERVER, preface + b"SSH-2.0-x\n", b"SSH-2.0-x")
        error = SERVER.check(preface + b"\r\nSSH-2.0-x\n").error
        self.assertEqual(error, "sent more than 64 lines before its SSH identification")

    def test_client_without_preface(self) -> None:
        """A client that speaks another protocol is refused at the first byte that tells."""
        for data, shown in (
            (b"GET / HTTP/1.1\r\n\r\n", b"G"),
            (b"\x16\x03\x01\x02\x00", b"\x16"),
            (b"\r\nSSH-2.0-x\r\n", b"\r"),
            (b"SSh-2.0-x\r\n", b"SSh"),
        ):
            error = CLIENT.check(data).error
            self.assertEqual(error, f"sent {shown!r} where its SSH identification must begin")

    def test_versions(self) -> None:
        """Versions other than 2.0 and 1.99 are refused on both sides, as SSH 1 is."""
        for data, shown in (
            (b"SSH-1.5-old\r\n", b"SSH-1.5"),
            (b"SSH-2.1-new\r\n", b"SSH-2.1"),
            (b"SSH-2.0\r\n", b"SSH-2.0\r"),
            (b"SSH-1.999-x\r\n", b"SSH-1.999"),
            (b"SSH-\r\n", b"SSH-\r"),
        ):
            for cases in (CLIENT, SERVER):
                error = cases.check(data).error
                self.assertEqual(error, f"sent {shown!r}, which is neither SSH 2.0 nor 1.99")

    def test_control_characters(self) -> None:
        """Control characters, and a CR before anything but LF, have no place in it."""
        for data in (b"a\rb\r\n", b"a\r\r\n", b"a\x1b[2J\r\n", b"a\tb\r\n", b"a\x7f\r\n"):
            for cases in (CLIENT, SERVER):
                error = cases.check(b"SSH-2.0-" + data).error
                self.assertEqual(error, "sent a control character in its SSH identification")

    def test_nul(self) -> None:
        """NUL is refused wherever it stands before the line's end."""
        for data in (b"\0", b"SSH-2\0", b"SSH-2.0-x\0\r\n"):
            for cases in (CLIENT, SERVER):
                error = cases.check(data).error
                self.assertEqual(error, "sent a NUL byte before its SSH identification was whole")
        self.assertIn("NUL", SERVER.check(b"hello\0\r\nSSH-2.0-x\r\n").error or "")

    def test_cut_short(self) -> None:
        """An end before the identification is whole is told from a whole one."""
        for cases, data in (
            (CLIENT, b""),
            (CLIENT, b"SS"),
            (CLIENT, b"SSH-2.0-x\r"),
            (SERVER, b"220 ftp.example ready\r\n"),
            (SERVER, b"SSL"),
            (SERVER, b"Welcome\r\nSSH-2.0"),
        ):
            outcome = cases.check(data)
            self.assertTrue(outcome.cut_short)
            self.assertIn(f"ended after {len(data)} bytes,", outcome.error or "")


class PassingTests(SynchronousTestCase):
    """When bytes are passed on."""

    def test_client_start_is_held(self) -> None:
        """A server never sees the beginning of another protocol."""
        reader = IdentificationReader(preface=False)
        self.assertEqual(reader.receive(b"S"), b"")
        self.assertEqual(reader.receive(b"SH"), b"")
        self.assertEqual(reader.receive(b"-2"), b"SSH-2")
        self.assertEqual(reader.receive(b"."), b".")

    def test_server_is_not_held(self) -> None:
        """What a server sends passes at once, for either side may speak first (Requirement 45)."""
        reader = IdentificationReader(preface=True)
        for piece in (b"S", b"SX", b" part of a line", b"\r", b"\n", b"S", b"SH-2.0-", b"x"):
            self.assertEqual(reader.receive(piece), piece)

    def test_rest(self) -> None:
        """Bytes behind the line are left for the caller, and later ones come back as they are."""
        reader = IdentificationReader(preface=False)
        self.assertEqual(reader.receive(b"SSH-2.0-x\r\n\0\0\1\2"), b"SSH-2.0-x\r\n")
        self.assertEqual(reader.rest, b"\0\0\1\2")
        self.assertEqual(reader.receive(b"\0SSH-1.5\n"), b"\0SSH-1.5\n")
        self.assertEqual(reader.identification, b"SSH-2.0-x")
        reader.end()


class PropertyTests(SynchronousTestCase):
    """What holds for any bytes."""

    @given(ANY_INPUT, st.booleans())
    def test_any_bytes(self, data: bytes, preface: bool) -> None:
        """Any bytes give one result however they are cut, and raise nothing but NotSSH."""
        outcome = reader_cases(preface=preface).check(data)
        if outcome.error is None:
            passed = bytes(byte for byte in outcome.events if isinstance(byte, int))
            self.assertEqual(passed + outcome.rest, data)
        else:
            self.assertTrue(outcome.error.isascii() and outcome.error.isprintable())
            self.assertLessEqual(len(outcome.error), 120)

    @given(st.lists(ANY_INPUT, max_size=6), st.booleans())
    def test_any_cuts(self, pieces: list[bytes], preface: bool) -> None:
        """Pieces of any sizes give the result of the whole, also for streams that are good."""
        cases = reader_cases(preface=preface)
        pieces = [b"SS", b"H-2.0-", *pieces, b"\n"]
        self.assertEqual(cases.outcome(pieces), cases.outcome([b"".join(pieces)]))

    @given(st.lists(ANY_INPUT, max_size=6))
    def test_nothing_foreign_passes(self, pieces: list[bytes]) -> None:
        """Whatever a client's bytes lead to, those that were passed on begin with SSH-."""
        reader = IdentificationReader(preface=False)
        passed = b""
        try:
            for piece in pieces:
                passed += reader.receive(piece) + reader.rest
        except NotSSH:
            pass
        self.assertTrue(passed == b"" or passed.startswith(b"SSH-"))


class BoundsTests(SynchronousTestCase):
    """What a spiteful sender costs."""

    def test_memory(self) -> None:
        """A reader keeps no more than one identification line, however long the preface."""
        reader = IdentificationReader(preface=True)
        for _ in range(MAX_PREFACE // 1024 - 1):
            reader.receive(b"x" * 1024)
        kept = [len(v) for v in vars(reader).values() if isinstance(v, bytes | bytearray)]
        self.assertLessEqual(sum(kept), MAX_IDENTIFICATION)


class ForgetfulReader(IdentificationReader):
    """A reader with a common mistake: it looks for the line in one piece alone."""

    def receive(self, data: bytes) -> bytes:
        self._line.clear()
        return super().receive(data)


class ParserCasesTests(SynchronousTestCase):
    """Whether the helper of these tests notices anything."""

    def test_notices_dependence_on_pieces(self) -> None:
        """A parser that depends on how its input was cut does not get through."""
        cases = ParserCases(
            make=lambda: ForgetfulReader(preface=False),
            receive=lambda reader, data: reader.receive(data),
            found=lambda reader: reader.identification,
            violation=NotSSH,
        )
        self.assertRaises(AssertionError, cases.check, b"SSH-2.0-x\r\n")
