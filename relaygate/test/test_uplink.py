"""Tests of an uplink between two well-behaved ends, and of the time that it allows."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from relaygate import commands
from relaygate.test.test_commands import SERVICE
from relaygate.test.wire import UplinkPair, box, boxes, lines, logged
from relaygate.uplink import (
    BOXES_AT_ONCE,
    BOXES_PER_S,
    LEAVE_LIMIT_S,
    LONGEST_PAUSE_S,
    MAX_UNSENT_BYTES,
    PING_INTERVAL_S,
    SILENCE_LIMIT_S,
    SILENT_PINGS,
    Uplink,
    UplinkFailed,
)

SAMPLES: dict[type[amp.Command], dict[str, Any]] = {
    commands.Hello: {"major": commands.MAJOR, "minor": commands.MINOR, "software": "x"},
    commands.Declare: {"page": 0, "last": True, "services": [SERVICE]},
    commands.OpenChannels: {"tls": True, "count": 3},
    commands.OpenPassive: {
        "session": "0123456789abcdef",
        "transfer": 7,
        "first": 50_000,
        "last": 50_999,
        "peers": [{"network": "198.51.100.0/24"}],
        "tls": True,
    },
    commands.DialActive: {
        "session": "0123456789abcdef",
        "transfer": 8,
        "port": 40_001,
        "source_port": 20,
        "tls": False,
    },
    commands.CloseTransfer: {"session": "0123456789abcdef", "transfer": 7},
    commands.Connect: {
        "session": "0123456789abcdef",
        "transfer": 7,
        "entry": "out",
        "host": "sftp.partner.example",
        "port": 22,
        "data": False,
        "tls": True,
        "patience": 15_000,
    },
    commands.Await: {
        "session": "0123456789abcdef",
        "transfer": 7,
        "entry": "out",
        "host": "203.0.113.2",
        "first": 51_000,
        "last": 51_999,
        "tls": True,
    },
    commands.PutNetworks: {
        "name": "0" * 32,
        "page": 0,
        "last": True,
        "four": bytes(8),
        "six": b"",
    },
    commands.Ban: {"bans": [{"network": "198.51.100.0/24", "seconds": 60}]},
    commands.Report: {"page": 0},
    commands.Draining: {},
    commands.DeclareAgain: {},
    commands.Probe: {"tls": True, "host": "192.0.2.1", "first": 50_000, "last": 50_999},
    commands.Ping: {},
    commands.Farewell: {"reason": "bye", "superseded": False},
}

# What the DMZ node alone may say.
INWARDS = (commands.OpenChannels, commands.Draining, commands.DeclareAgain)


class PairCase(SynchronousTestCase):
    """Tests with two ends in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pair = UplinkPair(self.clock)

    def greet(self) -> None:
        """Say hello, as every uplink begins."""
        hello = SAMPLES[commands.Hello]
        self.successResultOf(self.pair.ask(self.pair.internal, commands.Hello, **hello))

    def asker(self, command: type[amp.Command]) -> Uplink:
        """The end that *command* comes from (either, for those that both may say)."""
        return self.pair.dmz if command in INWARDS else self.pair.internal

    def assert_refused(self, answer: Deferred[Any], *words: str) -> None:
        """Check that *answer* failed, and that its text has *words*."""
        failure = self.failureResultOf(answer, UplinkFailed)
        for word in words:
            self.assertIn(word, failure.getErrorMessage())

    def assert_works(self) -> None:
        """Check that both ends are open and answer."""
        for leg in (self.pair.dmz_leg, self.pair.internal_leg):
            self.assertFalse(leg.ending)
        for uplink in (self.pair.dmz, self.pair.internal):
            self.successResultOf(self.pair.ask(uplink, commands.Ping))


