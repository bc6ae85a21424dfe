"""FTP sessions over hours of a moved clock, and settings that change while they run."""

from __future__ import annotations

import shutil
import time
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.trial.unittest import TestCase

from relaygate.test.farend import reactor, until
from relaygate.test.ftpnodes import FTPCase, key_files
from relaygate.test.test_mapped import noted

HOURS = 5
MINUTE_S = 60.0


class MovedReactor:
    """The reactor, with a clock that a test may put forward, and names of the test's own."""

    def __init__(self, case: TestCase) -> None:
        # What certificates are looked at by; it starts as the true time.
        self._clock = Clock()
        self._ahead_s = time.time() - reactor.seconds()
        self.seconds = self._clock.seconds
        self.names: dict[str, str] = {}
        self._tick()
        ticking = LoopingCall(self._tick)
        ticking.start(0.005)
        case.addCleanup(ticking.stop)

    def _tick(self) -> None:
        due_s = reactor.seconds() + self._ahead_s - self._clock.seconds()
        self._clock.advance(max(0.0, due_s))

    def callLater(self, delay: float, *call: Any, **more: Any) -> Any:
        """See :class:`twisted.internet.interfaces.IReactorTime`."""
        return self._clock.callLater(delay, *call, **more)

    def resolve(self, name: str, *_: Any) -> Deferred[str]:
        """See :class:`twisted.internet.interfaces.IReactorCore`."""
        found = self.names.get(name)
        return succeed(found) if found else fail(DNSLookupError(name))

    async def pass_by(self, seconds: float) -> None:
        """Let time pass, and then the reactor do what is due, such as to answer pings."""
        self._ahead_s += seconds
        self._tick()
        for _ in range(3):
            await deferLater(reactor, 0.002)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class HoursTests(FTPCase):
    """Transfers that last."""

    timeout = 200

    async def test_transfers_of_hours(self) -> None:
        """While bytes move nothing ends, and after it the control connection is there (Requirement
        15; Lesson 15).
        """
        moved = MovedReactor(self)
        await self.begin(clock=moved)
        client, backend = await self.logged_in()
        for command in (b"RETR x", b"STOR x"):
            data, inner = await self.transfer(client, command)
            source, sink = (inner, data) if command == b"RETR x" else (data, inner)
            for _ in range(HOURS * 60):
                source.send(b"x")
                await sink.has_more()
                await moved.pass_by(MINUTE_S)
            self.assertIs(client.ending, None)
            self.assertIs(backend.ending, None)
            source.finish()
            await sink.got(b"x" * HOURS * 60)
            sink.close()
            backend.say(b"226 done")
            await client.reply(226)
            await client.ask(b"NOOP", 200)
        # What is idle ends, after a quarter of an hour.
        for _ in range(14):
            await moved.pass_by(MINUTE_S)
        self.assertIs(client.ending, None)
        for _ in range(4):
            await moved.pass_by(MINUTE_S)
        await client.reply(421)

    async def test_stalled(self) -> None:
        """A transfer in which nothing moves ends after the same time (Requirement 15)."""
        moved = MovedReactor(self)
        await self.begin(clock=moved)
        client, backend = await self.logged_in()
        data, _ = await self.transfer(client, b"RETR x")
        for _ in range(19):
            await moved.pass_by(MINUTE_S)
        await data.is_reset()
        backend.say(b"426 gone")
        await client.reply(426)
        await client.ask(b"NOOP", 200)


