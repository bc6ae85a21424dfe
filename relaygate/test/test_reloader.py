"""Tests of the order of reloads, whose files are read beside the reactor."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relaygate.admin import AdminError, Arguments
from relaygate.config import ConfigError
from relaygate.config.schema import Problem
from relaygate.tap import Reloader


class _Keeper:
    def reload(self) -> None:
        """The identity is the same."""


class _Node:
    def __init__(self) -> None:
        self.used: list[str] = []
        self.running = True

    def reload(self, config: str) -> list[str]:
        self.used.append(config)
        return [f"{config}: changed"]


class ReloaderTests(SynchronousTestCase):
    """Reloads by signal and by command."""

    def setUp(self) -> None:
        self.node = _Node()
        self.reading: list[Deferred[str]] = []
        self.reloader = Reloader(self.read, cast(Any, _Keeper()), cast(Any, self.node))

    def read(self) -> Deferred[str]:
        """The files are being read, until the test has read them."""
        self.reading.append(Deferred())
        return self.reading[-1]

    def order(self) -> Deferred[Any]:
        """An operator's command."""
        answer: Coroutine[Any, Any, Any] = self.reloader.answer(Arguments({}))
        return Deferred.fromCoroutine(answer)

    def test_one_after_the_other(self) -> None:
        """Files are not read again before what was read is in use."""
        first, second = self.reloader(), self.order()
        self.assertEqual(len(self.reading), 1)
        self.assertNoResult(first)
        self.reading[0].callback("old")
        self.successResultOf(first)
        self.assertEqual((self.node.used, len(self.reading)), (["old"], 2))
        self.assertNoResult(second)
        self.reading[1].callback("new")
        self.assertEqual(self.successResultOf(second), {"changes": ["new: changed"]})
        self.assertEqual(self.node.used, ["old", "new"])

    def test_storm(self) -> None:
        """Of many signals the first is heeded, and one that reads the files after the last."""
        done = [self.reloader() for _ in range(100)]
        self.reading[0].callback("old")
        self.successResultOf(done[0])
        for each in done[1:]:
            self.assertNoResult(each)
        self.reading[1].callback("new")
        for each in done[1:]:
            self.successResultOf(each)
        self.assertEqual(self.node.used, ["old", "new"])

    def test_wrong_file(self) -> None:
        """One that is wrong changes nothing, and the next one is heeded."""
        first, second = self.order(), self.reloader()
        self.reading[0].errback(ConfigError((Problem("node.toml", "a", "wrong"),)))
        self.assertIn("wrong", str(self.failureResultOf(first, AdminError).value))
        self.reading[1].callback("new")
        self.successResultOf(second)
        self.assertEqual(self.node.used, ["new"])

    def test_nobody_thought_of_it(self) -> None:
        """A reload that fails in another way is done, too, and the next one is heeded."""
        first = self.reloader()
        self.reading[0].errback(RuntimeError("no memory"))
        self.successResultOf(first)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        second = self.reloader()
        self.reading[1].callback("new")
        self.successResultOf(second)
        self.assertEqual(self.node.used, ["new"])

    def test_stopped(self) -> None:
        """A node that has stopped meanwhile is not given anything to open again."""
        first = self.reloader()
        self.node.running = False
        self.reading[0].callback("new")
        self.successResultOf(first)
        self.assertEqual(self.node.used, [])