class CommandTests(PairCase):
    """What each command brings about at the other end."""

    def test_samples_are_complete(self) -> None:
        """These tests have a sample of every command."""
        self.assertEqual(set(SAMPLES), set(commands.ALL.values()))

    def test_hello(self) -> None:
        """The answer to hello has the DMZ node's version and the uplink's generation."""
        hello = SAMPLES[commands.Hello]
        answer = self.successResultOf(self.pair.ask(self.pair.internal, commands.Hello, **hello))
        self.assertEqual(
            answer,
            {
                "major": commands.MAJOR,
                "minor": commands.MINOR,
                "software": "dmz 1.0",
                "generation": 1,
            },
        )
        self.assertEqual(self.pair.dmz_end.hellos, ["x"])

    def test_hello_twice(self) -> None:
        """A second hello is refused, and changes nothing."""
        self.greet()
        answer = self.pair.ask(self.pair.internal, commands.Hello, **SAMPLES[commands.Hello])
        self.assert_refused(answer, "said already")
        self.assertEqual(len(self.pair.dmz_end.hellos), 1)

    def test_newer_minor_version(self) -> None:
        """A node of a newer minor version is served (Lesson 31)."""
        newer = SAMPLES[commands.Hello] | {"minor": commands.MINOR + 7}
        self.successResultOf(self.pair.ask(self.pair.internal, commands.Hello, **newer))
        self.assertTrue(self.pair.dmz.greeted)

    def test_other_major_version(self) -> None:
        """Another major version is refused, with the reason in the log and in the answer."""
        other = SAMPLES[commands.Hello] | {"major": commands.MAJOR + 1}
        with logged() as events:
            answer = self.pair.ask(self.pair.internal, commands.Hello, **other)
        reason = f"protocol {commands.MAJOR + 1}.{commands.MINOR} of x is refused"
        self.assert_refused(answer, reason, f"speaks {commands.MAJOR}.{commands.MINOR}")
        self.assertEqual(len(lines(events, reason)), 1)
        self.assertFalse(self.pair.dmz.greeted)
        self.assertEqual(self.pair.dmz_end.hellos, [])

    def test_declare(self) -> None:
        """A declaration arrives as it was made."""
        self.greet()
        declared = SAMPLES[commands.Declare]
        answer = self.pair.ask(self.pair.internal, commands.Declare, **declared)
        self.assertEqual(self.successResultOf(answer), {"refused": []})
        ((page, last, (found,)),) = self.pair.dmz_end.declared
        self.assertEqual((page, last), (0, True))
        # What is optional and was not said reads as None.
        self.assertEqual(found, {**dict.fromkeys(found), **SERVICE})

    def test_declare_before_hello(self) -> None:
        """Nothing can be declared before hello: it asks for no listener and settles nothing."""
        declared = SAMPLES[commands.Declare]
        answer = self.pair.ask(self.pair.internal, commands.Declare, **declared)
        self.assert_refused(answer, "hello comes first")
        self.assertEqual(self.pair.dmz_end.declared, [])
        self.assert_works()

    def test_open_channels(self) -> None:
        """A wish for channels arrives as it was made."""
        self.successResultOf(self.pair.ask(self.pair.dmz, commands.OpenChannels, tls=True, count=3))
        self.assertEqual(self.pair.internal_end.asked, [(True, 3)])

    def test_transfers(self) -> None:
        """What the inside wants of a transfer arrives as it was said."""
        self.greet()
        for command in (commands.OpenPassive, commands.DialActive, commands.CloseTransfer):
            answer = self.pair.ask(self.pair.internal, command, **SAMPLES[command])
            port = {"port": 50_000} if command is commands.OpenPassive else {}
            self.assertEqual(self.successResultOf(answer), port)
        session = "0123456789abcdef"
        self.assertEqual(
            self.pair.dmz_end.transfers,
            [
                ("passive", session, 7, (50_000, 50_999), ("198.51.100.0/24",), True),
                ("active", session, 8, 40_001, 20, False),
                ("close", session, 7),
            ],
        )

    def test_transfers_before_hello(self) -> None:
        """Nothing is opened, dialled or closed for a node that has not said hello."""
        for command in (commands.OpenPassive, commands.DialActive, commands.CloseTransfer):
            answer = self.pair.ask(self.pair.internal, command, **SAMPLES[command])
            self.assert_refused(answer, "hello comes first")
        self.assertEqual(self.pair.dmz_end.transfers, [])

    def test_low_ports_are_never_dialled(self) -> None:
        """A port below 1024 cannot even be said in a wish to dial (Requirement 24)."""
        port = dict(commands.DialActive.arguments)[b"port"]
        for low in (b"0", b"1", b"22", b"1023"):
            self.assertRaises(commands.BadArgument, port.fromString, low)
        self.assertEqual(port.fromString(b"1024"), 1024)

    def test_commands_of_the_other_role(self) -> None:
        """A command that only the other role has is refused: a DMZ node cannot declare inside."""
        self.greet()
        for uplink, command in (
            (self.pair.dmz, commands.Hello),
            (self.pair.dmz, commands.Declare),
            (self.pair.dmz, commands.OpenPassive),
            (self.pair.dmz, commands.DialActive),
            (self.pair.dmz, commands.CloseTransfer),
            (self.pair.internal, commands.OpenChannels),
        ):
            answer = self.pair.ask(uplink, command, **SAMPLES[command])
            self.assert_refused(answer, "not a command for this node")
        self.assert_works()

    def test_farewell(self) -> None:
        """Either end says farewell with a reason, and closes once it is written."""
        for leaving, leg, other in (
            (self.pair.dmz, self.pair.dmz_leg, self.pair.internal_end),
            (self.pair.internal, self.pair.internal_leg, self.pair.dmz_end),
        ):
            leaving.leave("going home", superseded=True)
            self.assertTrue(leg.closing)
            self.assertFalse(leg.aborted)
            self.pair.flush()
            self.assertEqual(other.farewells, [("going home", True)])

    def test_farewell_has_a_limit(self) -> None:
        """A farewell that the other end does not read ends by the clock (Lesson 2)."""
        self.pair.dmz.leave("going home")
        self.clock.advance(LEAVE_LIMIT_S - 0.01)
        self.assertFalse(self.pair.dmz_leg.aborted)
        self.clock.advance(0.01)
        self.assertTrue(self.pair.dmz_leg.aborted)
        self.pair.dmz_leg.lose()
        self.assertEqual(self.pair.dmz_end.lost, ["going home"])


