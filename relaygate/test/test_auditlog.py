"""The audit's lines come back as records, and ``relaygate transfers`` lists and sums them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from unittest import mock

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from relaygate.auditlog import TransferReader, TransferRecord
from relaygate.logs import Format, make_observer
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.sessionlog import log_end, log_event
from relaygate.test.properties import given, st
from relaygate.test.test_cli import call

SESSION = "5f21c09ab3e47d18"
NAMES = ("", "plain", "with blank", "it's", '"quoted"', "'", "a=b path=/x", "\\x41", "é")


class Log:
    """A node's log in memory."""

    def __init__(self, kind: Format) -> None:
        self.stream = io.StringIO()
        observer = make_observer(self.stream, format=kind, level="info")
        self._log = Logger(namespace="relaygate.ftprelay.FTPRelay", observer=observer)

    def session(self, session: str, user: str, *transfers: tuple[str, str, int, int]) -> None:
        """Write a session's lines: a log-in, *transfers* (verb, path, bytes, code), and its end."""
        fields = {"session": session, "service": "ftp", "client": "203.0.113.2:4000"}
        if user:
            log_event(self._log, "login", usual=True, **fields, user=user, result="ok", code=230)
            log_event(
                self._log, "login", usual=False, **fields, user="no", result="refused", code=530
            )
        for verb, path, size, code in transfers:
            log_event(
                self._log,
                "transfer",
                usual=code < 400,
                **fields,
                verb=verb,
                path=path,
                direction="upload",
                bytes=size,
                seconds=1.5,
                result=code,
                mode="passive",
                client_tls=True,
                backend_tls=False,
            )
        log_end(self._log, Outcome(Cause.DONE, Phase.RELAY), fields, None, 1.5)

    @property
    def text(self) -> str:
        """What was written."""
        return self.stream.getvalue()


class ReadingTests(SynchronousTestCase):
    """From lines to records."""

    def records(self, text: str) -> list[TransferRecord]:
        """Read a log in which every line of the audit is understood."""
        transfers = TransferReader()
        found = list(transfers.read(text.splitlines(keepends=True)))
        self.assertEqual(transfers.unreadable, 0)
        return found

    def test_both_formats(self) -> None:
        """Users and paths come back as they were, whatever is in them, from either format."""
        for kind in ("text", "json"):
            for name in NAMES:
                log = Log(kind)
                log.session(SESSION, name, ("STOR", name, 77, 226), ("RETR", "f", 1, 426))
                first, second = self.records(log.text)
                self.assertEqual((first.user, first.path), (name, name), kind)
                self.assertEqual((first.size, first.seconds, first.code), (77, 1.5, 226))
                self.assertEqual((first.client, first.service), ("203.0.113.2", "ftp"))
                self.assertEqual((first.ok, second.ok), (True, False))

    def test_users_belong_to_sessions(self) -> None:
        """A session that ended gives its user to no later one, and a refused log-in counts not."""
        log = Log("text")
        log.session(SESSION, "mina", ("STOR", "a", 1, 226))
        log.session(SESSION, "", ("STOR", "b", 1, 226))
        self.assertEqual([each.user for each in self.records(log.text)], ["mina", ""])

    def test_forwards(self) -> None:
        """What a fixed forward has moved is told by its entry, in the service's place."""
        text = (
            "2026-11-26T18:50:34.319Z INFO  [relaygate.ftprelay.FTPRelay] session a8ebf3aab2dfa7e6"
            " transfer: entry=partner-ftp client=192.0.2.9:40112 gateway=dmz"
            " destination=ftp.partner.example:21 verb=RETR path=file direction=download bytes=7"
            " seconds=0.1 result=226 mode=passive client_tls=False backend_tls=False"
        )
        transfers = TransferReader()
        (found,) = transfers.read([text])
        self.assertEqual((found.service, found.size), ("partner-ftp", 7))
        self.assertEqual(transfers.unreadable, 0)

    def test_cut_lines(self) -> None:
        """Lines that a full disk cut off are counted, and other lines are not."""
        log = Log("text")
        log.session(SESSION, "mina", ("STOR", "a", 1, 226))
        lines = log.text.splitlines()
        cut = lines[2][:120]
        transfers = TransferReader()
        self.assertEqual(list(transfers.read([cut, "", "else", '{"a": 1}', "{", "[]"])), [])
        self.assertEqual(transfers.unreadable, 1)

    @given(st.lists(st.text()))
    def test_any_text(self, lines: list[str]) -> None:
        """Nothing that stands in a file raises."""
        list(TransferReader().read(lines))

    @given(st.text(st.characters(codec="utf-8"), max_size=300))
    def test_any_name(self, name: str) -> None:
        """Any name makes one record, and no other field is taken from it."""
        log = Log("text")
        log.session(SESSION, "mina", ("STOR", name, 77, 226))
        (found,) = TransferReader().read(log.text.splitlines(keepends=True))
        self.assertEqual((found.user, found.size, found.code), ("mina", 77, 226))
        if name.isprintable():
            self.assertEqual(found.path, name)


