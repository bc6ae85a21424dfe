"""Tests of the log's lines: they say what happened, and nobody outside can forge them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.logger import LegacyLogObserverWrapper, Logger, LogLevel, LogPublisher
from twisted.python import log as legacy_log
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relaygate.logs import (
    MAX_FIELDS,
    MAX_MESSAGE,
    MAX_VALUE,
    Format,
    LineObserver,
    make_observer,
    printable,
)
from relaygate.test.properties import given, st

TEXT_LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO |WARN |ERROR|CRITICAL) \[[^]]+\] .*"
)

ATTACKS = (
    "x\n2026-11-22T20:45:53.123Z INFO  [relaygate.dmz] session forged",
    "x\r2026-11-22T20:45:53.123Z INFO  [relaygate.dmz] overwritten",
    "x\x1b[1A\x1b[2K\x1b]0;title\x07",
    "x\x9b1A\x85\x7f\0\x0b\x0c\x1c\x1d\x1e",
    "x\u2028forged\u2029forged",
    "x\u202e4321\u2066\u200f\u061c\u200b\ufeff",
    "x\ud800",
    '", "level": "critical", "x": "',
)
"""GHSA-65h7-6ww6-hhqj: what a stranger may send to break, overwrite or forge a line."""


class Written:
    """An observer on a string, and a logger that it listens to."""

    def __init__(self, kind: Format = "text", level: str = "debug") -> None:
        self.stream = io.StringIO(newline="")
        self.observer = make_observer(self.stream, format=kind, level=level)
        self.log = Logger("relaygate.test", observer=LogPublisher(self.observer))

    def lines(self) -> list[str]:
        """Give the lines so far, each of which must be ended."""
        text = self.stream.getvalue()
        if text:
            assert text.endswith("\n"), text
        return text.split("\n")[:-1]

    def objects(self) -> list[dict[str, Any]]:
        """Give the JSON objects so far, one a line."""
        return [json.loads(line) for line in self.lines()]


@implementer(legacy_log.ILogObserver)
class OldObserver:
    """An observer of the old system, whose adapter writes into the events that it passes."""

    def __call__(self, event: legacy_log.EventDict) -> None:
        """Forget the event."""


def made_failure(text: str) -> Failure:
    """Make a failure with a traceback."""
    try:
        raise RuntimeError(text)
    except RuntimeError:
        return Failure()


class LineTests(SynchronousTestCase):
    """What a line looks like."""

    def event(self, observer: LineObserver) -> None:
        observer(
            {
                "log_format": "session {session} open: ident={ident!r}",
                "log_time": 1795380353.123,
                "log_level": LogLevel.info,
                "log_namespace": "relaygate.dmz",
                "session": "5f",
                "ident": b"SSH-2.0-x",
            }
        )

    def test_text(self) -> None:
        """A text line has time, level, namespace and message."""
        written = Written()
        self.event(written.observer)
        self.assertEqual(
            written.lines(),
            ["2026-11-22T20:45:53.123Z INFO  [relaygate.dmz] session 5f open: ident=b'SSH-2.0-x'"],
        )

    def test_json(self) -> None:
        """A JSON line has the same and the event's own fields."""
        written = Written("json")
        self.event(written.observer)
        self.assertEqual(
            written.objects(),
            [
                {
                    "time": "2026-11-22T20:45:53.123Z",
                    "level": "info",
                    "namespace": "relaygate.dmz",
                    "message": "session 5f open: ident=b'SSH-2.0-x'",
                    "session": "5f",
                    "ident": "SSH-2.0-x",
                }
            ],
        )

    def test_json_values(self) -> None:
        """Values become JSON's own where it has them, and bounded text where not."""
        written = Written("json")
        written.log.info(
            "values",
            number=7,
            huge=10**5000,
            ratio=0.5,
            nan=float("nan"),
            yes=True,
            none=None,
            octets=b"\xff\x00a\xc3\xa9",
            items=[1, ("a", [1, 2])],
            mapping={1: {"b": {"c": 1}}},
            path=Path("/x"),
            many=range(3),
            namespace="not the namespace",
            system="not the message",
        )
        (fields,) = written.objects()
        self.assertTrue(fields.pop("huge").startswith("<int that cannot be shown"))
        self.assertEqual(
            (fields.pop("namespace"), fields.pop("message")), ("relaygate.test", "values")
        )
        for key in ("time", "level"):
            fields.pop(key)
        self.assertEqual(
            fields,
            {
                "number": 7,
                "ratio": 0.5,
                "nan": "nan",
                "yes": True,
                "none": None,
                "octets": "\\xff\\x00aé",
                "items": [1, ["a", "[1, 2]"]],
                "mapping": {"1": {"b": "{'c': 1}"}},
                "path": "/x",
                "many": "range(0, 3)",
            },
        )

    def test_bounds(self) -> None:
        """No message, value or line grows with what it is made of."""
        for value in ("x" * 10**6, "\n" * 10**6, "\U0010ffff" * 10**6):
            text, structured = Written(), Written("json")
            for written in (text, structured):
                written.log.info("{value}", value=value, octets=value.encode())
            self.assertLess(len(text.lines()[0]), MAX_MESSAGE + 100)
            self.assertTrue(text.lines()[0].endswith("…"))
            fields = structured.objects()[0]
            self.assertEqual(len(fields["message"]), MAX_MESSAGE + 1)
            self.assertEqual(len(fields["value"]), MAX_VALUE + 1)
            self.assertEqual(len(fields["octets"]), MAX_VALUE + 1)

    def test_too_many_fields(self) -> None:
        """Fields that are too large together are left out, and named; the message stays."""
        written = Written("json")
        written.log.info("kept", table=[["x" * MAX_VALUE] * 1000] * 1000)
        self.assertLess(len(written.lines()[0]), MAX_FIELDS)
        (fields,) = written.objects()
        self.assertEqual((fields["message"], fields["fields_left_out"]), ("kept", ["table"]))

    def test_levels(self) -> None:
        """Events below the level are not written, and each level has its name."""
        levels = [level.name for level in LogLevel.iterconstants()]
        for number, level in enumerate(levels):
            text, structured = Written(level=level), Written("json", level=level)
            for written in (text, structured):
                for name in levels:
                    getattr(written.log, name)("message")
            self.assertEqual([o["level"] for o in structured.objects()], levels[number:])
            self.assertEqual([li.split()[1].lower() for li in text.lines()], levels[number:])

    def test_unknown_level(self) -> None:
        """A level that does not exist is refused with the ones that do."""
        error = self.assertRaises(ValueError, Written, level="loud")
        self.assertIn("debug, info, warn, error, critical", str(error))

    def test_no_message(self) -> None:
        """Events that have nothing to say leave no line, as in Twisted's own logs."""
        for written in (Written(), Written("json")):
            written.observer({"log_level": LogLevel.info})
            self.assertEqual(written.lines(), [])


