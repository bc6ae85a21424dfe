"""Tests of backends that lie, break off, or say nothing: the client hears so, in FTP's words."""

from __future__ import annotations

import socket
from collections.abc import Callable

from relaygate import ftpdata, ftprelay, ftpways
from relaygate.protocols.ftpeffects import Wait
from relaygate.test.farend import Ending, payload
from relaygate.test.ftpnodes import BACKEND, CLIENT, INSIDE, STRANGER, FTPCase
from relaygate.test.ftppeers import BackendLine, Door
from relaygate.test.wire import lines, logged


class AddressTests(FTPCase):
    """What a backend says about where its data is."""

    async def test_other_addresses(self) -> None:
        """Only the control connection's own host is dialled (Requirement 16, 17)."""
        await self.begin()
        client, _ = await self.logged_in()
        dialled: list[socket.socket] = []
        self.backend.answers[b"EPSV"] = b"502 no"
        hosts = (STRANGER, "0.0.0.0", INSIDE, "10.1.2.3")
        for host in hosts:
            port = self.backend.listen()
            try:
                trap = Door(host if host.startswith("127") else STRANGER, dialled.append, port)
            except OSError:
                continue
            numbers = f"{host.replace('.', ',')},{port // 256},{port % 256}"
            self.backend.answers[b"PASV"] = f"227 over there {numbers}".encode()
            data, inner = await self.transfer(client, b"RETR x")
            self.assertEqual(inner.socket.getsockname()[0], BACKEND)
            inner.send(b"from the backend")
            inner.finish()
            await data.got(b"from the backend")
            data.close()
            (await self.backend.control()).say(b"226 done")
            await client.reply(226)
            trap.close()
        self.assertEqual(dialled, [])
        await self.nothing_left()

    async def test_garbage(self) -> None:
        """An address that is none is 425, and the session goes on (Requirement 8, 16, 18)."""
        await self.begin()
        client, backend = await self.logged_in()
        for answer in (
            b"229 what",
            b"229 (|||0|)",
            b"229 (|||65536|)",
            b"229 (||||)",
            b"229 (|||99999999999999999999|)",
            b"227 1,2,3",
            b"227 1,2,3,4,0,0",
            b"227 256,2,3,4,5,6",
            b"200 fine",
            b"229-two\r\n229 lines",
        ):
            self.backend.answers[b"EPSV"] = answer
            await client.ask(b"EPSV", 425)
            await client.ask(b"RETR x", 425)
        self.assertNotIn(b"RETR x", backend.commands)
        await self.nothing_left()

    async def test_address_that_nobody_asked_for(self) -> None:
        """An address in the answer to another command never reaches a client (Requirement 13)."""
        await self.begin()
        client, _ = await self.logged_in()
        for answer in (b"227 (127,0,0,2,4,5)", b"229 (|||2000|)", b"228 (1,2,3,4)"):
            self.backend.answers[b"SITE"] = answer
            self.assertNotIn(b"(", await client.ask(b"SITE PASV"))

    async def test_nobody_there(self) -> None:
        """A port of the backend's that refuses is 425, for PASV and PORT (Requirement 8)."""
        await self.begin()
        client, backend = await self.logged_in()
        with socket.create_server((BACKEND, 0)) as closed:
            port = closed.getsockname()[1]
        self.backend.answers[b"EPSV"] = b"229 (|||%d|)" % port
        await client.ask(b"EPSV", 229)
        await client.ask(b"RETR x", 425)
        with socket.create_server((CLIENT, 0)) as waiting:
            await client.ask(b"EPRT |1|%s|%d|" % (CLIENT.encode(), waiting.getsockname()[1]), 200)
            await client.ask(b"RETR x", 425)
        self.assertNotIn(b"RETR x", backend.commands)
        await self.nothing_left()

    async def test_data_from_elsewhere(self) -> None:
        """Where the backend dials, nobody else gets in (Requirement 23)."""
        await self.begin(backend_mode="active")
        self.backend.answers[b"PORT"] = b"200 port"
        client, backend = await self.logged_in()
        port = await self.passive(client)
        numbers = [int(each) for each in backend.commands[-1].removeprefix(b"PORT ").split(b",")]
        self.assertEqual(numbers[:4], [127, 0, 0, 1])
        there = (INSIDE, numbers[4] * 256 + numbers[5])
        with socket.create_connection(there, 5, (STRANGER, 0)) as stranger:
            data = self.connect(port)
            await client.ask(b"LIST", 150)
            skt = socket.create_connection(there, 5, (BACKEND, 0))
            skt.sendall(b"a listing")
            skt.close()
            await data.got(b"a listing")
            stranger.settimeout(5)
            # Not an end, which would be an empty upload, whole.
            self.assertRaises(ConnectionResetError, stranger.recv, 9)
        data.close()
        backend.say(b"226 done")
        await client.reply(226)
        await self.nothing_left()