class LoginTests(FTPCase):
    """Who does not log in."""

    async def test_login_that_never_comes(self) -> None:
        """Commands in time do not prolong the time to log in (Requirement 86)."""
        moved = MovedReactor(self)
        await self.begin(clock=moved)
        client, other = self.client(), self.client()
        await client.reply(220)
        await other.reply(220)
        for line in (b"USER mina", b"PASS sesame"):
            await other.ask(line)
        for _ in range(4):
            await client.ask(b"USER mina", 331)
            await moved.pass_by(MINUTE_S)
        self.assertIs(client.ending, None)
        await moved.pass_by(MINUTE_S)
        await client.reply(421)
        await self.is_over(client)
        await other.ask(b"NOOP", 200)
        other.say(b"QUIT")
        await other.reply(221)
        await self.is_over(other)
        await self.all_over()

    async def password_waits(self) -> None:
        """Let a password come to where it waits: time that passes before counts for nothing."""

        def waits() -> bool:
            calls = [each._password for each in self.running]
            return any(call is not None and call.active() for call in calls)

        await until(waits, "a waiting password")

    async def test_guessing(self) -> None:
        """Who guesses passwords waits ever longer, in another session too (Requirement 87)."""
        moved = MovedReactor(self)
        await self.begin(clock=moved)
        self.backend.answers[b"PASS"] = b"530 no"
        client = self.client()
        await client.reply(220)
        for _ in range(3):
            await client.ask(b"USER mina", 331)
            await client.ask(b"PASS guess", 530)
        other = self.client()
        await other.reply(220)
        backend = self.backend.controls[-1]
        for seconds in (1.0, 2.0, 4.0):
            await other.ask(b"USER mina", 331)
            other.say(b"PASS guess", b"NOOP")
            await self.password_waits()
            await moved.pass_by(seconds - 0.9)
            self.assertEqual(backend.commands[-1], b"USER mina")
            await moved.pass_by(1.0)
            await other.reply(530)
            await other.reply(200)
        self.backend.answers[b"PASS"] = b"230 in"
        await other.ask(b"USER mina", 331)
        other.say(b"PASS right")
        await self.password_waits()
        await moved.pass_by(5.1)
        await other.reply(230)
        self.backend.answers[b"PASS"] = b"530 no"
        for _ in range(3):
            await other.ask(b"USER mina", 331)
            await other.ask(b"PASS guess", 530)
        await client.ask(b"USER mina", 331)
        client.say(b"PASS guess")
        await self.password_waits()
        for peer in (client, other):
            peer.reset()
        await self.all_over()
        await moved.pass_by(10.0)
        self.assertEqual(self.backend.controls[0].commands[-1], b"USER mina")


class SettingsTests(FTPCase):
    """What is looked up, and what is read again."""

    async def test_public_name(self) -> None:
        """A name is resolved for each answer; one that is not there is 425 (Requirement 19)."""
        moved = MovedReactor(self)
        await self.begin(clock=moved, public_addresses={"": "ftp.example"})
        told = noted(self)
        client, _ = await self.logged_in()
        for address in ("203.0.113.7", "203.0.113.8"):
            moved.names["ftp.example"] = address
            self.assertIn(address.replace(".", ",").encode(), await client.ask(b"PASV", 227))
        moved.names.clear()
        await client.ask(b"PASV", 425)
        words = "public_address ftp.example cannot be resolved: name not found"
        self.assertTrue(any(words in line for line in told()), told())
        await client.ask(b"NOOP", 200)

    async def test_new_certificate(self) -> None:
        """New sessions are shown the new one; those that run go on with theirs, data as well."""
        await self.begin("require")
        older, backend = await self.logged_in(tls=True)
        shown = older.tls.get_peer_certificate()
        assert shown is not None
        assert self.keys is not None
        again = key_files(self, "other.example")
        shutil.copyfile(again.certificate, self.keys.certificate)
        shutil.copyfile(again.key, self.keys.key)
        self.node.reload()
        newer, _ = await self.logged_in(tls=True)
        now = newer.tls.get_peer_certificate()
        assert now is not None
        self.assertNotEqual(shown.get_serial_number(), now.get_serial_number())
        data, inner = await self.transfer(older, b"RETR x")
        await data.secured()
        inner.send(b"whole")
        inner.finish()
        await data.got(b"whole")
        same = data.tls.get_peer_certificate()
        assert same is not None
        self.assertEqual(shown.get_serial_number(), same.get_serial_number())
        data.close()
        backend.say(b"226 done")
        await older.reply(226)
