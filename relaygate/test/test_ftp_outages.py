"""Tests of FTP sessions while parts of the gateway go away, or have no room."""

from __future__ import annotations

from typing import Any, Literal

from relaygate.errors import NoBackend, TooMany
from relaygate.test.farend import Ending, payload, until
from relaygate.test.ftpnodes import FTPCase
from relaygate.test.wire import lines, logged


class ShutdownTests(FTPCase):
    """A node is stopped."""

    async def test_internal_node(self) -> None:
        """Its clients hear 421, idle or in a transfer, and no file looks whole (Requirement 8)."""
        for busy in (False, True):
            for tls in (False, True):
                await self.begin("allow")
                client, backend = await self.logged_in(tls=tls)
                peers = []
                if busy:
                    data, inner = await self.transfer(client, b"STOR x")
                    data.send(b"half")
                    await inner.has(4)
                    peers = [data, inner]
                with logged() as events:
                    stopping = self.node.stopService()
                    await client.reply(421)
                    self.assertIs(await client.ended(), Ending.END)
                    for peer in peers:
                        self.assertIs(await peer.ended(), Ending.RESET)
                    client.close()
                    await stopping
                self.assertTrue(
                    [line for line in lines(events, " end: ") if "outcome=shutdown/relay" in line]
                )
                await backend.ended()
                await self.all_over()

    async def test_dmz_node(self) -> None:
        """A DMZ node that stops leaves no half file that looks whole (Requirement 28)."""
        for command in (b"RETR x", b"STOR x"):
            await self.begin()
            client, backend = await self.logged_in()
            data, inner = await self.transfer(client, command)
            source, sink = (inner, data) if command == b"RETR x" else (data, inner)
            source.send(b"half")
            await sink.has(4)
            stopping = self.dmz.stopService()
            assert stopping is not None
            await stopping
            for peer in (data, inner, client):
                self.assertIs(await peer.ended(), Ending.RESET)
            await backend.ended()
            await until(lambda: not self.node._sessions, "the session's end inside")


class UplinkTests(FTPCase):
    """The uplink is lost."""

    @property
    def link(self) -> Any:
        """The internal node's link to the DMZ node."""
        (found,) = [service for service in self.node if hasattr(service, "dataway")]
        return found

    async def test_lost(self) -> None:
        """Transfers that run go on; new ones are 425 until it is back (Requirement 8)."""
        await self.begin()
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"STOR x")
        data.send(payload(100_000))
        await inner.has(100_000)
        await self.link.stopService()
        data.send(payload(100_000))
        data.finish()
        await inner.got(payload(100_000) * 2)
        inner.close()
        data.close()
        backend.say(b"226 done")
        await client.reply(226)
        await client.ask(b"EPSV", 425)
        await client.ask(b"RETR x", 425)
        await client.ask(b"NOOP", 200)
        self.link.startService()
        await until(lambda: self.link.up, "the next uplink")
        data, inner = await self.transfer(client, b"RETR x")
        inner.send(b"back")
        inner.finish()
        await data.got(b"back")
        data.close()
        backend.say(b"226 done")
        await client.reply(226)
        await self.nothing_left()

    async def test_lost_with_a_transfer_prepared(self) -> None:
        """What was prepared is gone with it, and the next one is not (Requirement 8)."""
        await self.begin()
        client, _ = await self.logged_in()
        await self.passive(client)
        inner = await self.backend.data()
        await self.link.stopService()
        self.assertIs(await inner.ended(), Ending.RESET)
        await client.ask(b"RETR x", 425)
        await self.nothing_left()
        self.link.startService()
        await until(lambda: self.link.up, "the next uplink")
        await self.passive(client)
        self.assertEqual(len(self.bound), 1)


class RefusalTests(FTPCase):
    """Sessions that do not come about."""

    async def test_no_backend(self) -> None:
        """Nobody there is 421, or an alert where TLS is implicit (Requirement 7, 42)."""
        protocols: tuple[Literal["ftp", "ftps"], ...] = ("ftp", "ftps")
        for protocol in protocols:
            await self.begin("require", protocol=protocol)
            self.backend.close()
            client = self.client()
            self.assertIs(await client.ended(), Ending.END)
            self.assertEqual(client.received, NoBackend().words(protocol))
            client.close()
            await self.all_over()

    async def test_full(self) -> None:
        """One session too many is 421; the ones before are not disturbed (Requirement 7)."""
        await self.begin(max_sessions=1)
        first, _ = await self.logged_in()
        second = self.client()
        self.assertEqual(await second.reply(421), TooMany.ftp)
        await self.is_over(second)
        await first.ask(b"NOOP", 200)
        first.close()
        await self.all_over()
        await self.logged_in()

    async def test_idle(self) -> None:
        """An idle session ends with 421, one with a transfer does not (Requirement 8, 15)."""
        await self.begin(idle_timeout_s=0.4)
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x")
        for _ in range(8):
            inner.send(b"x")
            await data.has_more()
            await until(self.later(0.1), "a moment")
        self.assertIs(client.ending, None)
        inner.finish()
        await data.got(b"x" * 8)
        data.close()
        backend.say(b"226 done")
        await client.reply(226)
        await client.reply(421)
        await self.is_over(client)
        await self.all_over()

    def later(self, seconds: float) -> Any:
        """A condition that comes true after so many seconds."""
        end = self.dmz._reactor.seconds() + seconds
        return lambda: self.dmz._reactor.seconds() > end