class RefusalTests(FTPCase):
    """Transfers that a backend does not want."""

    async def test_refused(self) -> None:
        """A transfer that is refused is given back, wherever it stands (Requirement 26)."""
        await self.begin("allow")
        for tls in (False, True):
            client, backend = await self.logged_in(tls=tls)
            for connects in (False, True):
                for code in (450, 550, 226, 425):
                    self.backend.answers[b"RETR"] = b"%d so it is" % code
                    port = await self.passive(client)
                    data = self.connect(port) if connects else None
                    await client.ask(b"RETR x", code)
                    if data is not None:
                        self.assertIs(await data.ended(), Ending.RESET)
                    await self.nothing_left()
            client.close()
            await backend.ended()
        await self.all_over()

    async def test_refused_while_dialling(self) -> None:
        """A failure that follows 150 before the client is reached is told (Requirement 26)."""
        await self.begin()
        self.backend.answers[b"RETR"] = b"150 here\r\n425 or not"
        client, _ = await self.logged_in()
        with socket.create_server((CLIENT, 0)) as waiting:
            await client.ask(b"EPRT |1|%s|%d|" % (CLIENT.encode(), waiting.getsockname()[1]), 200)
            await client.ask(b"RETR x", 425)
            await self.nothing_left()
            await client.ask(b"NOOP", 200)

    async def test_broken_off(self) -> None:
        """A backend that says 426 has its word passed on, the data is reset (Requirement 8)."""
        await self.begin()
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x")
        inner.send(b"half")
        await data.has(4)
        inner.reset()
        backend.say(b"426 disk gone")
        self.assertIn(b"disk gone", await client.reply(426))
        self.assertIs(await data.ended(), Ending.RESET)
        await self.nothing_left()

    async def test_reset_and_226(self) -> None:
        """A backend that resets its data and says 226 is not believed (Requirement 28)."""
        await self.begin()
        for command in (b"RETR x", b"STOR x"):
            client, backend = await self.logged_in()
            data, inner = await self.transfer(client, command)
            inner.reset()
            backend.say(b"226 done")
            await client.reply(426)
            self.assertIs(await data.ended(), Ending.RESET)
            await client.ask(b"NOOP", 200)
            await self.nothing_left()

    async def test_early_226(self) -> None:
        """226 that comes before the data is told behind it (Requirement 27)."""
        await self.begin()
        self.backend.answers[b"RETR"] = b"150 here\r\n226 done"
        client, _ = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x")
        inner.send(payload(300_000))
        await data.has(300_000)
        self.assertEqual(client.unseen, b"")
        inner.finish()
        await data.got(payload(300_000))
        data.close()
        await client.reply(226)
        await self.nothing_left()

    async def test_closed_at_once(self) -> None:
        """A data connection that the backend closes at once is an empty file (Requirement 29)."""
        await self.begin()
        client, backend = await self.logged_in()
        port = await self.passive(client)
        inner = await self.backend.data()
        inner.close()
        data = self.connect(port)
        await client.ask(b"RETR x", 150)
        await data.got(b"")
        data.close()
        backend.say(b"226 done")
        await client.reply(226)
        await self.nothing_left()


