"""Tests of the uplink's contract: the type and the bound of every argument."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

import relaygate
from relaygate import commands
from relaygate.arguments import BadArgument, Flag, Number, Octets, Rows, Text
from relaygate.listpush import pages_of
from relaygate.test.properties import given, st
from relaygate.test.wire import boxes

MAX_AMP_VALUE = 65_535

SERVICE = {
    "name": "sftp",
    "protocol": "ssh",
    "host": "0.0.0.0",
    "port": 22,
    "tls_channel": False,
    "max_sessions": 0,
    "max_sessions_per_address": 0,
    "balance": "round-robin",
    "persistence": 0,
    "max_rate": 0,
    "max_rate_per_address": 0,
    "allow": "0" * 32,
    "deny": None,
    "map_first": None,
    "map_last": None,
    "map_peers": None,
    "map_tls": None,
}


def arguments() -> Iterator[tuple[str, amp.Argument]]:
    """Every argument of every command and answer, records of lists included."""
    for command in commands.ALL.values():
        for part, fields in (("asks", command.arguments), ("answers", command.response)):
            for name, argument in fields:
                path = f"{command.__name__} {part} {name.decode()}"
                yield path, argument
                if isinstance(argument, Rows):
                    for inner, subargument in argument.subargs:
                        yield f"{path} {inner.decode()}", subargument


def parse(argument: amp.Argument, data: bytes) -> Any:
    """Read *data* as AMP would."""
    return argument.fromStringProto(data, None)


class ContractTests(SynchronousTestCase):
    """The page as a whole."""

    def test_every_argument_is_bounded(self) -> None:
        """No argument is of a type that takes whatever comes."""
        for path, argument in arguments():
            self.assertIsInstance(argument, (Text, Number, Flag, Rows, Octets), path)

    def test_every_command_declares_the_same_errors(self) -> None:
        """Each error has a code of its own, and every command declares all of them."""
        self.assertEqual(len(set(commands.ERRORS.values())), len(commands.ERRORS))
        for command in commands.ALL.values():
            self.assertEqual(command.errors, commands.ERRORS, command.__name__)

    def test_versions_are_in_the_alpn_names(self) -> None:
        """A node of another major version is refused in the TLS handshake already."""
        self.assertEqual(commands.ALPN_UPLINK, b"relaygate/%d" % commands.MAJOR)
        self.assertEqual(commands.ALPN_CHANNEL, b"relaygate-channel/%d" % commands.MAJOR)

    def test_full_pages_fit(self) -> None:
        """As many of the longest services as a configuration can hold fit in the pages."""
        address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        most = 2**31
        longest = SERVICE | {
            "name": "n" * 63,
            "protocol": "https",
            "host": address,
            "port": 65_535,
            "max_sessions": most,
            "max_sessions_per_address": most,
            "balance": "least-sessions",
            "persistence": most,
            "map_first": 50_000,
            "map_last": 50_999,
            "map_peers": "n" * 200,
            "map_tls": False,
            "max_rate": most,
            "max_rate_per_address": most,
            "deny": "0" * 32,
        }
        rows = dict(commands.Declare.arguments)[b"services"]
        pages = pages_of([longest] * 1024)
        self.assertLessEqual(len(pages), commands.MAX_PAGES)
        for page in pages:
            data: bytes = rows.toStringProto(page, None)
            self.assertLessEqual(len(data), MAX_AMP_VALUE)
            self.assertEqual(parse(rows, data), page)
        self.assertEqual(sum(map(len, pages)), 1024)

    def test_pages_are_full(self) -> None:
        """Short services fill a page, and none at all are one page, too."""
        self.assertEqual([len(page) for page in pages_of([SERVICE] * 250)], [100, 100, 50])
        self.assertEqual(pages_of([]), [[]])

    def test_a_full_answer_fits(self) -> None:
        """An answer that refuses a whole page with the longest reasons fits in one AMP value."""
        self.fits(commands.Declare.response, "refused", {"name": "n" * 63, "reason": "r" * 256})

    def fits(self, fields: commands.Fields, name: str, row: dict[str, object]) -> None:
        """Check that a full list of *row* is written, is short enough, and is read again."""
        rows = dict(fields)[name.encode()]
        full = [row] * commands.SERVICES_PER_PAGE
        data: bytes = rows.toStringProto(full, None)
        self.assertLessEqual(len(data), MAX_AMP_VALUE)
        self.assertEqual(parse(rows, data), full)

    def test_all_services_fit_in_the_pages(self) -> None:
        """As many services as a configuration may hold (1024) have room in the pages."""
        self.assertGreaterEqual(commands.MAX_PAGES * commands.SERVICES_PER_PAGE, 1024)

    def test_the_documentation_has_all_of_it(self) -> None:
        """The page docs/protocol.md names every command, argument, bound, error and ALPN name."""
        page = (Path(relaygate.__file__).parents[1] / "docs" / "protocol.md").read_text()
        parts = re.split(r"^\*\*([A-Z]\w+)\*\*:", page, flags=re.MULTILINE)
        sections = dict(zip(parts[1::2], parts[2::2], strict=True))
        self.assertEqual(set(sections), {command.__name__ for command in commands.ALL.values()})
        for path, argument in arguments():
            command, _, *names = path.split()
            row = re.search(rf"^\| .*`{names[-1]}`.*$", sections[command], re.MULTILINE)
            self.assertIsNotNone(row, path)
            assert row is not None
            self.assertIn(self.bound(argument), row[0].replace(",", ""), path)
        for word in (*commands.ERRORS.values(), commands.ALPN_UPLINK, commands.ALPN_CHANNEL):
            self.assertIn(f"| `{word.decode()}` |", page)

    def bound(self, argument: amp.Argument) -> str:
        """How the page writes the bound of *argument*."""
        if isinstance(argument, Text):
            return f"text {argument.longest}"
        if isinstance(argument, Rows):
            return f"list {argument.most}"
        if isinstance(argument, Flag):
            return "flag"
        if isinstance(argument, Octets):
            return f"bytes {argument.most}"
        assert isinstance(argument, Number)
        power = argument.most.bit_length() - 1
        most = f"2^{power}" if power > 16 else str(argument.most)
        return f"number {argument.least} to {most}"


class ArgumentTests(SynchronousTestCase):
    """What each type takes and refuses."""

    def refuses(self, argument: amp.Argument, *values: bytes) -> None:
        """Check that each of *values* raises BadArgument."""
        for value in values:
            self.assertRaises(BadArgument, parse, argument, value)

    def test_text(self) -> None:
        """A text is printable UTF-8, and its bound counts characters."""
        text = Text(4)
        self.assertEqual(parse(text, "äöü€".encode()), "äöü€")
        self.assertEqual(parse(text, b""), "")
        self.refuses(text, b"12345", b"\xff", b"a\nb", b"\x1b[m", "a\u2028b".encode(), b"\0")

    def test_number(self) -> None:
        """A number is decimal digits within its bounds, nothing else that Python would take."""
        number = Number(1, 1000)
        self.assertEqual(parse(number, b"1"), 1)
        self.assertEqual(parse(number, b"1000"), 1000)
        self.refuses(number, b"", b"0", b"1001", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"0x1", b"1.0")
        self.refuses(number, "\u0661".encode(), b"0" * 20 + b"1", b"9" * 60_000)

    def test_flag(self) -> None:
        """A flag is one of two words."""
        self.assertIs(parse(Flag(), b"True"), True)
        self.assertIs(parse(Flag(), b"False"), False)
        self.refuses(Flag(), b"", b"true", b"1", b"Truee", b"\xff")

    def test_rows(self) -> None:
        """A list holds whole records, each with all its fields, and not too many of them."""
        rows = Rows([(b"a", Number(0, 9))], 2)
        one = amp.AmpBox({b"a": b"1"}).serialize()
        self.assertEqual(parse(rows, b""), [])
        self.assertEqual(parse(rows, one * 2), [{"a": 1}] * 2)
        self.refuses(rows, one * 3)
        self.refuses(rows, amp.AmpBox({b"b": b"1"}).serialize())
        self.refuses(rows, amp.AmpBox({b"a": b"10"}).serialize())
        self.refuses(rows, b"\xff\xff" + b"x" * 400)

    def test_newer_fields_are_ignored(self) -> None:
        """A record with a field that this version does not know is read without it."""
        rows = Rows([(b"a", Number(0, 9))], 2)
        newer = amp.AmpBox({b"a": b"1", b"new": b"x"}).serialize()
        self.assertEqual(parse(rows, newer), [{"a": 1}])

    @given(st.binary(max_size=80))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes in the place of any argument raise only BadArgument."""
        for _, argument in arguments():
            try:
                parse(argument, data)
            except BadArgument:
                pass

    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from([name.replace("_", "-").encode() for name in SERVICE])
                | st.binary(min_size=1, max_size=8),
                st.sampled_from([b"1", b"True", b"ssh"]) | st.binary(max_size=20),
                min_size=1,
            ),
            max_size=4,
        )
    )
    def test_any_records(self, records: list[dict[bytes, bytes]]) -> None:
        """Any records in the place of the services raise only BadArgument."""
        services = dict(commands.Declare.arguments)[b"services"]
        data = b"".join(amp.AmpBox(record).serialize() for record in records)
        self.assertEqual(boxes(data), records)
        try:
            rows = parse(services, data)
        except BadArgument:
            return
        self.assertEqual(len(rows), len(records))