class ForgeryTests(SynchronousTestCase):
    """GHSA-65h7-6ww6-hhqj and Requirement 90: strangers' bytes in a log."""

    def test_attacks(self) -> None:
        """One event is one line of printable characters, in both formats."""
        for attack in ATTACKS:
            for written in (Written(), Written("json")):
                written.log.warn(
                    "refused {name}", name=attack, raw=attack.encode("utf-8", "replace")
                )
                (line,) = written.lines()
                self.assertTrue(line.isprintable(), line)
                self.assertIn("refused x" if attack[0] == "x" else "refused ", line)

    def test_text_start(self) -> None:
        """No part of an attack begins a line: every line begins with its own time."""
        written = Written()
        for attack in ATTACKS:
            written.log.info("{attack}", attack=attack)
            written.log.failure("{attack}", made_failure(attack), attack=attack)
        for line in written.lines():
            self.assertTrue(TEXT_LINE.fullmatch(line) or line.startswith("    | "), line)
        self.assertEqual(sum(not li.startswith(" ") for li in written.lines()), 2 * len(ATTACKS))

    def test_json_is_harmless_when_decoded(self) -> None:
        """What a reader of JSON prints on a terminal does not steer it either."""
        written = Written("json")
        for attack in ATTACKS:
            written.log.info("{attack}", attack=attack, **{attack: [{attack: attack}]})
        for fields in written.objects():
            for text in (*fields, *fields.values(), *fields["attack"]):
                self.assertTrue(str(text).isprintable(), text)

    def test_escapes(self) -> None:
        """Escapes have as many digits as their character needs, and the rest stays legible."""
        self.assertEqual(
            printable("a\n\x85\u202e\U000e0001\ud800"), r"a\x0a\x85\u202e\U000e0001\ud800"
        )
        self.assertEqual(printable("Büro 東京 \\n 'x' 😀"), "Büro 東京 \\n 'x' 😀")
        self.assertEqual(printable("a" * 8, 8), "a" * 8)
        self.assertEqual(printable("a" * 9, 8), "a" * 8 + "…")

    @given(st.text(st.characters()), st.integers(1, 50))
    def test_printable(self, text: str, limit: int) -> None:
        """Any text becomes printable and bounded, and printable text stays as it is."""
        made = printable(text, limit)
        self.assertTrue(made.isprintable())
        self.assertLessEqual(len(made), limit + 1)
        if text.isprintable() and len(text) <= limit:
            self.assertEqual(made, text)

    @given(st.text(st.characters()), st.binary())
    def test_any_text_and_bytes(self, text: str, octets: bytes) -> None:
        """Any text and bytes give one line, and in JSON one object a line."""
        for written in (Written(), Written("json")):
            written.log.info("{t} {b} {b!r}", t=text, b=octets, nested={text: [octets]})
            self.assertEqual(len(written.lines()), 1)
            self.assertTrue(written.lines()[0].isprintable())
        (fields,) = written.objects()
        self.assertEqual(fields["t"], printable(text))


