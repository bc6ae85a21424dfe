"""Tests of the messages on a data channel: their bytes, their keys, and who may say them when."""

from __future__ import annotations

import struct

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.preamble import (
    MAGIC,
    MAX_PAYLOAD,
    OPEN_BYTES,
    TAG_BYTES,
    ChannelOpen,
    Message,
    MessageReader,
    OpenReader,
    PreambleError,
    SerialWindow,
    SessionReply,
    SessionStart,
    TransferStart,
    UplinkKeys,
    seal,
)
from relaygate.test.parsercases import Outcome, ParserCases
from relaygate.test.properties import given, st

KEY = b"k" * 32
KEYS = UplinkKeys(b"i" * 16, b"s" * 32)
OPEN = KEYS.open(7)
START = SessionStart(
    session="0123456789abcdef",
    service="sftp",
    client=("2001:db8::7", 40_000),
    reached=("192.0.2.1", 22),
    patience_ms=20_000,
)
TRANSFER = TransferStart(session="0123456789abcdef", transfer=513)
REPLY = SessionReply(3)

OPEN_CASES: ParserCases[OpenReader] = ParserCases(
    make=OpenReader,
    receive=lambda reader, data: reader.receive(data),
    found=lambda reader: reader.found,
    violation=PreambleError,
)


def message_cases(*expected: type[Message], key: bytes = KEY) -> ParserCases[MessageReader]:
    """Make the cases of the end that waits for one of the messages *expected*."""
    return ParserCases(
        make=lambda: MessageReader(expected, key),
        receive=lambda reader, data: reader.receive(data),
        found=lambda reader: reader.found,
        violation=PreambleError,
    )


START_CASES = message_cases(SessionStart)
EITHER_CASES = message_cases(SessionStart, TransferStart)
REPLY_CASES = message_cases(SessionReply)
EACH = (
    (START_CASES, seal(START, KEY)),
    (EITHER_CASES, seal(TRANSFER, KEY)),
    (REPLY_CASES, seal(REPLY, KEY)),
)

_SHORT = st.text(max_size=60)
_PORTS = st.integers(0, 65_535)
STARTS = st.builds(
    SessionStart,
    session=_SHORT,
    service=_SHORT,
    client=st.tuples(_SHORT, _PORTS),
    reached=st.tuples(_SHORT, _PORTS),
    patience_ms=st.integers(0, 2**32 - 1),
)
SERIALS = st.integers(0, 2**64 - 1)