class CommandTests(SynchronousTestCase):
    """The command."""

    def setUp(self) -> None:
        log = Log("text")
        log.session(SESSION, "mina", ("STOR", "=1+1", 100, 226), ("LIST", "", 5, 226))
        log.session("0" * 16, "omar", ("RETR", "b", 50, 426))
        self.text = log.text
        self.file = Path(self.mktemp())
        self.file.write_text(log.text)

    def call(self, *flags: str) -> str:
        """Run it over the file; it must have nothing to complain of."""
        status, out, err = call("transfers", str(self.file), *flags)
        self.assertEqual((status, err), (0, ""))
        return out

    def test_table(self) -> None:
        """A record a line, with a heading."""
        heading, *rows = self.call().splitlines()
        self.assertTrue(heading.startswith("TIME"))
        self.assertEqual(len(rows), 3)
        self.assertIn("failed (426)", rows[2])

    def test_filters(self) -> None:
        """Each filter keeps what it names."""
        day = self.text[:10]
        for flags, count in (
            (("--user", "mina"), 2),
            (("--service", "ftp"), 3),
            (("--service", "x"), 0),
            (("--client", "203.0.113.2"), 3),
            (("--verb", "stor,retr"), 2),
            (("--failed",), 1),
            (("--since", day), 3),
            (("--until", day), 0),
        ):
            self.assertEqual(len(self.call(*flags, "--json").splitlines()), count, flags)

    def test_sums(self) -> None:
        """Sums by one thing or several, as JSON and CSV."""
        rows = [json.loads(line) for line in self.call("--by", "user", "--json").splitlines()]
        self.assertEqual(
            rows,
            [
                {"user": "mina", "transfers": 2, "failed": 0, "bytes": 105, "seconds": 3.0},
                {"user": "omar", "transfers": 1, "failed": 1, "bytes": 50, "seconds": 1.5},
            ],
        )
        table = list(csv.reader(io.StringIO(self.call("--by", "day,user", "--csv"))))
        self.assertEqual(table[0], ["day", "user", "transfers", "failed", "bytes", "seconds"])
        self.assertEqual(table[1][1:4], ["mina", "2", "0"])

    def test_no_formula(self) -> None:
        """A file's name is no formula to a spreadsheet."""
        rows = list(csv.DictReader(io.StringIO(self.call("--csv"))))
        self.assertEqual(rows[0]["path"], "'=1+1")
        self.assertEqual(rows[0]["bytes"], "100")
        log = Log("text")
        log.session("1" * 16, "-x", ("STOR", 'a;=1;b-c,-d; ""@e;f', 1, 226))
        log.session("2" * 16, "y", ("STOR", "\uff1d1;\uff0b2", 1, 226), ("STOR", "\t=1", 1, 226))
        self.file.write_text(log.text, "utf-8")
        rows = list(csv.DictReader(io.StringIO(self.call("--csv"))))
        self.assertEqual(rows[0]["user"], "'-x")
        self.assertEqual(
            [row["path"] for row in rows],
            ["a;'=1;b-c,-d;' \"\"@e;f", "'\uff1d1;'\uff0b2", r"\x09=1"],
        )

    def test_nothing_to_tell(self) -> None:
        """A file that cannot be read, and one that tells of no transfer, are told apart."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        other = folder / "other.log"
        other.write_text("stopping\n")
        status, _, err = call("transfers", str(other))
        self.assertEqual((status, "only FTP's" in err), (0, True))
        damaged = folder / "log.gz"
        damaged.write_bytes(b"no archive")
        for file in (folder, folder / "none", damaged):
            status, _, err = call("transfers", str(file))
            self.assertEqual((status, err.count("\n")), (2, 1))
            self.assertIn(f"{file}: ", err)
            self.assertNotIn("Errno", err)

    def test_places(self) -> None:
        """A compressed log and standard input are read, and what cannot be is told."""
        packed = self.file.with_name("log.gz")
        packed.write_bytes(gzip.compress(self.text.encode()))
        with mock.patch("sys.stdin", io.StringIO(self.text)):
            status, out, _ = call("transfers", str(packed), "-", "--json")
        self.assertEqual((status, len(out.splitlines())), (0, 6))
        status, _, err = call("transfers", "/no/such/file")
        self.assertEqual((status, err.count("\n")), (2, 1))
        for flags in (("--by", "colour"), ("--since", "soon"), ("--csv", "--json")):
            self.assertEqual(call("transfers", str(self.file), *flags)[0], 2)
