"""AMP's boxes in one go: the same as Twisted reads and writes."""

from __future__ import annotations

from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from relaygate.arguments import BadArgument
from relaygate.boxes import BoxReader, serialized
from relaygate.commands import ALL, Connect
from relaygate.test.properties import given, st
from relaygate.test.test_uplink import SAMPLES

BOXES = st.lists(
    st.dictionaries(
        st.binary(min_size=1, max_size=255), st.binary(max_size=400), min_size=1, max_size=8
    ).map(amp.AmpBox),
    max_size=4,
)


class ReaderTests(SynchronousTestCase):
    """Bytes in, boxes out."""

    @given(BOXES, st.integers(1, 50))
    def test_as_amp_reads(self, boxes: list[amp.AmpBox], size: int) -> None:
        """What AMP writes is read, whole, in pieces, and with a tail that waits for more."""
        data = b"".join(box.serialize() for box in boxes)
        self.assertEqual(BoxReader(8).receive(data), boxes)
        reader = BoxReader(8)
        found = []
        for at in range(0, len(data), size):
            found += reader.receive(data[at : at + size])
        self.assertEqual(found, boxes)
        self.assertEqual(reader.receive(b"\0"), [])
        self.assertEqual(reader.rest, b"\0")

    @given(st.lists(st.binary(max_size=80), max_size=6))
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Any bytes are read or refused, and nothing but one string is kept back."""
        reader = BoxReader(4)
        try:
            for piece in pieces:
                reader.receive(piece)
                self.assertLess(len(reader.rest), 2 + 0xFFFF)
        except BadArgument:
            pass

    def test_bounds(self) -> None:
        """Too long a key and too many of them are refused before the box is whole."""
        with self.assertRaises(BadArgument):
            BoxReader(2).receive(b"\1\0")
        keys = b"".join(b"\0\1%d\0\0" % number for number in range(3))
        BoxReader(3).receive(keys)
        with self.assertRaises(BadArgument):
            BoxReader(2).receive(keys)

    @given(BOXES)
    def test_written(self, boxes: list[amp.AmpBox]) -> None:
        """What is written is what AMP reads."""
        data = b"".join(serialized(box) for box in boxes)
        self.assertEqual(amp.parseString(data), boxes)

    def test_too_long(self) -> None:
        """What AMP has no room for is not written."""
        for box in (amp.AmpBox({b"k" * 256: b""}), amp.AmpBox({b"k": b"v" * 65_536})):
            with self.assertRaises(amp.TooLong):
                serialized(box)


class CommandTests(SynchronousTestCase):
    """Arguments to boxes and back."""

    def test_as_amp_has_them(self) -> None:
        """Every command is put and understood as Twisted's own way has it."""
        twisted = amp.Command
        for command in ALL.values():
            values = SAMPLES[command]
            made = command.makeArguments(values, None)
            theirs = twisted.makeArguments.__func__(command, values, None)  # type: ignore[attr-defined]
            self.assertEqual(made, theirs)
            self.assertEqual(
                command.parseArguments(made, None),
                twisted.parseArguments.__func__(command, theirs, None),  # type: ignore[attr-defined]
            )

    def test_wrong_arguments(self) -> None:
        """An argument that is missing, or is none, is never sent."""
        values = SAMPLES[Connect]
        for wrong in ({**values, "more": 1}, {**values, "host": None}, {}):
            with self.assertRaises(amp.InvalidSignature):
                Connect.makeArguments(wrong, None)

    def test_missing_ones(self) -> None:
        """A box in which one is missing is not understood."""
        made = Connect.makeArguments(SAMPLES[Connect], None)
        del made[b"host"]
        with self.assertRaises(KeyError):
            Connect.parseArguments(made, None)
