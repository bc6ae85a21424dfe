"""Tests of how transfers end: a file is whole on both sides, or neither believes that it is."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from typing import Any, Literal

from OpenSSL import SSL

from relaygate.servicetls import SessionTLS
from relaygate.test.farend import Ending, payload, unchanged
from relaygate.test.ftpnodes import CLIENT, GATE, FTPCase
from relaygate.test.peers import in_thread
from relaygate.test.test_quiettls import client_context
from relaygate.test.test_servicetls import client_context as openssl_context
from relaygate.test.test_servicetls import service_key

VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)
FILE_BYTES = 4_000_000


def _is_resumed(tls: Any) -> bool:
    """OpenSSL's own word for it, which pyOpenSSL does not pass on."""
    return bool(SSL._lib.SSL_session_reused(tls._ssl))  # type: ignore[attr-defined]


class WholeTests(FTPCase):
    """Files that pass."""

    async def test_slow_reader(self) -> None:
        """226 waits for a client that is slow to read, and for all of the file (Requirement 27)."""
        await self.begin()
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x", window=4096)
        data.pause()
        # More than all the kernels on the way keep.
        inner.send(payload(1_000_000), 16)
        inner.finish()
        backend.say(b"226 done")
        await unchanged(lambda: inner.sent, 1.5)
        self.assertEqual(client.unseen, b"")
        data.resume()
        await data.got(payload(1_000_000) * 16)
        self.assertEqual(client.unseen, b"")
        data.close()
        await client.reply(226)
        await self.nothing_left()

    async def test_client_that_does_not_close(self) -> None:
        """A client that waits for 226 before it closes gets it soon (Requirement 27)."""
        await self.begin("allow")
        for tls in (0, *VERSIONS):
            client, backend = await self.logged_in(tls=tls)
            data, inner = await self.transfer(client, b"RETR x")
            inner.send(b"it")
            inner.finish()
            backend.say(b"226 done")
            await data.got(b"it")
            await client.reply(226)
            data.close()
            await client.ask(b"NOOP", 200)
            client.close()
            await self.all_over()

    async def test_client_that_closes_without_a_word(self) -> None:
        """A download that was read to its end needs no close_notify (Requirement 27, 40)."""
        await self.begin("allow")
        for version in VERSIONS:
            for _ in range(5):
                client, backend = await self.logged_in(tls=version)
                data, inner = await self.transfer(client, b"RETR x")
                inner.send(payload(100_000))
                inner.finish()
                await data.got(payload(100_000))
                data.close()
                backend.say(b"226 done")
                await client.reply(226)
                client.close()
                await self.all_over()

    async def test_upload_reaches_the_backend(self) -> None:
        """Nothing says 226 but the backend, and it has the file's end by then (Requirement 28)."""
        await self.begin("allow")
        for tls in (0, *VERSIONS):
            client, backend = await self.logged_in(tls=tls)
            data, inner = await self.transfer(client, b"STOR x")
            inner.pause()
            data.send(payload(FILE_BYTES))
            data.finish()
            client.say(b"NOOP")
            await unchanged(partial(getattr, data, "sent"))
            self.assertEqual(backend.commands[-1], b"STOR x")
            inner.resume()
            await inner.got(payload(FILE_BYTES))
            self.assertEqual(client.unseen, b"")
            inner.close()
            data.close()
            backend.say(b"226 done")
            await client.reply(226)
            await client.reply(200)
            client.close()
            await self.all_over()

    async def test_226_before_the_end(self) -> None:
        """A backend that says 226 early is not followed by commands (Requirement 28)."""
        await self.begin()
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"STOR x")
        backend.say(b"226 done")
        client.say(b"DELE x")
        data.send(b"tail")
        await inner.has(4)
        self.assertEqual(backend.commands[-1], b"STOR x")
        self.assertEqual(client.unseen, b"")
        data.finish()
        await inner.got(b"tail")
        inner.close()
        await client.reply(226)
        await backend.heard(b"DELE x")

    async def test_empty_files(self) -> None:
        """Empty files pass both ways, also when closed before anything else (Requirement 29)."""
        await self.begin("allow")
        for tls in (0, *VERSIONS):
            client, backend = await self.logged_in(tls=tls)
            for command in (b"RETR x", b"STOR x", b"LIST"):
                data, inner = await self.transfer(client, command)
                first, second = (data, inner) if command == b"STOR x" else (inner, data)
                if tls:
                    await data.secured()
                first.finish()
                backend.say(b"226 done")
                await second.got(b"")
                second.finish()
                await client.reply(226)
                await first.got(b"")
                data.close()
                await self.nothing_left()
            client.close()
            await self.all_over()

    async def test_empty_upload_closed_early(self) -> None:
        """A client that connects and closes before STOR uploads an empty file (Requirement 29)."""
        await self.begin()
        client, backend = await self.logged_in()
        self.connect(await self.passive(client)).close()
        inner = await self.backend.data()
        await client.ask(b"STOR x", 150)
        await inner.got(b"")
        inner.close()
        backend.say(b"226 done")
        await client.reply(226)
        await self.nothing_left()

    async def test_sequences(self) -> None:
        """REST, APPE and STOU pass as they are, with nothing between them (Requirement 14)."""
        await self.begin()
        self.backend.answers |= {
            b"REST": b"350 go on",
            b"APPE": b"150 there",
            b"STOU": b"150 FILE: u.0001",
        }
        client, backend = await self.logged_in()
        for rest, command in (
            (b"REST 100", b"RETR x"),
            (b"REST 18446744073709551615", b"STOR x"),
            (None, b"APPE x"),
            (None, b"STOU"),
        ):
            data = self.connect(await self.passive(client))
            said = [each for each in (rest, command) if each]
            if rest:
                await client.ask(rest, 350)
            self.assertIn(b"FILE: u" if command == b"STOU" else b"ere", await client.ask(command))
            inner = await self.backend.data()
            source, sink = (inner, data) if command == b"RETR x" else (data, inner)
            source.send(b"x")
            source.finish()
            await sink.got(b"x")
            sink.finish()
            backend.say(b"226 done")
            await client.reply(226)
            self.assertEqual(backend.commands[-len(said) :], said)
            data.close()

    async def test_client_that_closes_at_once(self) -> None:
        """Uploads of clients that never read are whole, 20 of 20 (Requirement 38, 0.2)."""
        await self.begin("allow")
        client, backend = await self.logged_in(tls=True)
        version = ssl.TLSVersion.TLSv1_3

        def upload(port: int) -> None:
            plain = socket.create_connection((GATE, port), 20, (CLIENT, 0))
            data = client_context(version).wrap_socket(plain)
            data.sendall(payload(FILE_BYTES))
            # As rclone has it: close_notify, and no look at what the server has said.
            data.settimeout(0)
            try:
                data.unwrap()
            except (ssl.SSLWantReadError, BlockingIOError):
                pass
            data.close()

        for _ in range(20):
            port = await self.passive(client)
            await client.ask(b"STOR x", 150)
            inner = await self.backend.data()
            await in_thread(upload, port)
            await inner.got(payload(FILE_BYTES))
            inner.close()
            backend.say(b"226 done")
            await client.reply(226)

    async def test_half_closed_data(self) -> None:
        """A side that has nothing to say may say so early (Requirement 77)."""
        await self.begin()
        for command in (b"RETR x", b"STOR x"):
            client, backend = await self.logged_in()
            data, inner = await self.transfer(client, command)
            source, sink = (inner, data) if command == b"RETR x" else (data, inner)
            sink.finish()
            await source.ended()
            source.send(payload(FILE_BYTES))
            source.finish()
            await sink.got(payload(FILE_BYTES))
            backend.say(b"226 done")
            await client.reply(226)
            await self.nothing_left()
            client.close()


