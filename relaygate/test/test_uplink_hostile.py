"""Tests of an uplink against a peer that sends whatever it likes."""

from __future__ import annotations

from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from relaygate import commands
from relaygate.arguments import Flag, Number, Octets, Rows, Text
from relaygate.test.properties import given, st
from relaygate.test.test_uplink import INWARDS, SAMPLES, PairCase
from relaygate.test.wire import MemoryLeg, box, boxes, lines, logged
from relaygate.uplink import MAX_KEYS, Uplink

PING = box(b"Ping")
VALUE = st.binary(max_size=30) | st.sampled_from([b"True", b"1", b"0", b"x" * 65_535])


def wrong_values(argument: amp.Argument) -> list[bytes]:
    """Values of the wrong type, or beyond the bounds, of *argument*."""
    if isinstance(argument, Text):
        return [b"\xff\xfe", b"x" * (argument.longest + 1), b"x" * 65_535, b"two\nlines"]
    if isinstance(argument, Number):
        beyond = str(argument.most + 1).encode()
        return [b"", b"-1", b"one", b"\xff", b"1" * 65_535, beyond]
    if isinstance(argument, Flag):
        return [b"", b"yes", b"\xff", b"1"]
    if isinstance(argument, Octets):
        return [b"x" * (argument.most + 1)]
    assert isinstance(argument, Rows)
    one = amp.AmpBox(a=b"1").serialize()
    return [b"\xff" * 300, one, one * (argument.most + 1), b"\0\0" * 30_000]


class HostileCase(PairCase):
    """Tests that write bytes of their own on a greeted uplink."""

    def victim(self, command: bytes) -> tuple[Uplink, MemoryLeg]:
        """The end that answers *command*, and its leg."""
        if commands.ALL[command] in INWARDS:
            return self.pair.internal, self.pair.internal_leg
        return self.pair.dmz, self.pair.dmz_leg

    def said(self, leg: MemoryLeg) -> dict[bytes, bytes]:
        """The one box that was answered on *leg*."""
        (answer,) = boxes(leg.take())
        return answer

    def sample(self, command: type[amp.Command]) -> amp.AmpBox:
        """A good box that asks *command*."""
        made: amp.AmpBox = command.makeArguments(SAMPLES[command], None)
        made[b"_command"], made[b"_ask"] = command.commandName, b"1"
        return made

    def prepare(self, command: type[amp.Command]) -> tuple[Uplink, MemoryLeg]:
        """A fresh end that is ready for *command*."""
        self.setUp()
        if command is not commands.Hello:
            self.greet()
        return self.victim(command.commandName)


class ArgumentTests(HostileCase):
    """Boxes that are AMP, and no good command."""

    def test_samples_are_answered(self) -> None:
        """The good boxes that these tests start from are answered."""
        for command in commands.ALL.values():
            uplink, leg = self.prepare(command)
            uplink.dataReceived(self.sample(command).serialize())
            self.assertIn(b"_answer", self.said(leg), command)

    def test_missing_arguments(self) -> None:
        """A command without any one of its arguments is refused, and the uplink stays."""
        for command in commands.ALL.values():
            for name, _ in command.arguments:
                uplink, leg = self.prepare(command)
                made = self.sample(command)
                del made[name]
                uplink.dataReceived(made.serialize())
                self.assertEqual(self.said(leg)[b"_error_code"], b"BAD_ARGUMENT", name)
                self.assert_works()

    def test_wrong_arguments(self) -> None:
        """Any argument of the wrong type, too long, or not UTF-8 is refused; the uplink stays."""
        for command in commands.ALL.values():
            for name, argument in command.arguments:
                for value in wrong_values(argument):
                    uplink, leg = self.prepare(command)
                    made = self.sample(command)
                    made[name] = value
                    uplink.dataReceived(made.serialize())
                    answer = self.said(leg)
                    self.assertEqual(answer.get(b"_error_code"), b"BAD_ARGUMENT", (name, value[:9]))
                    self.assert_works()

    def test_unknown_arguments(self) -> None:
        """An argument that only a newer version knows is ignored, and the rest served."""
        for command in commands.ALL.values():
            uplink, leg = self.prepare(command)
            made = self.sample(command)
            made[b"from-the-future"] = b"\xff" * 1000
            uplink.dataReceived(made.serialize())
            self.assertIn(b"_answer", self.said(leg), command)

    def test_unknown_command(self) -> None:
        """A command that only a newer version knows is answered as unknown; the uplink stays."""
        for name in (b"FromTheFuture", b"", b"\xff" * 65_535):
            self.setUp()
            self.greet()
            self.pair.dmz.dataReceived(box(name))
            self.assertEqual(self.said(self.pair.dmz_leg)[b"_error_code"], b"UNHANDLED")
            self.assert_works()

    def test_starttls(self) -> None:
        """AMP's own StartTLS is unknown: nobody can change an uplink's TLS from within it."""
        self.greet()
        self.pair.dmz.dataReceived(box(b"StartTLS"))
        self.assertEqual(self.said(self.pair.dmz_leg)[b"_error_code"], b"UNHANDLED")
        self.assert_works()

    def test_failing_without_being_asked(self) -> None:
        """A bad command that wants no answer gets none; it closes nothing and logs no error."""
        self.greet()
        for made in (
            amp.AmpBox(_command=b"Nonsense"),
            amp.AmpBox(_command=b"Hello"),
            amp.AmpBox(_command=b"Declare", page=b"x"),
        ):
            self.pair.dmz.dataReceived(made.serialize())
            self.assertEqual(self.pair.dmz_leg.take(), b"")
        self.assert_works()