class FailureTests(SynchronousTestCase):
    """Errors with tracebacks, and events that are errors themselves."""

    def test_text(self) -> None:
        """The traceback follows the message on lines that are marked and escaped."""
        written = Written()
        written.log.failure("it broke", made_failure("bad\x1b[2J\nnews"))
        first, *others = written.lines()
        self.assertRegex(first, r" CRITICAL \[relaygate.test\] it broke$")
        self.assertTrue(others[0].startswith("    | Traceback"))
        self.assertEqual(others[-2:], ["    | builtins.RuntimeError: bad\\x1b[2J", "    | news"])
        self.assertTrue(all(line.startswith("    | ") for line in others))

    def test_json(self) -> None:
        """The traceback is one string in the same object."""
        written = Written("json")
        written.log.failure("it broke", made_failure("bad\x1bnews"))
        (fields,) = written.objects()
        self.assertEqual(fields["message"], "it broke")
        self.assertTrue(fields["traceback"].endswith("RuntimeError: bad\\x1bnews"))
        self.assertIn("made_failure", fields["traceback"])

    def test_long_traceback(self) -> None:
        """Of a long traceback the end is kept, where the error is named."""
        written = Written()
        written.log.failure("it broke", made_failure("line\n" * 10000 + "end"))
        lines = written.lines()
        self.assertLess(len(lines), 110)
        self.assertEqual((lines[1], lines[-1]), ("    | …", "    | end"))

    def test_unformattable(self) -> None:
        """An event that cannot be formatted is logged as far as it can be, and does not raise."""

        class Unprintable:
            def __str__(self) -> str:
                raise RuntimeError("no")

            __repr__ = __str__

        for written in (Written(), Written("json")):
            written.log.info("{missing}", present="here\n")
            written.log.info("{", present="here\n")
            written.log.info("{value}", value=Unprintable())
            written.log.info("fine", value=Unprintable())
            written.log.failure("fine", made_failure("x"), value=Unprintable())
            written.observer({"log_format": "{x}", "log_failure": "not a failure"})
            lines = [line for line in written.lines() if not line.startswith(" ")]
            self.assertEqual(len(lines), 6)
            self.assertIn("here", lines[0])

    def test_broken_event(self) -> None:
        """An event that even its time cannot be told of is dropped and counted."""
        written = Written()
        written.observer({"log_format": "lost", "log_time": "noon"})
        written.log.info("next")
        report, following = written.lines()
        self.assertIn("WARN  [relaygate.logs] 1 events could not be logged: ", report)
        self.assertTrue(following.endswith("next"))


class LegacyTests(SynchronousTestCase):
    """Events of `twisted.python.log`, which Twisted itself still emits."""

    def emit(self, act: Callable[[legacy_log.LogPublisher], None]) -> tuple[list[str], Any]:
        """Publish through the old system and give the text lines and JSON objects."""
        written = (Written(), Written("json"))
        for each in written:
            publisher = LogPublisher(LegacyLogObserverWrapper(OldObserver()), each.observer)
            act(legacy_log.LogPublisher(publisher, publisher))
        return written[0].lines(), written[1].objects()

    def test_message(self) -> None:
        """Old messages, whole or as a format, are lines like others."""
        lines, objects = self.emit(lambda log: log.msg("two", "words\n", extra=1))
        self.assertRegex(lines[0], r"Z DEBUG \[log_legacy\] two words\\x0a$")
        self.assertEqual((objects[0]["message"], objects[0]["extra"]), ("two words\\x0a", 1))
        self.assertEqual(set(objects[0]), {"time", "level", "namespace", "message", "extra"})
        lines, objects = self.emit(lambda log: log.msg(format="n=%(n)d", n=3))
        self.assertTrue(lines[0].endswith(" n=3"))
        self.assertEqual(objects[0]["n"], 3)

    def test_error(self) -> None:
        """Old errors have their reason in the message and the traceback once, behind it."""
        for why, message in (("because", "because"), (None, "Unhandled Error")):

            def act(log: legacy_log.LogPublisher, why: str | None = why) -> None:
                log.msg(failure=made_failure("bad"), why=why, isError=1)

            lines, objects = self.emit(act)
            self.assertTrue(lines[0].endswith(f" CRITICAL [log_legacy] {message}"), lines[0])
            self.assertEqual(lines[-1], "    | builtins.RuntimeError: bad")
            self.assertEqual(sum("RuntimeError: bad" in line for line in lines), 1)
            self.assertEqual(objects[0]["message"], message)
            self.assertTrue(objects[0]["traceback"].endswith("RuntimeError: bad"))

    def test_new_event_through_the_old_system(self) -> None:
        """An event that an old observer has seen keeps its own message and fields only."""
        written = Written("json")
        publisher = LogPublisher(LegacyLogObserverWrapper(OldObserver()), written.observer)
        Logger("relaygate.test", observer=publisher).info("n={n}", n=1)
        (fields,) = written.objects()
        self.assertEqual(set(fields), {"time", "level", "namespace", "message", "n"})
