"""Tests of the first message of TLS: what is seen in it, however it comes."""

from __future__ import annotations

import ssl

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.clienthello import MAX_HELLO, ClientHello, ClientHelloReader, NotTLS
from relaygate.test.parsercases import ParserCases
from relaygate.test.properties import given, st

CASES = ParserCases(
    make=ClientHelloReader,
    receive=lambda reader, data: (reader.receive(data), ())[1],
    found=lambda reader: reader.hello,
    violation=NotTLS,
)


def hello(
    name: str | None = "files.example",
    alpn: tuple[str, ...] = (),
    most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> bytes:
    """What Python's own TLS says at first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = most
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def split(data: bytes, size: int) -> bytes:
    """The message of *data* in records of *size* bytes."""
    message = data[5:]
    pieces = [message[i : i + size] for i in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


class HelloTests(SynchronousTestCase):
    """Messages, good and bad."""

    def seen(self, data: bytes) -> ClientHello:
        """What is seen in *data*, in every way in which it may come."""
        found = CASES.check(data).found
        assert isinstance(found, ClientHello)
        return found

    def test_real(self) -> None:
        """Name, protocols and version of a real client."""
        self.assertEqual(
            self.seen(hello("Files.Example", ("h2", "http/1.1"))),
            ClientHello("files.example", ("h2", "http/1.1"), "1.3"),
        )
        self.assertEqual(self.seen(hello(None)), ClientHello(None, (), "1.3"))
        old = hello(most=ssl.TLSVersion.TLSv1_2)
        self.assertEqual(self.seen(old), ClientHello("files.example", (), "1.2"))

    def test_records(self) -> None:
        """One message in many records."""
        whole = hello(alpn=("http/1.1",))
        for size in (1, 7, 100):
            self.assertEqual(
                CASES.outcome([split(whole, size)]).found, CASES.outcome([whole]).found
            )

    def test_not_tls(self) -> None:
        """Another protocol is refused by its first bytes."""
        for data in (b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x80\x2e\x01", b"\x16\x02\x01"):
            self.assertIsNotNone(CASES.check(data).error)
        alert = b"\x15\x03\x01\x00\x02\x02\x28"
        self.assertIsNotNone(CASES.check(alert).error)

    def test_bounds(self) -> None:
        """What is too long is refused when its length is known."""
        long = b"\x16\x03\x01\x40\x00\x01\x00\x50\x00"
        self.assertIsNotNone(CASES.outcome([long]).error)
        records = b"\x16\x03\x01\x10\x00\x01\x00\x3f\x00" + bytes(4092)
        self.assertIsNotNone(CASES.outcome([records + records[:5] * (MAX_HELLO // 5)]).error)
        self.assertIsNotNone(CASES.outcome([b"\x16\x03\x01\x00\x00"]).error)

    def test_broken_inside(self) -> None:
        """Lengths that do not fit are violations."""
        good = hello()
        for at in (9, 43, 44, len(good) - 1):
            cut = good[:at]
            length = (len(cut) - 5).to_bytes(2, "big")
            message = (len(cut) - 9).to_bytes(3, "big")
            self.assertIsNotNone(
                CASES.check(b"\x16\x03\x01" + length + b"\x01" + message + cut[9:]).error
            )

    def test_cut_short(self) -> None:
        """An end within the message is a violation."""
        self.assertTrue(CASES.outcome([hello()[:-1]]).cut_short)

    @given(st.data())
    def test_any_bytes(self, data: st.DataObject) -> None:
        """Any change of a real message raises nothing but violations."""
        good = bytearray(hello(alpn=("h2",)))
        for _ in range(data.draw(st.integers(0, 4))):
            good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
        size = data.draw(st.integers(1, 600))
        pieces = [bytes(good[i : i + size]) for i in range(0, len(good), size)]
        self.assertEqual(CASES.outcome(pieces), CASES.outcome([bytes(good)]))