class EndTests(FTPCase):
    """Backends that leave, or wait."""

    async def at_moments(self, strike: Callable[[BackendLine], object], words: bytes) -> None:
        """Let a backend *strike* at each moment of a session; the client is told *words*."""
        for moment in range(7):
            client, backend = await self.logged_in()
            data = inner = None
            if moment == 1:
                client.say(b"SYST")
                await backend.heard(b"SYST")
            elif moment == 2:
                await self.passive(client)
            elif moment == 3:
                data = self.connect(await self.passive(client))
            elif moment == 4:
                data, inner = await self.transfer(client, b"RETR x")
                inner.send(b"half")
                await data.has(4)
            elif moment == 5:
                data, inner = await self.transfer(client, b"STOR x")
                data.send(b"half")
                await inner.has(4)
            elif moment == 6:
                data, inner = await self.transfer(client, b"STOR x")
                data.finish()
                await inner.ended()
            strike(backend)
            self.assertIn(words, await client.reply(421), moment)
            self.assertIs(await client.ended(), Ending.END)
            self.assertEqual(client.unseen, b"")
            for peer in (data, inner):
                if peer is not None:
                    if moment == 6 and peer is inner:
                        continue
                    self.assertIs(await peer.ended(), Ending.RESET, moment)
            client.close()
            await self.all_over()

    async def test_421(self) -> None:
        """A 421 is passed on at any moment, and everything ends (Requirement 8)."""
        await self.begin()
        await self.at_moments(lambda backend: backend.say(b"421 the cleaner is here"), b"cleaner")

    async def test_gone(self) -> None:
        """A backend that leaves in order leaves a 421 behind (Requirement 7)."""
        await self.begin()
        await self.at_moments(lambda backend: backend.close(), b"not available")

    async def test_reset(self) -> None:
        """So does one that breaks off (Requirement 7)."""
        await self.begin()
        await self.at_moments(lambda backend: backend.reset(), b"not available")

    async def test_never_greets(self) -> None:
        """A backend that never greets costs its client half a minute at most (Requirement 7)."""
        self.patch(ftprelay, "LIMITS_S", ftprelay.LIMITS_S | {Wait.OPENING: 0.1})
        await self.begin()
        self.backend.greeting = None
        with logged() as events:
            client = self.client()
            await client.reply(421)
            await self.is_over(client)
            await self.all_over()
        self.assertTrue(lines(events, "outcome=timeout/relay"))

    async def test_greeting_refused(self) -> None:
        """A greeting of another kind is passed on and ends the session (Requirement 7)."""
        await self.begin()
        for greeting in (b"421 full", b"530 closed today", b"300 what"):
            self.backend.greeting = greeting
            client = self.client()
            await client.reply(int(greeting[:3]))
            await self.is_over(client)
        self.backend.greeting = b"120 soon\r\n220 now"
        client = self.client()
        await client.reply(120)
        await client.reply(220)

    async def test_never_answers(self) -> None:
        """A command that is never answered ends the session (Requirement 5)."""
        self.patch(ftprelay, "LIMITS_S", ftprelay.LIMITS_S | {Wait.REPLY: 0.1})
        await self.begin()
        for command in (b"SYST", b"EPSV", b"RETR x"):
            self.backend.answers.pop(command.partition(b" ")[0], None)
            client, _ = await self.logged_in()
            if command == b"RETR x":
                self.backend.answers[b"EPSV"] = self.backend._passive
                data = self.connect(await self.passive(client))
            await client.ask(command, 421)
            await self.is_over(client)
            await self.all_over()
        self.assertIs(await data.ended(), Ending.RESET)

    async def test_silent_data(self) -> None:
        """A transfer in which nothing moves ends in time (Requirement 15)."""
        self.patch(ftpdata, "STALL_LIMIT_S", 0.2)
        await self.begin()
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x")
        self.assertIs(await data.ended(), Ending.RESET)
        self.assertIs(await inner.ended(), Ending.RESET)
        backend.say(b"226 done")
        await client.reply(426)
        await self.nothing_left()

    async def test_final_reply_never_comes(self) -> None:
        """The last word of a transfer has a limit as well (Requirement 5)."""
        self.patch(ftprelay, "LIMITS_S", ftprelay.LIMITS_S | {Wait.REPLY: 0.2})
        await self.begin()
        client, _ = await self.logged_in()
        data, inner = await self.transfer(client, b"STOR x")
        data.send(b"all of it")
        data.finish()
        await inner.got(b"all of it")
        inner.finish()
        await client.reply(421)
        await self.is_over(client)
        await self.all_over()

    async def test_data_that_goes_on_after_a_failure(self) -> None:
        """Data that a backend sends behind its 5yz does not hold the session (Requirement 27)."""
        self.patch(ftprelay, "LIMITS_S", ftprelay.LIMITS_S | {Wait.DRAIN: 0.2})
        await self.begin()
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x")
        backend.say(b"551 disk error")
        inner.send(b"more")
        self.assertIn(b"disk error", await client.reply(551))
        self.assertIs(await data.ended(), Ending.RESET)
        self.assertIs(await inner.ended(), Ending.RESET)
        await self.nothing_left()

    async def test_port_that_nobody_comes_to(self) -> None:
        """A backend that does not dial where it should ends in 425 (Requirement 8)."""
        self.patch(ftpways, "LISTEN_LIMIT_S", 0.2)
        await self.begin(backend_mode="active")
        self.backend.answers[b"PORT"] = b"200 port"
        client, backend = await self.logged_in()
        data = self.connect(await self.passive(client))
        await client.ask(b"RETR x", 150)
        self.assertIs(await data.ended(), Ending.RESET)
        backend.say(b"425 where are you")
        await client.reply(425)
        await self.nothing_left()
        await client.ask(b"NOOP", 200)

    async def test_flood_in_a_transfer(self) -> None:
        """Replies without end in a transfer end nothing but themselves (Requirement 4)."""
        await self.begin()
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x")
        inner.send(payload(1_000_000))
        backend.send(b"125 going on\r\n" * 1000)
        for _ in range(1000):
            await client.reply(125)
        inner.finish()
        await data.got(payload(1_000_000))
        data.close()
        backend.say(b"226 done")
        await client.reply(226)
        await self.nothing_left()
