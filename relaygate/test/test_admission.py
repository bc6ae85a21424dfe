"""Tests of the small parts that decide who comes in, who is next, how long to wait, what to say."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from itertools import chain
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate import errors
from relaygate.admission import Allowance, Caps, Counted, Throttle
from relaygate.backoff import FullJitter
from relaygate.desk import Desk
from relaygate.errors import REFUSALS, Refusal, refusal_for
from relaygate.listeners import PROTOCOLS
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.relay import Relay
from relaygate.test.properties import given, st

ADDRESSES = ("192.0.2.1", "192.0.2.2", "2001:db8::1")


class CountedTests(SynchronousTestCase):
    """Counters with caps."""

    def test_no_caps(self) -> None:
        """Zero is no cap."""
        counted = Counted(Caps())
        for _ in range(10_000):
            counted.add("192.0.2.1")
        self.assertTrue(counted.has_room("192.0.2.1"))

    def test_caps(self) -> None:
        """Both caps hold, and what goes makes room again."""
        counted = Counted(Caps(total=3, per_address=2))
        counted.add("192.0.2.1")
        counted.add("192.0.2.1")
        self.assertFalse(counted.has_room("192.0.2.1"))
        self.assertTrue(counted.has_room("192.0.2.2"))
        counted.add("192.0.2.2")
        self.assertFalse(counted.has_room("192.0.2.3"))
        counted.remove("192.0.2.1")
        self.assertTrue(counted.has_room("192.0.2.1"))

    def test_caps_that_change(self) -> None:
        """Changed caps hold from the next one on, and nobody is forgotten."""
        counted = Counted(Caps(per_address=5))
        counted.add("192.0.2.1")
        counted.caps = Caps(per_address=1)
        self.assertFalse(counted.has_room("192.0.2.1"))

    @given(st.lists(st.tuples(st.booleans(), st.sampled_from(ADDRESSES)), max_size=60))
    def test_against_a_counter(self, steps: list[tuple[bool, str]]) -> None:
        """Counts agree with a plain counter, and addresses that are gone take no memory."""
        counted = Counted(Caps(total=7, per_address=3))
        expected: Counter[str] = Counter()
        for come, address in steps:
            if come:
                counted.add(address)
                expected[address] += 1
            elif expected[address]:
                counted.remove(address)
                expected[address] -= 1
            room = expected.total() < 7 and expected[address] < 3
            self.assertEqual(counted.has_room(address), room)
        present = {address for address, count in expected.items() if count}
        self.assertEqual(set(counted._by_address), present)


class AllowanceTests(SynchronousTestCase):
    """Work that a peer may have done for it."""

    def test_waits(self) -> None:
        """A stock is there at once and grows again with time; what is beyond it is waited for."""
        clock = Clock()
        allowance = Allowance(clock.seconds, at_once=100.0, per_s=10.0)
        self.assertEqual(allowance.take(100.0), 0.0)
        self.assertEqual(allowance.take(20.0), 2.0)
        clock.advance(2.0)
        self.assertEqual(allowance.take(0.0), 0.0)
        self.assertEqual(allowance.take(1.0), 0.1)
        clock.advance(3600.0)
        # It does not grow beyond what it was.
        self.assertEqual(allowance.take(110.0), 1.0)


class ThrottleTests(SynchronousTestCase):
    """The log that a flood cannot fill."""

    def test_burst_and_period(self) -> None:
        """So many pass in a period; the others are counted, once, for the next that passes."""
        clock = Clock()
        throttle = Throttle(clock.seconds, burst=3, period_s=10.0)
        self.assertEqual([throttle.passes() for _ in range(5)], [True] * 3 + [False] * 2)
        clock.advance(9.99)
        self.assertFalse(throttle.passes())
        clock.advance(0.01)
        self.assertTrue(throttle.passes())
        self.assertEqual(throttle.take_suppressed(), 3)
        self.assertEqual(throttle.take_suppressed(), 0)


class BackoffTests(SynchronousTestCase):
    """Full jitter (Lesson 8)."""

    def test_ceiling_doubles(self) -> None:
        """The ceiling doubles up to its bound, and stays there for ever."""
        jitter = FullJitter(lambda: 1.0, first_s=0.5, longest_s=15.0)
        waits = [jitter.next_wait() for _ in range(2000)]
        self.assertEqual(waits[:6], [0.5, 1.0, 2.0, 4.0, 8.0, 15.0])
        self.assertEqual(set(waits[6:]), {15.0})

    def test_drawn_from_zero_on(self) -> None:
        """A wait may be anything from zero to the ceiling, evenly."""
        draws = iter((0.0, 0.25, 0.999))
        jitter = FullJitter(lambda: next(draws), first_s=4.0, longest_s=4.0)
        self.assertEqual([jitter.next_wait() for _ in range(3)], [0.0, 1.0, 3.996])

    def test_only_a_stable_connection_resets(self) -> None:
        """A gateway that accepts and falls over is not hammered; one that stood is new again."""
        jitter = FullJitter(lambda: 1.0, first_s=0.5, longest_s=15.0)
        for _ in range(3):
            jitter.next_wait()
            jitter.stood(FullJitter.STABLE_S - 0.1)
        self.assertEqual(jitter.next_wait(), 4.0)
        jitter.stood(FullJitter.STABLE_S)
        self.assertEqual(jitter.next_wait(), 0.5)


class Session:
    """A session as the desk sees it."""

    def __init__(self, number: int, address: str, counted: Counted) -> None:
        self.id = str(number)
        self.address = address
        self.counted = counted
        self.relay: Relay | None = None
        self.aborted: list[tuple[Cause, str]] = []

    def abort(self, cause: Cause, detail: str) -> None:
        self.aborted.append((cause, detail))


class DeskTests(SynchronousTestCase):
    """The DMZ node's own bounds."""

    def make(self, **caps: Caps) -> Desk:
        """Make a desk with *caps*."""
        shelf: Any = object()
        bounds: dict[str, Any] = {"sessions": Caps(), "pending": Caps()} | caps
        return Desk(Clock(), shelf, lambda: "id", **bounds)

    def test_each_cap(self) -> None:
        """The node's caps and the service's both hold, each for itself."""
        for node, service in ((Caps(2), Caps()), (Caps(), Caps(2)), (Caps(0, 2), Caps(0, 3))):
            desk = self.make(sessions=node)
            counted = Counted(service)
            sessions = [Session(number, "192.0.2.1", counted) for number in range(3)]
            entered = [desk.enter(session) for session in sessions]
            self.assertEqual(entered, [True, True, False])
            for session in sessions:
                desk.leave(session)
            self.assertTrue(desk.enter(sessions[0]))

    def test_refused_sessions_are_pending(self) -> None:
        """A session that is told no counts until it has gone: a flood of them is bounded too."""
        desk = self.make(sessions=Caps(1), pending=Caps(3))
        counted = Counted(Caps())
        for number in range(3):
            self.assertTrue(desk.pending.has_room("192.0.2.1"))
            desk.enter(Session(number, "192.0.2.1", counted))
        self.assertFalse(desk.pending.has_room("192.0.2.1"))

    def test_opened_sessions_are_not_pending(self) -> None:
        """A session with its backend makes room for the next to be opened, once."""
        desk = self.make(pending=Caps(2))
        session = Session(1, "192.0.2.1", Counted(Caps()))
        other = Session(2, "192.0.2.1", session.counted)
        desk.enter(session)
        desk.enter(other)
        self.assertFalse(desk.pending.has_room("192.0.2.1"))
        desk.opened(session)
        desk.opened(session)
        self.assertEqual(desk.pending.total, 1)
        desk.leave(session)
        self.assertEqual(desk.pending.total, 1)
        self.assertEqual(len(desk), 1)

    def test_abort_all(self) -> None:
        """At the end every session is told the same cause."""
        desk = self.make()
        sessions = [Session(number, "192.0.2.1", Counted(Caps())) for number in range(3)]
        for session in sessions:
            desk.enter(session)
        desk.abort_all(Cause.SHUTDOWN, "bye")
        self.assertEqual([session.aborted for session in sessions], [[(Cause.SHUTDOWN, "bye")]] * 3)


