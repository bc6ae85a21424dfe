"""AS2 both ways through both nodes: messages in and out, receipts at once and later."""

from __future__ import annotations

import random
import socket
import ssl
from typing import Any, Final

from twisted.trial.unittest import TestCase

from relaygate.test.as2 import Answer, Party, Request, post, serving
from relaygate.test.certificates import ServerCA
from relaygate.test.gateway import service
from relaygate.test.netns import Network
from relaygate.test.peers import Server, dial, in_thread
from relaygate.test.wayoutnet import PROXY_PORT, WayOutGateway, entry

INSIDE: Final = Network.private_address
OUTSIDE: Final = Network.outside_address
NAME: Final = "as2.example"
CLEAR_PORT, SECURE_PORT, AS2_PORT = 8080, 8443, 4080
# Text, as EDI is; encrypted and in base64 it is long enough to leave the HTTP code.
CONTENT: Final = "'\r\n".join(
    f"LIN+{n}++{random.Random(n).randbytes(60).hex()}:EN" for n in range(4000)
).encode()


class AS2Tests(TestCase):
    """
    A company inside, a partner outside, and nothing between them but the gateway.

    The company's messages and later receipts leave by the entry that speaks HTTP.
    """

    timeout = 240

    async def setUp(self) -> None:  # type: ignore[override]
        self.ca = ServerCA(self)
        shown = self.ca.issue(NAME)
        tls = {"certificate": str(shown.certificate), "key": str(shown.key)}
        backend = f"{INSIDE}:{AS2_PORT}"
        self.gateway = WayOutGateway(
            self,
            [entry("proxy", "http-connect", PROXY_PORT)],
            services=[
                service("as2", "http", CLEAR_PORT, backend),
                service("as2s", "https", SECURE_PORT, backend, tls=tls),
            ],
        )
        self.company, self.partner = Party("company"), Party('"A  partner"')
        self.sources: set[str] = set()
        self.later: list[tuple[str, Any]] = []
        inside = serving(lambda request: self.got(self.company, self.partner, request))
        outside = serving(lambda request: self.got(self.partner, self.company, request))

        def noting(peer: socket.socket) -> None:
            self.sources.add(peer.getpeername()[0])
            outside(peer)

        Server(self, self.gateway.private, INSIDE, AS2_PORT, inside)
        Server(self, self.gateway.outside, OUTSIDE, AS2_PORT, noting)
        await self.gateway.start()

    def got(self, party: Party, other: Party, request: Request) -> Answer:
        """A message, which is answered with its receipt or has it sent later, or a receipt."""
        if request.target == "/receipts":
            party.check(request.head, request.body)
            return Answer(204)
        receipt = party.open(request, other)
        if receipt.mdn_mode == "SYNC":
            return Answer(200, receipt.headers, receipt.content)
        self.later.append((receipt.mdn_url, receipt))
        return Answer(200)

    def from_outside(
        self,
        target: str,
        fields: dict[str, str],
        body: bytes,
        *,
        secure: bool,
        chunked: bool = False,
    ) -> tuple[int, bytes, bytes]:
        """What the partner posts to the gateway's listener."""
        port = SECURE_PORT if secure else CLEAR_PORT
        tls = ssl.create_default_context(cafile=self.ca.file) if secure else None
        skt = dial(self.gateway.outside, self.gateway.host, port)
        return post(skt, target, NAME, fields, body, tls, chunked=chunked)

    def from_inside(
        self, target: str, fields: dict[str, str], body: bytes
    ) -> tuple[int, bytes, bytes]:
        """What the company posts to the partner's server, by way of the entry."""
        skt = dial(self.gateway.private, INSIDE, PROXY_PORT)
        host = f"{OUTSIDE}:{AS2_PORT}"
        return post(skt, f"http://{host}{target}", host, fields, body)

    def agree(self, sender: Party, receiver: Party, count: int, content: bytes = CONTENT) -> None:
        """Both ends have the same content and MIC, and the last receipt says so."""
        self.assertEqual((len(receiver.received), len(sender.receipts)), (count, count))
        receipt, found = sender.receipts[-1]
        self.assertEqual(found, ("processed", None))
        sent, received = sender.sent[receipt.orig_message_id], receiver.received[-1]
        self.assertTrue(sent.mic)
        self.assertEqual(received.mic, sent.mic)
        self.assertEqual(received.digest_alg, "sha256")
        self.assertTrue(received.signed and received.encrypted)
        self.assertTrue(received.content == content)

    async def test_in(self) -> None:
        """
        Requirement 62: a message comes in by HTTP and HTTPS, with a length or in chunks; its answer
        is its receipt.
        """
        ways = ((False, False), (True, False), (False, True), (True, True))
        for count, (secure, chunked) in enumerate(ways, start=1):
            message = self.partner.message(self.company, CONTENT)
            status, head, body = await in_thread(
                self.from_outside,
                "/as2",
                message.headers,
                message.content,
                secure=secure,
                chunked=chunked,
            )
            self.assertEqual(status, 200)
            self.assertNotIn(b"transfer-encoding", head.lower())
            self.partner.check(head, body)
            self.agree(self.partner, self.company, count)

    async def test_in_large(self) -> None:
        """Requirement 62: a large message streams; neither node ever holds much of it."""
        content = CONTENT * 14
        message = await in_thread(self.partner.message, self.company, content)
        self.assertGreater(len(message.content), 7 << 20)
        nodes = (self.gateway.dmz, self.gateway.node)
        before = [node.rss_kb() for node in nodes]
        _, head, body = await in_thread(
            self.from_outside,
            "/as2",
            message.headers,
            message.content,
            secure=True,
            chunked=True,
        )
        self.partner.check(head, body)
        self.agree(self.partner, self.company, 1, content)
        for node, was in zip(nodes, before, strict=True):
            self.assertLess(node.rss_kb() - was, 5 << 10)

    async def test_in_receipt_later(self) -> None:
        """Requirement 63: the receipt goes out by the entry, to the URL in the message."""
        url = f"http://{OUTSIDE}:{AS2_PORT}/receipts"
        message = self.partner.message(self.company, CONTENT, url)

        def talk() -> tuple[int, int]:
            fields, content = message.headers, message.content
            first, _, _ = self.from_outside("/as2", fields, content, secure=True)
            ((asked, receipt),) = self.later
            self.assertEqual(asked, url)
            second, _, _ = self.from_inside("/receipts", receipt.headers, receipt.content)
            return first, second

        self.assertEqual(await in_thread(talk), (200, 204))
        self.agree(self.partner, self.company, 1)
        self.assertEqual(self.sources, {self.gateway.host})

    async def test_out(self) -> None:
        """A message of the company's leaves by the entry, and its receipt is the answer."""
        message = self.company.message(self.partner, CONTENT)
        status, head, body = await in_thread(
            self.from_inside, "/as2", message.headers, message.content
        )
        self.assertEqual(status, 200)
        self.company.check(head, body)
        self.agree(self.company, self.partner, 1)
        self.assertEqual(self.sources, {self.gateway.host})

    async def test_out_receipt_later(self) -> None:
        """Requirement 63: a partner's later receipt comes in as any POST."""
        message = self.company.message(
            self.partner, CONTENT, f"https://{NAME}:{SECURE_PORT}/receipts"
        )

        def talk() -> tuple[int, int]:
            first, _, _ = self.from_inside("/as2", message.headers, message.content)
            ((_, receipt),) = self.later
            fields, content = receipt.headers, receipt.content
            second, _, _ = self.from_outside("/receipts", fields, content, secure=True)
            return first, second

        self.assertEqual(await in_thread(talk), (200, 204))
        self.agree(self.company, self.partner, 1)
