"""Thousands of sessions that end badly, in one process: nothing of them is left."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path
from typing import Final
from weakref import WeakSet

from twisted.trial.unittest import TestCase

from relaygate.legs import Leg
from relaygate.outcome import Cause
from relaygate.pump import Pump
from relaygate.relay import Relay
from relaygate.test.dataplane import WAYS, Bench, Way
from relaygate.test.farend import payload

SESSIONS: Final = 10_000
# By then allocators, caches and the interpreter have what they keep.
WARM: Final = SESSIONS // 5
GROWTH_BYTES: Final = 2 << 20
# TLS costs a handshake each.
WEIGHTS: Final = (45, 45, 4, 4, 2)
SIZES: Final = (0, 1, 13, 4096, 16384, 70_000)


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def living() -> list[Relay | Pump | Leg]:
    """What there is in this process of the kinds that a session is made of."""
    return [each for each in gc.get_objects() if isinstance(each, (Relay, Pump, Leg))]


class LeakTests(TestCase):
    """What is left when everything has ended somehow (Requirement 77; Lesson 19)."""

    timeout = 1200

    async def test_many_endings(self) -> None:
        """Whoever breaks off, and when: descriptors, pipes, timers and memory come back."""
        chance = random.Random(77)
        before = 0
        gc.collect()
        # Other tests of this process may not have let go of all that they had.
        others = WeakSet(living())
        for number in range(SESSIONS):
            if number == WARM:
                gc.collect()
                before = resident_bytes()
            [way] = chance.choices(WAYS, WEIGHTS)
            # The bench itself looks for descriptors, pipes and timers, each time.
            await self.session(way, chance)
        gc.collect()
        left = [each for each in living() if each not in others]
        self.assertEqual(left, [], [gc.get_referrers(each) for each in left])
        self.assertLess(resident_bytes() - before, GROWTH_BYTES)

    async def session(self, way: Way, chance: random.Random) -> None:
        """One session that moves a few bytes and ends in some way."""
        up, down = chance.choice(SIZES), chance.choice(SIZES)
        ending = chance.randrange(7)
        async with Bench(way) as bench:
            bench.client.send(payload(up))
            bench.backend.send(payload(down))
            if chance.random() < 0.5:
                await bench.backend.has(up)
                await bench.client.has(down)
            one, two = chance.sample(bench.peers, 2)
            if ending == 0:
                one.reset()
            elif ending == 1:
                one.finish()
                two.reset()
            elif ending == 2:
                one.finish()
                two.finish()
            elif ending == 3:
                one.reset()
                two.reset()
            elif ending == 4:
                bench.relay.abort(Cause.SHUTDOWN, "enough")
            elif ending == 5:
                # Its socket is closed, whatever it had not read.
                one.close()
            if ending not in (2, 5, 6):
                # The others leave one side open: the relay ends with its legs, as the node does.
                await bench.over()
