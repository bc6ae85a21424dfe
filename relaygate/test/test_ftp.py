"""Tests of the readers and writers of FTP's control connection."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.ftp import (
    MAX_COMMAND,
    MAX_DROPPED,
    MAX_REPLY,
    TOO_LONG,
    BadLine,
    Command,
    CommandReader,
    FTPViolation,
    Reply,
    ReplyReader,
)
from relaygate.test.parsercases import Outcome, ParserCases, cuts
from relaygate.test.properties import given, st


def command_cases(*, telnet: bool = True) -> ParserCases[CommandReader]:
    """Make the cases of a command reader; a stream of commands is never finished."""
    return ParserCases(
        make=lambda: CommandReader(telnet=telnet),
        receive=lambda reader, data: reader.receive(data),
        found=lambda reader: None,
        violation=FTPViolation,
    )


TELNET = command_cases()
RAW = command_cases(telnet=False)
REPLIES: ParserCases[ReplyReader] = ParserCases(
    make=ReplyReader,
    receive=lambda reader, data: reader.receive(data),
    found=lambda reader: None,
    violation=FTPViolation,
)


def every_way(cases: ParserCases[CommandReader] | ParserCases[ReplyReader], data: bytes) -> Outcome:
    """Run one input however it may be cut, and return the one outcome that it has."""
    whole = cases.outcome([data])
    for pieces in cuts(data):
        if cases.outcome(pieces) != whole:
            raise AssertionError(f"{data!r} cut to {pieces!r} is not what it is whole")
    return whole


def commands(data: bytes, *, telnet: bool = True) -> list[object]:
    """Read *data*, which is good, in every way."""
    outcome = every_way(TELNET if telnet else RAW, data)
    assert outcome.error is None, outcome.error
    return list(outcome.events)


class CommandTests(SynchronousTestCase):
    """What a client sends."""

    def test_lines(self) -> None:
        """CRLF and LF end a command, and CRLF is what is sent on (Requirement 1)."""
        self.assertEqual(
            commands(b"USER joe\r\nPASS  two words \nNOOP\r\nSTAT \r\nMd5 \xfe\n"),
            [
                Command("USER", b"joe"),
                Command("PASS", b" two words "),
                Command("NOOP"),
                Command("STAT", b""),
                Command("MD5", b"\xfe"),
            ],
        )

    def test_bytes(self) -> None:
        """A command is written as it was read, with CRLF behind it (Requirement 1, 12)."""
        for line in (b"RETR na\xefve \xe2\x82\xac.txt", b"NOOP", b"STAT ", b"PASS -x y"):
            (command,) = commands(line + b"\n")
            self.assertEqual(bytes(command), line + b"\r\n")  # type: ignore[call-overload]

    def test_splitting_bytes(self) -> None:
        """CR, LF and NUL inside a command are answered 501 and never come out (Requirement 1)."""
        for line in (b"RETR a\rDELE b", b"RETR a\0b", b"RETR a\r\0b", b"RETR a\r", b"\0", b"a\rb"):
            (bad,) = commands(line + b"\r\n")
            assert isinstance(bad, BadLine)
            self.assertEqual(bad.code, 501)
            with self.assertRaises(ValueError):
                Command("RETR", b"a" + line)
        with self.assertRaises(ValueError):
            Command("RETR", b"a\nb")

    def test_verbs(self) -> None:
        """What is no verb is answered 500: a server could read another verb in it."""
        for line in (
            b"",
            b" USER a",
            b"PORT,1,2,3,4,5,6",
            b"PORT\t1,2,3,4,5,6",
            b"P@SW",
            b"\x16\x03\x01",
            b"PAS\xd6",
            b"8BALL",
            b"XSHA1A x",
            b"Host: example",
        ):
            (bad,) = commands(line + b"\r\n")
            assert isinstance(bad, BadLine), line
            self.assertEqual(bad.code, 500)
        self.assertEqual(commands(b"xsha256 a\n"), [Command("XSHA256", b"a")])
        for verb in ("user", "PORT ", "", "P-T", "USER\n"):
            with self.assertRaises(ValueError):
                Command(verb)

    def test_limit(self) -> None:
        """The longest command passes, and one byte more is told once (Requirement 3)."""
        longest = b"RETR ".ljust(MAX_COMMAND, b"x")
        for end in (b"\r\n", b"\n"):
            self.assertEqual(commands(longest + end), [Command("RETR", longest[5:])])
            found = commands(longest + b"x" + end + b"NOOP" + end)
            self.assertEqual(found, [TOO_LONG, Command("NOOP")])
            again = every_way(TELNET, (longest + b"x" + end) * 2)
            self.assertEqual(again.error, "sent a second line of more than 8192 bytes")
            self.assertFalse(again.cut_short)

    def test_endless_line(self) -> None:
        """A line without an end is told at its limit and refused soon after (Requirement 3)."""
        reader = CommandReader()
        self.assertEqual(reader.receive(b"x" * (MAX_COMMAND + 1)), [])
        self.assertEqual(reader.receive(b"x"), [TOO_LONG])
        self.assertEqual(reader.receive(b"x" * (MAX_DROPPED - MAX_COMMAND - 2)), [])
        self.assertEqual(reader.rest, b"")
        self.assertRaises(FTPViolation, reader.receive, b"x")
        for end in (b"", b"\n"):
            outcome = every_way(TELNET, b"x" * (MAX_DROPPED + 1) + end)
            self.assertEqual(outcome.error, "sent a line of more than 32768 bytes")

    def test_linear(self) -> None:
        """Byte by byte costs no more than a look at each byte, where a slow sender is alone."""
        reader = CommandReader(telnet=False)
        looked = 0

        class Watched(bytearray):
            """Counts the bytes that are searched."""

            def find(self, sought: bytes, start: int = 0) -> int:  # type: ignore[override]
                nonlocal looked
                looked += len(self) - start
                return super().find(sought, start)

        reader._line = Watched()
        for _ in range(MAX_COMMAND):
            reader.receive(b"x")
        self.assertEqual(looked, MAX_COMMAND)

    def test_cut_short(self) -> None:
        """An end inside a command is told from an end between two."""
        for data in (b"US", b"NOOP\r", b"NOOP\r\nQ", b"\xff", b"\xff\xfa", b"x" * 9000):
            self.assertTrue(every_way(TELNET, data).cut_short, data)
        for data in (b"", b"NOOP\n"):
            self.assertIsNone(every_way(TELNET, data).error)

    def test_rest(self) -> None:
        """What has come behind the last whole command can be seen (Requirement 30)."""
        reader = CommandReader()
        for data, rest in (
            (b"AUTH TLS\r\n", b""),
            (b"FE", b"FE"),
            (b"AT\n", b""),
            (b"\xff", b"\xff"),
        ):
            reader.receive(data)
            self.assertEqual(reader.rest, rest)


class TelnetTests(SynchronousTestCase):
    """Telnet inside FTP."""

    def test_abort(self) -> None:
        """Interrupt and data mark in front of ABOR vanish (Requirement 2)."""
        for before in (b"\xff\xf4\xff\xf2", b"\xff\xf4", b"\xff\xf2"):
            self.assertEqual(commands(before + b"ABOR\r\n"), [Command("ABOR")])

    def test_pieces_of_telnet(self) -> None:
        """What urgent sending has left of telnet in front of a verb vanishes (Requirement 2)."""
        for before in (b"\xf4\xff", b"\xf4\xf2", b"\xff\xf4\xf2", b"\xf2"):
            self.assertEqual(commands(before + b"abor\r\n"), [Command("ABOR")])
            (bad,) = commands(before + b"abor\r\n", telnet=False)
            self.assertIsInstance(bad, BadLine)

    def test_negotiations(self) -> None:
        """Options and their texts vanish wherever they stand (Requirement 2)."""
        data = b"\xff\xfb\x01US\xff\xfe\xffER a\xff\xfa\x18\x00x\r\n\xff\xff\xff\xf0b\xff\xf1\r\n"
        self.assertEqual(commands(data), [Command("USER", b"ab")])

    def test_escaped(self) -> None:
        """A doubled 255 is one in a path; a single one in front of text stays (Requirement 2)."""
        self.assertEqual(commands(b"RETR \xff\xff\xf4\n"), [Command("RETR", b"\xff\xf4")])
        self.assertEqual(commands(b"RETR \xffa\n"), [Command("RETR", b"\xffa")])
        self.assertEqual(commands(b"RETR a\xff\r\n"), [Command("RETR", b"a\xff")])

    def test_switched_off(self) -> None:
        """Without telnet every byte of a name is the name's (Requirement 2)."""
        name = b"\xff\xf4\xff\xff\xff\xfb"
        self.assertEqual(commands(b"RETR " + name + b"\n", telnet=False), [Command("RETR", name)])

    def test_endless_negotiation(self) -> None:
        """An option's text that does not end is refused."""
        outcome = every_way(TELNET, b"\xff\xfa" + b"x" * (MAX_COMMAND + 1))
        self.assertEqual(outcome.error, "sent a telnet negotiation without an end")
        self.assertFalse(outcome.cut_short)