class OpenTests(SynchronousTestCase):
    """The first message of a channel."""

    def test_layout(self) -> None:
        """The open is magic and version, uplink id, serial and proof, 61 bytes in all."""
        data = bytes(OPEN)
        self.assertEqual(len(data), OPEN_BYTES)
        self.assertEqual(OPEN_BYTES, 61)
        self.assertEqual(data[:5], b"RLGC\x01")
        self.assertEqual(data[5:21], b"i" * 16)
        self.assertEqual(data[21:29], (7).to_bytes(8))
        self.assertEqual(data[29:], OPEN.proof)

    def test_arrives_in_any_pieces(self) -> None:
        """An open is found whole, byte by byte and cut anywhere, and what follows is left over."""
        self.assertEqual(OPEN_CASES.check(bytes(OPEN)), Outcome((OPEN,), OPEN))

    def test_cut_short(self) -> None:
        """An end at any byte before the last is one cut short."""
        for length in range(OPEN_BYTES):
            self.assertTrue(OPEN_CASES.check(bytes(OPEN)[:length]).cut_short, length)

    def test_refused_at_the_first_wrong_byte(self) -> None:
        """Whatever cannot be an open is refused with the byte that shows it, not after 61."""
        for at in range(len(MAGIC)):
            wrong = MAGIC[:at] + bytes((MAGIC[at] ^ 1,))
            reader = OpenReader()
            self.assertEqual(reader.receive(wrong[:-1]), [])
            self.assertRaises(PreambleError, reader.receive, wrong[-1:])

    @given(st.binary(max_size=200) | st.binary(max_size=100).map(MAGIC.__add__))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are an open, part of one, or a PreambleError, however they are split."""
        OPEN_CASES.check(data)

    @given(st.binary(min_size=16, max_size=16), SERIALS, st.binary(min_size=32, max_size=32))
    def test_round_trip(self, uplink_id: bytes, serial: int, proof: bytes) -> None:
        """What is written is what is read."""
        message = ChannelOpen(uplink_id, serial, proof)
        self.assertEqual(OpenReader().receive(bytes(message)), [message])


class ProofTests(SynchronousTestCase):
    """Who can open a channel (Requirement 85)."""

    def test_own_proof(self) -> None:
        """The other end of the uplink takes the proof that this end made."""
        self.assertTrue(UplinkKeys(b"i" * 16, b"s" * 32).proves(OPEN))

    def test_another_secret(self) -> None:
        """A proof of another uplink's secret opens nothing, even under this uplink's id."""
        self.assertFalse(UplinkKeys(b"i" * 16, b"t" * 32).proves(OPEN))

    def test_another_id(self) -> None:
        """A proof under another uplink's id opens nothing, even with this uplink's secret."""
        self.assertFalse(UplinkKeys(b"j" * 16, b"s" * 32).proves(OPEN))

    def test_another_serial(self) -> None:
        """A proof that was seen cannot be carried over to another serial."""
        self.assertFalse(KEYS.proves(ChannelOpen(OPEN.uplink_id, 8, OPEN.proof)))

    def test_every_bit_counts(self) -> None:
        """A proof with any one bit turned proves nothing."""
        for bit in range(256):
            proof = bytearray(OPEN.proof)
            proof[bit // 8] ^= 1 << bit % 8
            self.assertFalse(KEYS.proves(ChannelOpen(OPEN.uplink_id, 7, bytes(proof))), bit)

    @given(SERIALS, SERIALS)
    def test_keys_differ(self, one: int, other: int) -> None:
        """No two serials share a key, and no key is a proof that crosses the wire."""
        keys = {KEYS.channel_key(one), KEYS.channel_key(other)}
        proofs = {KEYS.open(one).proof, KEYS.open(other).proof}
        self.assertEqual(len(keys), len({one, other}))
        self.assertFalse(keys & proofs)


class MessageTests(SynchronousTestCase):
    """The start and the reply."""

    def test_layout_of_a_start(self) -> None:
        """A start is kind, length, three numbers, four texts and a tag of 16 bytes."""
        data = seal(START, KEY)
        payload = (
            struct.pack(">IHH", 20_000, 40_000, 22)
            + b"\x100123456789abcdef"
            + b"\x04sftp"
            + b"\x0b2001:db8::7"
            + b"\x09192.0.2.1"
        )
        self.assertEqual(data[:-TAG_BYTES], b"S" + struct.pack(">H", len(payload)) + payload)

    def test_layout_of_a_reply(self) -> None:
        """A reply is kind, length, one byte and a tag."""
        data = seal(REPLY, KEY)
        self.assertEqual(data[:-TAG_BYTES], b"R\x00\x01\x03")
        self.assertEqual(len(data), 4 + TAG_BYTES)

    def test_layout_of_a_transfer(self) -> None:
        """A transfer's start is kind, length, a number of four bytes, one text and a tag."""
        data = seal(TRANSFER, KEY)
        payload = b"\0\0\x02\x01\x100123456789abcdef"
        self.assertEqual(data[:-TAG_BYTES], b"T" + struct.pack(">H", len(payload)) + payload)

    def test_either_start(self) -> None:
        """One reader takes either kind of start, and no third kind."""
        for message in (START, TRANSFER):
            self.assertEqual(EITHER_CASES.check(seal(message, KEY)), Outcome((message,), message))
        self.assertIn("another message", str(EITHER_CASES.check(seal(REPLY, KEY)).error))

    def test_arrives_in_any_pieces(self) -> None:
        """Both are found in any pieces, and the session's first bytes behind them are left over."""
        self.assertEqual(START_CASES.check(seal(START, KEY)), Outcome((START,), START))
        self.assertEqual(REPLY_CASES.check(seal(REPLY, KEY)), Outcome((REPLY,), REPLY))

    def test_cut_short(self) -> None:
        """An end before the last byte of the tag is one cut short."""
        for cases, data in EACH:
            for length in range(len(data)):
                self.assertTrue(cases.check(data[:length]).cut_short, length)

    def test_wrong_key(self) -> None:
        """A message of another channel's key is refused (Requirement 85)."""
        for cases, message in (
            (START_CASES, START),
            (EITHER_CASES, TRANSFER),
            (REPLY_CASES, REPLY),
        ):
            self.assertIn("wrong tag", str(cases.check(seal(message, b"x" * 32)).error))

    def test_every_byte_is_tagged(self) -> None:
        """A message with any one byte changed is refused, or waits for bytes that never come."""
        for cases, data in EACH:
            for at in range(len(data)):
                changed = bytearray(data)
                changed[at] ^= 1
                outcome = cases.outcome([bytes(changed)])
                self.assertIsNone(outcome.found, at)
                self.assertIsNotNone(outcome.error, at)

    def test_wrong_kind(self) -> None:
        """The message of the other direction is refused at its first byte: nothing is mirrored."""
        self.assertIn("another message", str(START_CASES.check(seal(REPLY, KEY)).error))
        self.assertIn("another message", str(REPLY_CASES.check(seal(START, KEY)).error))
        self.assertIn("another message", str(REPLY_CASES.check(seal(TRANSFER, KEY)).error))
        self.assertIn("another message", str(START_CASES.check(seal(TRANSFER, KEY)).error))

    def test_too_long(self) -> None:
        """A length over the bound is refused before its bytes have come."""
        header = b"S" + struct.pack(">H", MAX_PAYLOAD + 1)
        self.assertIn("too long", str(START_CASES.check(header).error))
        self.assertTrue(START_CASES.check(b"S" + struct.pack(">H", MAX_PAYLOAD)).cut_short)

    def test_longest_start_fits(self) -> None:
        """A start whose four texts are as long as a length byte allows is within the bound."""
        text = "x" * 255
        start = SessionStart(text, text, (text, 65_535), (text, 65_535), 2**32 - 1)
        longest = MessageReader([SessionStart], KEY).receive(seal(start, KEY))
        self.assertEqual(longest, [start])

    def test_bytes_behind_the_last_text(self) -> None:
        """A start with bytes behind its last text, or without it, is refused though well tagged."""
        payload = bytes(START)
        for wrong in (payload + b"\0", payload[:-1], payload[:7], b""):
            self.assertRaises(PreambleError, SessionStart.parse, wrong)
        payload = bytes(TRANSFER)
        for wrong in (payload + b"\0", payload[:-1], payload[:4], payload[:3], b""):
            self.assertRaises(PreambleError, TransferStart.parse, wrong)

    def test_text_that_is_no_text(self) -> None:
        """A text that is not UTF-8 is refused."""
        payload = bytes(START).replace(b"sftp", b"\xff\xfe\xfd\xfc")
        self.assertRaises(PreambleError, SessionStart.parse, payload)

    def test_reply_of_another_length(self) -> None:
        """A reply of no byte or two is refused."""
        for wrong in (b"", b"\0\0"):
            self.assertRaises(PreambleError, SessionReply.parse, wrong)

    @given(STARTS)
    def test_starts_round_trip(self, start: SessionStart) -> None:
        """What is written as a start is what is read."""
        self.assertEqual(MessageReader([SessionStart], KEY).receive(seal(start, KEY)), [start])

    @given(st.builds(TransferStart, session=_SHORT, transfer=st.integers(0, 2**32 - 1)))
    def test_transfers_round_trip(self, start: TransferStart) -> None:
        """What is written as a transfer's start is what is read."""
        reader = MessageReader([SessionStart, TransferStart], KEY)
        self.assertEqual(reader.receive(seal(start, KEY)), [start])

    @given(st.integers(0, 255))
    def test_replies_round_trip(self, code: int) -> None:
        """What is written as a reply is what is read."""
        reply = SessionReply(code)
        self.assertEqual(MessageReader([SessionReply], KEY).receive(seal(reply, KEY)), [reply])

    @given(st.binary(max_size=120) | st.binary(max_size=60).map(lambda tail: b"S\x00\x10" + tail))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes raise only PreambleError, and splitting them changes nothing."""
        START_CASES.check(data)
        EITHER_CASES.check(data.replace(b"S", b"T", 1))
        REPLY_CASES.check(data.replace(b"S", b"R", 1))

    @given(st.binary(max_size=MAX_PAYLOAD))
    def test_any_payload(self, payload: bytes) -> None:
        """A payload that the right peer made badly raises only PreambleError."""
        for parse in (SessionStart.parse, TransferStart.parse, SessionReply.parse):
            try:
                message = parse(payload)
            except PreambleError:
                continue
            self.assertEqual(bytes(message), payload)


class SerialTests(SynchronousTestCase):
    """Each serial opens one channel (Requirement 85)."""

    def test_replay(self) -> None:
        """A serial that was used is refused for ever."""
        window = SerialWindow()
        for serial in (0, 5, 3, 2**63, 1):
            window.take(serial)
        for serial in (0, 5, 3, 2**63, 1):
            self.assertFalse(window.take(serial), serial)

    def test_any_order_within_the_width(self) -> None:
        """Channels that were dialled together are taken in whatever order they arrive."""
        window = SerialWindow()
        for serial in reversed(range(SerialWindow.WIDTH)):
            self.assertTrue(window.take(serial), serial)

    def test_older_than_the_window(self) -> None:
        """What is older than the window counts as used, though it never came."""
        window = SerialWindow()
        window.take(SerialWindow.WIDTH)
        self.assertFalse(window.take(0))
        self.assertTrue(window.take(1))

    @given(st.lists(st.integers(0, 3 * SerialWindow.WIDTH) | SERIALS, max_size=60))
    def test_against_a_set(self, serials: list[int]) -> None:
        """The window decides as a set would that forgets what lies behind its width."""
        window = SerialWindow()
        seen: set[int] = set()
        for serial in serials:
            fresh = serial not in seen and serial > max(seen, default=-1) - SerialWindow.WIDTH
            self.assertEqual(window.take(serial), fresh)
            seen.add(serial)