class RefusalTests(SynchronousTestCase):
    """The table of refusals, row by row."""

    def rows(self) -> list[type[Refusal]]:
        """Every class of refusal."""
        return [Refusal, *Refusal.__subclasses__()]

    def test_codes(self) -> None:
        """Each has a code of its own, from 1 to 255, and is found by it; 0 is success."""
        codes = [row.code for row in self.rows()]
        self.assertEqual(len(set(codes)), len(codes))
        self.assertTrue(all(1 <= code <= 255 for code in codes))
        for row in self.rows():
            self.assertIs(type(refusal_for(row.code)), row)
        self.assertEqual(set(REFUSALS.values()), set(self.rows()) - {Refusal})

    def test_codes_of_a_newer_node(self) -> None:
        """Any other code is a refusal too (Lesson 31)."""
        for code in range(1, 256):
            self.assertIsInstance(refusal_for(code), Refusal)

    def test_meaning(self) -> None:
        """Each has a docstring of its own, whose first line ends as a sentence does."""
        meanings = [row().meaning for row in self.rows()]
        self.assertEqual(len(set(meanings)), len(meanings))
        for row, meaning in zip(self.rows(), meanings, strict=True):
            self.assertIn("__doc__", vars(row))
            self.assertTrue(meaning.endswith((".", ":", ";")) and len(meaning) > 20, meaning)

    def test_ssh_words(self) -> None:
        """SSH clients get whole lines that are no identification (Requirement 46)."""
        for row in self.rows():
            words = row().words("ssh")
            self.assertRegex(words, rb"\A(?:(?!SSH-)[\x20-\x7e]{1,253}\r\n)+\Z")

    def test_tls_words(self) -> None:
        """TLS clients get one fatal alert in a record of its own (RFC 8446, section 6)."""
        for row in self.rows():
            self.assertRegex(row().words("tls"), rb"\A\x15\x03\x03\x00\x02\x02.\Z")
            self.assertEqual(row().words("ftps"), row().words("tls"))

    def test_ftp_words(self) -> None:
        """FTP clients get one line that begins with 421 (Requirements 7 and 8)."""
        for row in self.rows():
            self.assertRegex(row().words("ftp"), rb"\A421 [\x20-\x7e]{10,80}\r\n\Z")

    def test_every_protocol_has_words(self) -> None:
        """A service of any protocol can be refused."""
        for row in self.rows():
            for protocol in PROTOCOLS:
                self.assertIsInstance(row().words(protocol), bytes)

    def test_no_address_in_any_word(self) -> None:
        """No word that a client gets has an address, a port, a path or a name (Requirement 88)."""
        for row in self.rows():
            for protocol in PROTOCOLS:
                words = row().words(protocol)
                if not words.isascii() or protocol in ("tls", "ftps"):
                    continue
                text = words.decode().removeprefix("421 ")
                if text.startswith("HTTP/1.1 "):
                    # Its head has numbers and slashes of its own, its body begins with the status.
                    head, _, body = text.partition("\r\n\r\n")
                    self.assertNotRegex(head, r"[@\[\]]|[0-9]+[.:][0-9]+[.:]|://")
                    text = body[4:]
                self.assertNotRegex(text, r"[0-9/@\[\]]")
                for word in re.split(r"[\s,]+", text):
                    self.assertRaises(ValueError, ipaddress.ip_address, word)

    def test_all_are_in_one_file(self) -> None:
        """No other file adds a refusal behind the table's back."""
        self.assertEqual({row.__module__ for row in self.rows()}, {errors.__name__})


class OutcomeTests(SynchronousTestCase):
    """How a session ended."""

    def test_words(self) -> None:
        """The words of an outcome are small, distinct, and fit for a search in the log."""
        words = [member.value for member in chain(Cause, Phase)]
        self.assertEqual(len(set(words)), len(words))
        self.assertTrue(all(re.fullmatch("[a-z]+", word) for word in words))

    def test_text(self) -> None:
        """An outcome is its two words, with the detail behind them if there is one."""
        self.assertEqual(str(Outcome(Cause.DONE, Phase.RELAY)), "done/relay")
        self.assertEqual(
            str(Outcome(Cause.BACKEND, Phase.OPEN, "refused")), "backend/open (refused)"
        )