class RefusalTests(PairCase):
    """Every command against every error: none closes the uplink."""

    def answers(self, command: type[amp.Command]) -> Any:
        """The role that answers *command*."""
        return self.pair.internal_end if command in INWARDS else self.pair.dmz_end

    def test_every_command_against_every_error(self) -> None:
        """Each error that a role raises reaches the caller as a refusal with its text."""
        for command in commands.ALL.values():
            # A ping asks nothing of the role: it has nothing to fail with.
            if command is commands.Ping:
                continue
            for error in commands.ERRORS:
                self.setUp()
                if command is not commands.Hello:
                    self.greet()
                self.answers(command).raises = error("no, thank you")
                answer = self.pair.ask(self.asker(command), command, **SAMPLES[command])
                self.assert_refused(answer, command.__name__, "no, thank you")
                self.assert_works()

    def test_every_command_against_a_mistake_of_ours(self) -> None:
        """An error that nobody thought of is logged here, and told there without its text."""
        for command in commands.ALL.values():
            if command is commands.Ping:
                continue
            self.setUp()
            if command is not commands.Hello:
                self.greet()
            self.answers(command).raises = ZeroDivisionError("secret detail")
            answer = self.pair.ask(self.asker(command), command, **SAMPLES[command])
            self.assert_refused(answer, "internal error")
            self.assertNotIn("secret", str(answer.result))
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.assert_works()

    def test_every_command_against_every_answer(self) -> None:
        """An error of any code, also one of a newer version, is a refusal to the caller."""
        codes = [*commands.ERRORS.values(), b"NEWER", b"UNKNOWN", b"UNHANDLED", b"\xff", b""]
        for command in commands.ALL.values():
            for code in codes:
                self.setUp()
                uplink = self.asker(command)
                leg = self.pair.dmz_leg if uplink is self.pair.dmz else self.pair.internal_leg
                answer = Deferred.fromCoroutine(uplink.ask(command, **SAMPLES[command]))
                (asked,) = boxes(leg.take())
                error = {b"_error_code": code, b"_error_description": b"no, \xff"}
                uplink.dataReceived(amp.AmpBox(error, _error=asked[b"_ask"]).serialize())
                self.assert_refused(answer, command.__name__)
                self.assert_works()

    def test_answer_that_does_not_fit(self) -> None:
        """An answer without its arguments, or with wrong ones, fails the call and no more."""
        for fields in ({}, {b"major": b"x", b"minor": b"0"}, {b"major": b"1"}):
            self.setUp()
            hello = SAMPLES[commands.Hello]
            answer = Deferred.fromCoroutine(self.pair.internal.ask(commands.Hello, **hello))
            (asked,) = boxes(self.pair.internal_leg.take())
            reply = amp.AmpBox(fields)
            reply[b"_answer"] = asked[b"_ask"]
            self.pair.internal.dataReceived(reply.serialize())
            self.assert_refused(answer, "Hello")
            self.assert_works()

    def test_tell_only_logs(self) -> None:
        """A refusal that nobody waits for is one line at debug level, and no error."""
        self.pair.internal_end.raises = commands.OutOfOrder("no")
        with logged() as events:
            self.pair.dmz.tell(commands.OpenChannels, tls=False, count=1)
            self.pair.flush()
        self.assertEqual(len(lines(events, "OpenChannels was refused")), 1)
        self.assert_works()


