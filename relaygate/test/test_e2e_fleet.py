"""
Many nodes at work while everything that can break breaks, one thing at a time.

The suite runs a short version of it; with RELAYGATE_SOAK=1 each thing is killed, stopped, cut off
and restarted in turn for ten minutes (and RELAYGATE_TELL=1 tells of it meanwhile).
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from twisted.trial.unittest import TestCase

from relaygate.test.fleet import CLIENT_LIMIT_S, DMZ2, SERVICE_PORT, Clients, Fleet, note
from relaygate.test.gateway import SOAK
from relaygate.test.netns import Place
from relaygate.test.nodes import Node
from relaygate.test.peers import (
    dial,
    eventually,
    in_thread,
    listening,
    read_exactly,
    read_to_end,
)
from relaygate.test.programs import Program, pause

# Checks find a backend that hangs, which connections to it do not tell of.
CHECKS = """
[service.health]
check = "ftp"
interval = 1
timeout = 2
rise = 1
fall = 2
"""
# Between two faults everything has to be well again.
QUIET_S = 8.0 if SOAK else 1.0
FAULT_S = 6.0 if SOAK else 2.0
# Longer than a node that was asked in vain is waited for, and shorter than its uplink's silence.
STOPPED_S = 9.0 if SOAK else 5.0
# Sessions at each DMZ node, by which a round shows how they are spread.
ROUND = 18


class FaultTests(TestCase):
    """Three internal nodes, two DMZ nodes, six backends."""

    timeout = 2400

    async def well(self, fleet: Fleet, what: Program) -> None:
        """Wait until *what*, which was just started, does its part again."""
        if isinstance(what, Node) and what in fleet.internals:
            await fleet.joined(what)
        elif isinstance(what, Node):
            await eventually(lambda: _listens(what), f"{what.name} listens", 60.0)
        else:
            await fleet.answers(what)

    async def killed(self, fleet: Fleet, what: Program) -> None:
        """Kill it, and start it again."""
        what.kill()
        await what.ended()
        await pause(FAULT_S)
        what.start()
        await self.well(fleet, what)

    async def stopped(self, fleet: Fleet, what: Program) -> None:
        """Stop it where it stands, and let it go on."""
        what.kill(signal.SIGSTOP)
        await pause(STOPPED_S)
        what.kill(signal.SIGCONT)

    async def restarted(self, fleet: Fleet, what: Program) -> None:
        """End it politely, and start it again."""
        await what.restart()
        await self.well(fleet, what)

    async def test_faults(self) -> None:
        """
        While a path exists no new session is refused, and no session is lost whose own nodes and
        backend lived (Lesson 13; requirements 82 and 83).
        """
        fleet = Fleet(self, ["node-a", "node-b", "node-c"], 6, tables=CHECKS)
        await fleet.start()
        clients = Clients(fleet, short=4, long=6, pause_s=0.15 if SOAK else 0.05)
        clients.start()
        try:
            events = await self.run_faults(fleet)
        finally:
            await in_thread(clients.stop)
        await self.spread(fleet)
        seen = clients.seen
        note(
            f"served={seen.served} refused={len(seen.refused)} lost={len(seen.lost)}"
            f" tried again={seen.tried_again} slowest={seen.slowest_s:.1f} s"
            f" backends={dict(seen.backends)}"
        )
        for at, why in seen.refused:
            note(f"refused {_during(events, at)}: {why}")
        innocent = []
        for at, client in seen.lost:
            parts = fleet.served_by(client, at)
            fault = _during(events, at)
            note(f"lost {client} by {parts} {fault}")
            if not any(f" {part} " in f"{fault} " for part in parts):
                innocent.append((client, parts, fault))
        self.assertEqual(seen.refused, [])
        self.assertEqual(innocent, [])
        self.assertGreater(seen.served, 100)
        # Nobody waited a whole deadline behind a node that was stopped: another was asked.
        self.assertLess(seen.slowest_s, CLIENT_LIMIT_S / 2)
        for node in (*fleet.dmzs, *fleet.internals):
            self.assertNotIn("Traceback", node.log_file.read_text(), node.name)

    async def run_faults(self, fleet: Fleet) -> list[tuple[float, str]]:
        """Break one thing after the other; the answer says what was broken from when on."""
        everything: list[Program] = [*fleet.internals, *fleet.dmzs, *fleet.backends]
        few = [fleet.internals[0], fleet.dmzs[1], fleet.backends[2]]
        plan: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        for name, act in (
            ("killed", self.killed),
            ("stopped", self.stopped),
            ("restarted", self.restarted),
        ):
            plan += [
                (f"{name} {what.name} ", _later(act, fleet, what))
                for what in (everything if SOAK else few)
                if SOAK or name != "restarted"
            ]
        cables: list[Place] = ["dmz", DMZ2]
        plan += [
            (f"cut {place} ", _later(self.cut, fleet, place))
            for place in (cables if SOAK else cables[:1])
        ]
        events = []
        for what_happens, happen in plan:
            events.append((time.time(), what_happens))
            note(what_happens)
            await happen()
            await pause(QUIET_S)
        return events

    async def spread(self, fleet: Fleet) -> None:
        """Once all is well sessions are spread evenly, to one: over nodes, and over backends."""

        async def one_round() -> dict[str, Counter[str]]:
            """What each node has had of as many sessions as can be even everywhere."""
            marks = {node: len(node.log()) for node in (*fleet.dmzs, *fleet.internals)}
            for outer, _ in fleet.gates.values():
                for _ in range(ROUND):
                    await in_thread(self.visit, fleet, outer)
            had = {}
            for node, mark in marks.items():
                what = "node" if node in fleet.dmzs else "backend"
                had[node.name] = Counter(re.findall(rf" open: .* {what}=(\S+)", node.log()[mark:]))
            return had

        def all_are_there(had: dict[str, Counter[str]]) -> bool:
            return all(
                len(had[node.name]) == (len(fleet.internals) if node in fleet.dmzs else 6)
                for node in (*fleet.dmzs, *fleet.internals)
            )

        ends = time.monotonic() + 60
        while not all_are_there(had := await one_round()):
            self.assertLess(time.monotonic(), ends, had)
        had = await one_round()
        note(f"spread: {had}")
        for name, counts in had.items():
            self.assertLessEqual(max(counts.values()) - min(counts.values()), 1, (name, counts))
        self.assertTrue(all_are_there(had), had)

    def visit(self, fleet: Fleet, outer: str) -> None:
        """A session from its greeting to its end."""
        with dial(fleet.outside, outer, SERVICE_PORT) as client:
            self.assertEqual(read_exactly(client, 4), b"220 ")
            client.sendall(b"QUIT\r\n")
            read_to_end(client)

    async def cut(self, fleet: Fleet, place: Place) -> None:
        """Cut the wire between a DMZ node and the private network, until all have noticed."""
        marks = {node: len(node.log()) for node in fleet.internals}
        fleet.network.cut(place, "private")
        for node, mark in marks.items():
            await node.logged(f"uplink lost: gateway={place} ", after=mark)
        await pause(FAULT_S)
        fleet.network.mend()
        await pause(FAULT_S)


def _later(act: Callable[..., Awaitable[None]], *args: object) -> Callable[[], Awaitable[None]]:
    return lambda: act(*args)


def _listens(node: Node) -> bool:
    return ("0.0.0.0", SERVICE_PORT) in listening(node.pid)


def _during(events: list[tuple[float, str]], at: float) -> str:
    """What was broken last at the time *at*."""
    return next((what for since, what in reversed(events) if since <= at), "before anything")
