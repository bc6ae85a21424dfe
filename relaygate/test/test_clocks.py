"""Tests of the two clocks: what happens to a program's waits when the time of day is set."""

from __future__ import annotations

import sys
import time

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate.clocks import steady, time_of_day
from relaygate.identity import Role
from relaygate.test.nodes import Authority
from relaygate.test.programs import completed, new_folder
from relaygate.test.test_tap import TAPS

# A program as twistd makes it, whose machine's time of day is set back by an hour while it waits.
SET_BACK = """
import sys, time
real, shift = time.time, [0.0]
time.time = lambda: real() + shift[0]
from importlib import import_module
from twisted.internet import reactor
from relaygate.clocks import time_of_day
from relaygate.tap import NodeOptions
options = NodeOptions()
options.parseOptions(["--config", sys.argv[2]])
import_module("relaygate." + sys.argv[1]).makeService(options)
def set_back():
    shift[0] -= 3600
def end():
    print("it ended", abs(time_of_day(reactor) - time.time()) < 60)
    reactor.stop()
reactor.callLater(0.1, set_back)
reactor.callLater(0.2, end)
reactor.run()
"""


class _Reactor(Clock):
    running = False


class ClockTests(SynchronousTestCase):
    """What :func:`steady` does to a reactor."""

    def test_steady(self) -> None:
        """A reactor that has not begun goes by the monotonic clock, and knows the date, too."""
        reactor = _Reactor()
        self.assertTrue(steady(reactor))
        self.assertIs(reactor.seconds, time.monotonic)
        self.assertLess(abs(time_of_day(reactor) - time.time()), 60)

    def test_begun(self) -> None:
        """One that runs, or has something to do later, keeps its clock: its calls go by that."""
        runs, waits = _Reactor(), _Reactor()
        runs.running = True
        waits.callLater(1, lambda: None)
        for reactor in (runs, waits):
            self.assertFalse(steady(reactor))
            self.assertEqual(time_of_day(reactor), 0.0)


class SetBackTests(TestCase):
    """Both programs, whose machine's clock is set back."""

    async def test_set_back(self) -> None:
        """Waits end when they would have; dates follow the machine's clock."""
        authority = Authority(self)
        for tap, role, name, config in TAPS:
            file = new_folder(self) / "node.toml"
            file.write_text(config() + authority.identity(name, Role(role)))
            module = tap.__name__.rpartition(".")[2]
            ended = await completed(self, [sys.executable, "-c", SET_BACK, module, str(file)])
            self.assertEqual(ended.status, 0, ended.errors)
            self.assertEqual(ended.output.decode(), "it ended True\n")