class CutTests(FTPCase):
    """Files that do not pass."""

    async def test_truncated_upload(self) -> None:
        """TLS without its end is 426, and a reset for the backend (Requirement 28, 40)."""
        await self.begin("allow")
        for version in VERSIONS:
            for reset in (False, True):
                client, backend = await self.logged_in(tls=version)
                data, inner = await self.transfer(client, b"STOR x")
                data.send(payload(100_000))
                await inner.has(100_000)
                (data.reset if reset else data.cut)()
                self.assertIs(await inner.ended(), Ending.RESET)
                backend.say(b"226 I have it all")
                await client.reply(426)
                await self.nothing_left()
                await client.ask(b"NOOP", 200)
                client.close()

    async def test_truncated_upload_accepted(self) -> None:
        """For clients that never end TLS there is a switch; a reset stays one (Requirement 40)."""
        await self.begin("allow", truncated="accept")
        for reset in (False, True):
            client, backend = await self.logged_in(tls=VERSIONS[1])
            data, inner = await self.transfer(client, b"STOR x")
            data.send(b"all there is")
            await inner.has(12)
            (data.reset if reset else data.cut)()
            if reset:
                self.assertIs(await inner.ended(), Ending.RESET)
            else:
                await inner.got(b"all there is")
                inner.close()
            backend.say(b"226 done")
            await client.reply(426 if reset else 226)
            client.close()

    async def test_reset_by_the_client(self) -> None:
        """A client that resets its data has the backend's reset, both ways (Requirement 28)."""
        await self.begin("allow")
        for tls in (0, *VERSIONS):
            for command in (b"RETR x", b"STOR x"):
                client, backend = await self.logged_in(tls=tls)
                data, inner = await self.transfer(client, command)
                source, sink = (inner, data) if command == b"RETR x" else (data, inner)
                source.send(payload(10_000))
                await sink.has(10_000)
                data.reset()
                self.assertIs(await inner.ended(), Ending.RESET)
                backend.say(b"226 done")
                await client.reply(426)
                await self.nothing_left()
                client.close()

    async def test_reset_by_the_backend(self) -> None:
        """A download that breaks is a reset to the client, not an end (Requirement 28, 40)."""
        await self.begin("allow")
        for tls in (0, *VERSIONS):
            client, backend = await self.logged_in(tls=tls)
            data, inner = await self.transfer(client, b"RETR x")
            inner.send(payload(10_000))
            await data.has(10_000)
            inner.reset()
            self.assertIs(await data.ended(), Ending.RESET)
            backend.say(b"226 done")
            await client.reply(426)
            client.close()

    async def test_truncated_by_the_backend(self) -> None:
        """TLS of the backend's that has no end is no file either (Requirement 40)."""
        await self.begin(backend_tls="explicit")
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x")
        inner.send(payload(10_000))
        await data.has(10_000)
        inner.cut()
        self.assertIs(await data.ended(), Ending.RESET)
        backend.say(b"226 done")
        await client.reply(426)