def replies(data: bytes) -> list[Reply]:
    """Read *data*, which is good, in every way."""
    outcome = every_way(REPLIES, data)
    assert outcome.error is None, outcome.error
    return [event for event in outcome.events if isinstance(event, Reply)]


class ReplyTests(SynchronousTestCase):
    """What a server sends."""

    def test_one_line(self) -> None:
        """A code with or without a text is a reply, whatever its line's end (Requirement 4)."""
        found = replies(b"220 hello\r\n331 \n200\r\n150 caf\xe9\n")
        self.assertEqual([reply.code for reply in found], [220, 331, 200, 150])
        self.assertEqual([reply.text for reply in found], [b"hello", b"", b"", b"caf\xe9"])
        self.assertEqual([reply.preliminary for reply in found], [False, False, False, True])
        self.assertEqual(
            b"".join(map(bytes, found)), b"220 hello\r\n331 \r\n200\r\n150 caf\xe9\r\n"
        )

    def test_many_lines(self) -> None:
        """Only the same code and a space end a reply of many lines (Requirement 4)."""
        lines = (
            b"211-Status",
            b"211-more",
            b" 211 not yet",
            b"220 nor this",
            b"2110 nor this",
            b"211",
            b"",
            b"\xff\x00 any bytes",
            b"211 End",
        )
        for end in (b"\r\n", b"\n"):
            (reply, after) = replies(end.join(lines) + end + b"200 ok" + end)
            self.assertEqual(reply, Reply(211, lines))
            self.assertEqual(bytes(reply), b"\r\n".join(lines) + b"\r\n")
            self.assertEqual(after.code, 200)

    def test_no_reply(self) -> None:
        """What does not begin with a code is not FTP (Requirement 31)."""
        for data in (b"hello\n", b"\n", b"22 x\n", b"2200 x\n", b"600 x\n", b"020 x\n", b"2x0 x\n"):
            self.assertEqual(every_way(REPLIES, data).error, "sent a line without a reply's code")

    def test_limit(self) -> None:
        """A reply that is too long is refused, in one line or in many (Requirement 4)."""
        for data in (b"220-\n" + b"x" * 99 + b"\n", b"220 "):
            reader = ReplyReader()
            with self.assertRaises(FTPViolation):
                for _ in range(MAX_REPLY // 100 + 2):
                    self.assertEqual(reader.receive(data), [])
                    data = b"y" * 99 + (b"\n" if data.endswith(b"\n") else b"y")
        fitting = b"213-\r\n".ljust(MAX_REPLY - 8, b"x") + b"\n213 x\r\n"
        self.assertEqual(len(ReplyReader().receive(fitting)), 1)

    def test_cut_short(self) -> None:
        """An end inside a reply is told from an end between two (Requirement 31)."""
        for data in (b"2", b"220 x\r", b"220-x\r\n", b"220-x\n220-y\n2"):
            self.assertTrue(every_way(REPLIES, data).cut_short)

    def test_rest(self) -> None:
        """What has come behind the last whole reply can be seen (Requirement 31)."""
        reader = ReplyReader()
        for data, rest in ((b"234 go\r\n", b""), (b"230", b"230"), (b"-a\nb", b"230-a\nb")):
            reader.receive(data)
            self.assertEqual(reader.rest, rest)

    def test_own(self) -> None:
        """Replies of our own are read as they are written (Requirement 4)."""
        for reply in (
            Reply.of(421, "Closing."),
            Reply.of(211, "Features:", "UTF8", "220 x", "End"),
        ):
            self.assertEqual(replies(bytes(reply)), [reply])


NEARLY = st.lists(
    st.sampled_from(
        [b"USER ", b"220", b"-", b" ", b"\r", b"\n", b"\r\n", b"\0", b"\xff", b"\xf4", b"\xfa"]
    )
    | st.binary(max_size=4),
    max_size=24,
).map(b"".join)
"""Bytes that come close to lines far more often than chance would."""


class PropertyTests(SynchronousTestCase):
    """What holds for any bytes."""

    @given(NEARLY, st.booleans())
    def test_commands(self, data: bytes, telnet: bool) -> None:
        """Any bytes have one meaning, and every command is read back as it is written."""
        outcome = every_way(command_cases(telnet=telnet), data)
        for event in outcome.events:
            if isinstance(event, Command):
                self.assertEqual(CommandReader(telnet=False).receive(bytes(event)), [event])
                self.assertEqual(bytes(event).count(b"\n"), 1)
                self.assertLessEqual(len(bytes(event)), MAX_COMMAND + 2)

    @given(NEARLY)
    def test_replies(self, data: bytes) -> None:
        """Any bytes have one meaning, and every reply is read back as it is written."""
        outcome = every_way(REPLIES, data)
        self.assert_round(outcome.events)

    @given(st.integers(100, 599), st.lists(st.binary(max_size=8), max_size=6))
    def test_any_lines(self, code: int, inner: list[bytes]) -> None:
        """A reply of many lines comes out as it went in, whatever stands in it (Requirement 4)."""
        head = str(code).encode()
        lines = [b"%s-" % head, *(b" " + line.replace(b"\n", b"") for line in inner), head + b" "]
        lines = [line.removesuffix(b"\r") for line in lines]
        (reply,) = replies(b"\r\n".join(lines) + b"\r\n")
        self.assertEqual(reply, Reply(code, tuple(lines)))

    def assert_round(self, events: Iterable[object]) -> None:
        """Every reply among *events* is what its own bytes are read as."""
        for event in events:
            assert isinstance(event, Reply)
            self.assertEqual(ReplyReader().receive(bytes(event)), [event])
