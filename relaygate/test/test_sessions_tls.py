"""Tests of services whose clients' TLS ends on the internal node, through both nodes."""

from __future__ import annotations

import os
import socket
import ssl
from datetime import UTC, datetime
from typing import Any

from relaygate import handshake, pki
from relaygate.config import KeyFiles
from relaygate.identity import Role
from relaygate.test.peers import in_thread
from relaygate.test.programs import new_folder
from relaygate.test.test_sessions import Echo, SessionCase
from relaygate.test.wire import lines, logged

BYTES = 3_000_000


class TLSTests(SessionCase):
    """A service of protocol tls with a certificate of its own."""

    async def begin(self) -> None:
        """Start both nodes with a backend that echoes in clear."""
        folder = new_folder(self)
        now = datetime.now(UTC)
        self.ca = pki.make_ca("service CA", now, 10)
        pki.create_node(self.ca, "files.example", Role.DMZ, now, 5, folder)
        self.files = KeyFiles(folder / "files.example.pem", folder / "files.example.key")
        await self.start("tls", Echo, tls=self.files)

    def connect(self, version: ssl.TLSVersion) -> ssl.SSLSocket:
        """A client that trusts the service's CA and speaks one version of TLS."""
        context = ssl.create_default_context(cadata=self.ca.certificate_pem.decode())
        context.minimum_version = context.maximum_version = version
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        self.addCleanup(plain.close)
        client = context.wrap_socket(plain, server_hostname="files.example")
        self.addCleanup(client.close)
        return client

    async def test_bytes(self) -> None:
        """A backend without TLS is reached by clients under it, 1.2 and 1.3, byte for byte."""
        await self.begin()
        data = os.urandom(BYTES)

        def talk(version: ssl.TLSVersion) -> bytes:
            client = self.connect(version)
            said = bytearray()
            for begin in range(0, BYTES, 100_000):
                client.sendall(data[begin : begin + 100_000])
                while len(said) < min(BYTES, begin + 100_000):
                    said += client.recv(1 << 16)
            # It closes with close_notify, and so do we.
            client.unwrap().close()
            return bytes(said)

        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with logged() as events:
                self.assertTrue(await in_thread(talk, version) == data)
                ended = await self.ends(events)
            self.assertTrue(all("outcome=done/relay" in line for line in ended), ended)
            self.assertTrue(any(f"bytes_in={BYTES} " in line for line in ended), ended)

    async def test_resumed(self) -> None:
        """A client that comes again resumes its session."""
        await self.begin()

        def twice() -> bool:
            client = self.connect(ssl.TLSVersion.TLSv1_2)
            session = client.session
            client.unwrap().close()
            plain = socket.create_connection(("127.0.0.1", self.port), 20)
            name = "files.example"
            with client.context.wrap_socket(plain, server_hostname=name, session=session) as again:
                return bool(again.session_reused)

        self.assertTrue(await in_thread(twice))

    async def test_not_tls(self) -> None:
        """Who does not speak TLS ends so, and the backend has not heard a byte."""
        await self.begin()
        with logged() as events:
            client = await self.client(b"GET / HTTP/1.0\r\n\r\n")
            await self.over(client)
            ended = await self.ends(events)
        (inside,) = (line for line in ended if "backend=" in line)
        self.assertIn("outcome=client/open", inside)
        self.assertIn("TLS: ", inside)
        self.assertIn("bytes_in=0 ", inside)

    async def test_slow_handshake(self) -> None:
        """Who says nothing has limited time (Requirement 86)."""
        self.patch(handshake, "HANDSHAKE_LIMIT_S", 0.2)
        await self.begin()
        with logged() as events:
            client = await self.client()
            self.assertEqual(await self.over(client), "reset")
            ended = await self.ends(events)
        self.assertTrue(any("took longer than 0.2 s" in line for line in ended), ended)

    async def test_renewed(self) -> None:
        """A certificate that was renewed is shown to the next client, without a restart."""
        await self.begin()
        await in_thread(self.connect, ssl.TLSVersion.TLSv1_3)
        self.ca = pki.make_ca("another CA", datetime.now(UTC), 10)
        pair = pki.issue(self.ca, "files.example", Role.DMZ, datetime.now(UTC), 5)
        self.files.certificate.write_bytes(pair.certificate_pem)
        self.files.key.write_bytes(pair.key_pem)
        with logged() as events:
            self.node.reload()
        self.assertEqual(len(lines(events, "service's TLS changed: name=svc")), 1)
        again: Any = await in_thread(self.connect, ssl.TLSVersion.TLSv1_3)
        self.assertEqual(again.version(), "TLSv1.3")
