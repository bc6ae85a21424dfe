"""
A flood from one address beside good clients, who hardly notice it.

RELAYGATE_FLOOD says how many connections a second it is, and RELAYGATE_TELL=1 what came of it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

from twisted.trial.unittest import TestCase

from relaygate.test.fleet import note
from relaygate.test.gateway import SOAK, TCP_PORT, Gateway, tcp_service
from relaygate.test.netns import Network
from relaygate.test.peers import echo
from relaygate.test.programs import Program, new_folder

GOOD: Final = [f"203.0.113.{100 + number}" for number in range(50)]
SECONDS: Final = 30 if SOAK else 5
RATE: Final = int(os.environ.get("RELAYGATE_FLOOD", "500"))


class FloodTests(TestCase):
    """What one address does to the others (Requirements 86 and 89)."""

    timeout = 240

    def drive(self, *arguments: object) -> Program:
        """Start a driver outside."""
        argv = [sys.executable, "-m", "relaygate.test.flooding", *map(str, arguments)]
        output = new_folder(self) / "output"
        program = Program(self, "flooding", argv, where=self.gateway.outside, output=output)
        program.start()
        return program

    async def said(self, program: Program) -> dict[str, Any]:
        """What a driver has printed when it has ended."""
        self.assertEqual(await program.ended(SECONDS + 60), 0)
        said: dict[str, Any] = json.loads(program._output.read_text())
        return said

    async def measure(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What good clients have alone, and what beside a flood."""
        self.gateway = gateway = Gateway(self, [tcp_service(max_rate_per_address=10)])
        for address in GOOD:
            add = ["ip", "address", "add", f"{address}/24", "dev", "dmz"]
            gateway.network.run("outside", add)
        gateway.backend(echo)
        await gateway.start()
        where = (gateway.host, TCP_PORT, SECONDS)
        alone = await self.said(self.drive("good", *where, *GOOD))
        flood = self.drive("flood", *where, RATE)
        beside = await self.said(self.drive("good", *where, *GOOD))
        note(f"alone {alone}, beside {beside}: {await self.said(flood)}")
        return alone, beside

    async def test_beside_good_clients(self) -> None:
        """No good client is refused while one address floods; most of the flood is dropped before
        anything inside is touched.
        """
        alone, beside = await self.measure()
        self.assertEqual((alone["fails"], beside["fails"]), (0, 0), (alone, beside))
        self.assertGreaterEqual(beside["sessions"], len(GOOD))
        # Ten a second on average over ten seconds are let in, and nothing else of it.
        opened = self.gateway.node.log().count(f"client={Network.outside_address}:")
        self.assertLess(opened, 2 * 10 * (10 + SECONDS + 10))
        log = self.gateway.dmz.log()
        self.assertIn("reason='too many new sessions'", log)
        # However many are dropped, they are told of in a few lines.
        self.assertLess(log.count("connection dropped"), 20 * (2 + SECONDS // 10) + 40)
