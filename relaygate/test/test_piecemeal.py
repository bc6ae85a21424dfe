"""Tests of looking at much in pieces."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate.piecemeal import PIECE, piecemeal


class PiecemealTests(SynchronousTestCase):
    """One who looks, and a clock that turns by hand."""

    def look(self, items: list[int]) -> Deferred[None]:
        """Look at *items*; what has been seen is in ``seen``."""
        self.clock = Clock()
        self.seen: list[int] = []
        # How many had been seen each time that the reactor was to turn.
        self.turned: list[int] = []
        later = self.clock.callLater

        def turn(delay_s: float, act: Callable[..., object], *arguments: object) -> object:
            self.turned.append(len(self.seen))
            return later(delay_s, act, *arguments)

        self.patch(self.clock, "callLater", turn)

        async def look() -> None:
            async for item in piecemeal(items, self.clock):
                self.seen.append(item)

        return Deferred.fromCoroutine(look())

    def test_turns(self) -> None:
        """The reactor turns after each piece; what comes and goes meanwhile changes nothing."""
        items = list(range(2 * PIECE + 1))
        whole = list(items)
        done = self.look(items)
        self.assertNoResult(done)
        self.assertEqual(self.seen, whole[:PIECE])
        items.clear()
        self.clock.advance(0)
        self.successResultOf(done)
        self.assertEqual(self.seen, whole)
        self.assertEqual(self.turned, [PIECE, 2 * PIECE])

    def test_few(self) -> None:
        """Few are looked at in one turn, and so are none."""
        self.successResultOf(self.look([1, 2]))
        self.assertEqual(self.seen, [1, 2])
        self.successResultOf(self.look([]))
        self.assertEqual(self.clock.getDelayedCalls(), [])