class GarbageTests(HostileCase):
    """Bytes that are not AMP, or too much of it."""

    def assert_ended_by(self, *pieces: bytes) -> None:
        """Check that *pieces* end the uplink, with one reason and no error in the log."""
        self.setUp()
        self.greet()
        for piece in pieces:
            self.pair.dmz.dataReceived(piece)
        self.assertTrue(self.pair.dmz_leg.ending, pieces)
        self.pair.dmz_leg.lose()
        self.assertEqual(len(self.pair.dmz_end.lost), 1)

    def test_not_amp(self) -> None:
        """What is not AMP ends the uplink."""
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 400, b"\0\0", b"SSH-2.0-x\r\n"):
            self.assert_ended_by(data)

    def test_boxes_that_say_nothing(self) -> None:
        """A box that neither asks nor answers ends the uplink."""
        self.assert_ended_by(amp.AmpBox(a=b"b").serialize())

    def test_answers_to_nothing(self) -> None:
        """An answer or an error to a question that was never asked ends the uplink."""
        self.assert_ended_by(amp.AmpBox(_answer=b"77").serialize())
        self.assert_ended_by(
            amp.AmpBox(_error=b"77", _error_code=b"X", _error_description=b"").serialize()
        )

    def test_too_many_keys(self) -> None:
        """A box with more keys than any command has ends the uplink."""
        keys = {b"k%d" % number: b"v" for number in range(MAX_KEYS + 1)}
        self.assert_ended_by(amp.AmpBox(keys).serialize())

    def test_endless_box(self) -> None:
        """A box that never ends is cut off after a bounded number of keys, whatever its size."""
        self.greet()
        sent = 0
        while not self.pair.dmz_leg.ending:
            self.pair.dmz.dataReceived(b"\0\x04" + b"%04d" % sent + b"\xff\xff" + b"v" * 65_535)
            sent += 1
            self.assertLessEqual(sent, MAX_KEYS + 1)

    def test_words_in_the_log(self) -> None:
        """The reason says what it was, and nothing that the peer sent."""
        self.greet()
        with logged() as events:
            self.pair.dmz.dataReceived(amp.AmpBox({b"evil\n": b"evil\n"}).serialize())
        self.pair.dmz_leg.lose()
        (reason,) = self.pair.dmz_end.lost
        self.assertIn("what came is not the protocol", reason)
        self.assertNotIn("evil", reason + "".join(lines(events)))

    @given(st.lists(st.binary(max_size=60), max_size=6))
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Any bytes, in any pieces, leave the uplink working or ended: nothing is raised."""
        self.setUp()
        self.greet()
        for piece in pieces:
            if not self.pair.dmz_leg.ending:
                self.pair.dmz.dataReceived(piece)
        self.assertEqual(self.flushLoggedErrors(), [])

    @given(
        st.sampled_from([*commands.ALL, b"StartTLS", b"Other"]),
        st.dictionaries(
            st.sampled_from(
                [name for command in commands.ALL.values() for name, _ in command.arguments]
                + [b"_ask", b"_answer", b"_error", b"_error_code"]
            ),
            VALUE,
            max_size=6,
        ),
    )
    def test_any_boxes(self, command: bytes, fields: dict[bytes, bytes]) -> None:
        """A command with any values for any keys is answered, or ends the uplink; no more."""
        self.setUp()
        self.greet()
        made = amp.AmpBox({b"_command": command} | fields)
        self.pair.dmz.dataReceived(made.serialize())
        if not self.pair.dmz_leg.ending:
            self.pair.dmz_leg.take()
            self.pair.dmz.dataReceived(PING)
            self.assertEqual(self.said(self.pair.dmz_leg), {b"_answer": b"1"})
        self.assertEqual(self.flushLoggedErrors(), [])


class ToolTests(SynchronousTestCase):
    """The tools of these tests."""

    def test_boxes(self) -> None:
        """What is written as boxes is read as boxes."""
        data = box(b"A", one_two=b"3") + box(b"B")
        first, second = boxes(data)
        self.assertEqual(first, {b"_command": b"A", b"_ask": b"1", b"one-two": b"3"})
        self.assertEqual(second, {b"_command": b"B", b"_ask": b"1"})