class ClientTLSTests(FTPCase):
    """TLS of the client's data connections."""

    async def test_not_resumed(self) -> None:
        """Where it is demanded, data that does not resume the session is 522 (Requirement 37)."""
        await self.begin("allow", session_reuse="require")
        for version in VERSIONS:
            client, backend = await self.logged_in(tls=version)
            context, client.context = client.context, None
            data, inner = await self.transfer(client, b"RETR x")
            data.start_tls(SSL.Connection(openssl_context(version), data.socket))
            data.tls.set_connect_state()
            self.assertIs(await data.ended(), Ending.RESET)
            self.assertIs(await inner.ended(), Ending.RESET)
            self.assertEqual(data.count, 0)
            backend.say(b"426 lost you")
            await client.reply(522)
            await self.nothing_left()
            client.context = context
            data, inner = await self.transfer(client, b"RETR x")
            inner.send(b"secret")
            inner.finish()
            await data.got(b"secret")
            data.close()
            backend.say(b"226 done")
            await client.reply(226)
            client.close()


class BackendTLSTests(FTPCase):
    """TLS towards the backend."""

    async def test_resumed(self) -> None:
        """Every data connection resumes the control connection's session (Requirement 35)."""
        modes: tuple[Literal["explicit", "on"], ...] = ("explicit", "on")
        for mode in modes:
            for version in VERSIONS:
                await self.begin(backend_tls=mode)
                self.backend.tls.context.set_max_proto_version(version)
                client, backend = await self.logged_in()
                for command in (b"RETR x", b"STOR x") * 3:
                    data, inner = await self.transfer(client, command)
                    source, sink = (inner, data) if command == b"RETR x" else (data, inner)
                    source.send(payload(FILE_BYTES // 10))
                    await sink.has(FILE_BYTES // 10)
                    self.assertTrue(_is_resumed(inner.tls), (mode, version))
                    source.finish()
                    await sink.got(payload(FILE_BYTES // 10))
                    sink.finish()
                    backend.say(b"226 done")
                    await client.reply(226)
                    data.close()
                self.assertFalse(_is_resumed(backend.tls))
                client.close()
                await self.all_over()

    async def test_another_peer(self) -> None:
        """Data that leads to another certificate than the control connection's is not trusted,
        though its authority and its name are right (Requirement 36).
        """
        await self.begin(backend_tls="explicit")
        client, backend = await self.logged_in()
        self.backend.tls = SessionTLS(service_key("ftp.inside", "more.inside"))
        data = self.connect(await self.passive(client))
        await client.ask(b"RETR x", 150)
        await data.is_reset()
        backend.say(b"426 gone")
        await client.reply(425)
        await client.ask(b"NOOP", 200)

    async def test_backend_that_never_says_goodbye(self) -> None:
        """An upload waits for a backend's close_notify, but not for ever (Requirement 39)."""
        await self.begin(backend_tls="explicit")
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"STOR x")
        data.send(payload(FILE_BYTES))
        data.finish()
        await inner.got(payload(FILE_BYTES))
        backend.say(b"226 done")
        await client.reply(226)
        await client.ask(b"NOOP", 200)
