"""Tests of how names are looked up: whom a silent name server keeps waiting, and whom not."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relaygate.resolver import MAX_ADDRESSES, MAX_LOOKUPS, Lookups, NotResolved
from relaygate.test.farend import PATIENCE_S, fails, reactor, until


class LookupTests(TestCase):
    """Names of which some are never answered."""

    timeout = 60

    def setUp(self) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []
        self.lookups = Lookups(reactor, self.look)
        self.addCleanup(self.finished)

    async def finished(self) -> None:
        """Let all threads end."""
        self.answer.set()
        await until(lambda: not len(self.lookups), "all answers")

    def look(self, name: str) -> Sequence[str]:
        """What the system would do; names below ``mute.example`` take long."""
        self.asked.append(name)
        if name.endswith(("mute.example", "mute-2.example")):
            self.answer.wait(PATIENCE_S)
            return ["192.0.2.1"]
        if name.startswith("no."):
            raise OSError("no such name")
        return ["192.0.2.2"] * 3 + [f"192.0.2.{number}" for number in range(3, 99)]

    def resolve(
        self, name: str, node: str = "node-a", limit_s: float = 40.0
    ) -> Deferred[Sequence[str]]:
        """Ask."""
        return Deferred.fromCoroutine(self.lookups.resolve(name, limit_s, node))

    async def test_answers(self) -> None:
        """Each address once, and not too many; a name that is not there, and one that is late."""
        found = await self.resolve("www.example")
        self.assertEqual(found[:2], ["192.0.2.2", "192.0.2.3"])
        self.assertEqual(len(found), MAX_ADDRESSES)
        await fails(self.resolve("no.example"), NotResolved)
        await fails(self.resolve("mute.example", limit_s=0.05), NotResolved)
        # The thread is still busy with it, and nobody else asks the same again.
        late = self.resolve("mute.example")
        self.answer.set()
        self.assertEqual(await late, ["192.0.2.1"])
        self.assertEqual(self.asked.count("mute.example"), 1)

    async def test_nobody_starves(self) -> None:
        """Requirement 66: who asks for what nobody answers takes a share, and waits itself."""
        stuck = [self.resolve(f"n{n}.mute.example") for n in range(200)]
        await until(lambda: len(self.asked) >= 20, "the first ones")
        # Other names of the same node, and of another one, are found.
        await self.resolve("www.example")
        await self.resolve("www.example", "node-b")
        stuck += [self.resolve(f"n{n}.mute-2.example") for n in range(200)]
        stuck += [self.resolve(f"n{n}.mute.example", "node-b") for n in range(200)]
        held = await self.held()
        self.assertTrue(MAX_LOOKUPS // 2 <= held < MAX_LOOKUPS, held)
        await self.resolve("www.example", "node-c")
        for each in stuck[100:]:
            each.cancel()
            each.addErrback(lambda _: None)
        # Nobody waits for these, and no thread was begun for them.
        await until(lambda: len(self.lookups) < 200, "what was given up")
        self.answer.set()
        for each in stuck[:100]:
            self.assertEqual(await each, ["192.0.2.1"])

    async def held(self) -> int:
        """How many threads are busy."""
        running = len([1 for each in threading.enumerate() if each.name == "relaygate-name"])
        await until(lambda: self.lookups._running >= running, "no more threads")
        return self.lookups._running

    async def test_no_thread(self) -> None:
        """Where the system has no thread for us there is no address, and nothing else happens."""

        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        self.patch(threading.Thread, "start", start)
        await fails(self.resolve("www.example"), NotResolved)
        self.assertEqual(len(self.lookups), 0)