class TimeTests(PairCase):
    """No wait is without an end."""

    def test_deadline(self) -> None:
        """An ask that is not answered fails at its deadline; the late answer is ignored."""
        answer = Deferred.fromCoroutine(self.pair.internal.ask(commands.Ping, deadline_s=3.0))
        self.clock.advance(2.99)
        self.assertNoResult(answer)
        self.clock.advance(0.01)
        self.assert_refused(answer, "no answer to Ping in 3 s")
        self.pair.flush()
        self.assert_works()

    def test_lost_while_asking(self) -> None:
        """An ask under way fails at once when the uplink is lost, and so does a later one."""
        answer = Deferred.fromCoroutine(self.pair.internal.ask(commands.Ping))
        self.pair.internal_leg.lose(ConnectionLost())
        self.assert_refused(answer, "Ping got no answer")
        self.assert_refused(Deferred.fromCoroutine(self.pair.internal.ask(commands.Ping)), "Ping")
        self.assertEqual(len(self.pair.internal_end.lost), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silent_uplink_ends(self) -> None:
        """A half-open uplink is ended when two pings brought nothing (Lesson 2)."""
        self.greet()
        self.clock.advance(PING_INTERVAL_S)
        self.assertEqual([box[b"_command"] for box in boxes(self.pair.dmz_leg.take())], [b"Ping"])
        self.clock.pump([PING_INTERVAL_S] * (SILENT_PINGS - 1))
        self.clock.advance(PING_INTERVAL_S - 0.01)
        self.assertFalse(self.pair.dmz_leg.aborted)
        self.clock.advance(0.01)
        self.assertTrue(self.pair.dmz_leg.aborted)
        self.pair.dmz_leg.lose()
        (reason,) = self.pair.dmz_end.lost
        self.assertIn("the other node is silent", reason)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_both_ends_ping(self) -> None:
        """The internal node finds a silent DMZ node in the same way."""
        self.pair.internal.start_pings()
        self.clock.pump([PING_INTERVAL_S] * (SILENT_PINGS + 1))
        self.assertTrue(self.pair.internal_leg.aborted)

    def test_stopped_process_keeps_it(self) -> None:
        """A node that was stopped for long, and whose timers run late, first reads what came."""
        self.greet()
        for _ in range(20):
            self.clock.advance(PING_INTERVAL_S)
            # Stopped here, with the answer on its way.
            self.clock.advance(100 * SILENCE_LIMIT_S)
            self.pair.flush()
        self.assert_works()

    def test_answered_pings_keep_it(self) -> None:
        """An uplink whose pings are answered stays, for as long as one looks (Requirement 82)."""
        self.greet()
        self.pair.internal.start_pings()
        for _ in range(200):
            self.clock.advance(PING_INTERVAL_S)
            self.pair.flush()
        self.assert_works()

    def test_peer_that_does_not_read(self) -> None:
        """A peer that asks on and on and never reads the answers is ended (Lesson 4)."""
        self.greet()
        ping = amp.AmpBox(_command=b"Ping", _ask=b"1").serialize()
        self.pair.dmz_leg.unsent = MAX_UNSENT_BYTES
        self.pair.dmz.dataReceived(ping)
        self.assertFalse(self.pair.dmz_leg.aborted)
        self.pair.dmz_leg.unsent = MAX_UNSENT_BYTES + 1
        self.pair.dmz.dataReceived(ping)
        self.assertTrue(self.pair.dmz_leg.aborted)

    def test_peer_that_asks_too_much(self) -> None:
        """A peer that asks on and on is not read for a while, each time, and never for long."""
        self.greet()
        ping = box(b"Ping")
        heard = 0.0
        for _ in range(100):
            while self.pair.dmz_leg.reading and heard < 2 * (BOXES_AT_ONCE + 100 * BOXES_PER_S):
                self.pair.dmz.dataReceived(ping * 100)
                heard += 100
                self.pair.dmz_leg.take()
            self.assertFalse(self.pair.dmz_leg.reading)
            self.clock.advance(LONGEST_PAUSE_S)
            self.assertTrue(self.pair.dmz_leg.reading)
        self.assertLess(heard, BOXES_AT_ONCE + 101 * BOXES_PER_S)
        self.assert_works()

    def test_large_wish_has_no_pause(self) -> None:
        """The largest wish that a node can have is heard at once; one after the other is not."""
        self.greet()
        page = SAMPLES[commands.Declare]["services"] * commands.SERVICES_PER_PAGE
        pages = -(-1024 // commands.SERVICES_PER_PAGE)
        for number in range(pages):
            wish = {"page": number, "last": number == pages - 1, "services": page}
            self.successResultOf(self.pair.ask(self.pair.internal, commands.Declare, **wish))
        self.assertTrue(self.pair.dmz_leg.reading)
        for number in range(pages):
            wish = {"page": number, "last": number == pages - 1, "services": page}
            self.successResultOf(self.pair.ask(self.pair.internal, commands.Declare, **wish))
        self.assertFalse(self.pair.dmz_leg.reading)
        self.pair.dmz_leg.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_end_before_it_began(self) -> None:
        """Ending an uplink twice, or one that was never connected, does no harm."""
        self.pair.dmz.end("first")
        self.pair.dmz.end("second")
        self.pair.dmz_leg.lose()
        self.assertEqual(self.pair.dmz_end.lost, ["first"])
        Uplink(self.pair.dmz_end, self.clock, "x").end("never connected")
