"""Tests of the internal node's guard, with DMZ nodes that are pretended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate.admin import AdminError, Arguments
from relaygate.bans import MAX_BANS
from relaygate.guard import MAX_NETWORKS, Guard, Offence, Rules
from relaygate.networks import NetworkSet, network_of
from relaygate.uplink import UplinkFailed

RULES = Rules({Offence.FTP_LOGIN: 3}, 60.0, 600.0, NetworkSet())


class Link:
    """A DMZ node that answers when the test says so."""

    def __init__(self, name: str) -> None:
        self.gateway_name = name
        self.told: list[list[tuple[str, float]]] = []
        self.answer: Deferred[bool] = Deferred()

    async def put_bans(self, bans: Sequence[tuple[str, float]]) -> bool:
        self.told.append(list(bans))
        return await self.answer


class GuardTests(SynchronousTestCase):
    """Bans, and who hears of them (Lesson 25)."""

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.links = [Link("dmz-a"), Link("dmz-b")]
        self.guard = Guard(self.clock, RULES, lambda: self.links)

    def command(self, name: str, **arguments: Any) -> Deferred[dict[str, Any]]:
        """An operator's command."""
        handler = {"ban": self.guard._ban, "unban": self.guard._unban}[name]
        return Deferred.fromCoroutine(handler(Arguments(arguments)))

    def test_one_is_silent(self) -> None:
        """A DMZ node that was stopped keeps a ban from no other one."""
        banning = self.command("ban", networks=["192.0.2.1"], seconds=60)
        self.assertEqual([len(link.told) for link in self.links], [1, 1])
        self.links[1].answer.callback(True)
        self.assertNoResult(banning)
        self.links[0].answer.errback(UplinkFailed("it is silent"))
        heard = self.successResultOf(banning)["gateways"]
        self.assertEqual(heard, {"dmz-a": "it is silent", "dmz-b": "ok"})

    def test_one_is_silent_by_rule(self) -> None:
        """The same for a ban that a rule sets."""
        for _ in range(3):
            self.guard.offended(Offence.FTP_LOGIN, "192.0.2.1")
        self.assertEqual([link.told for link in self.links], [[[("192.0.2.1", 600.0)]]] * 2)

    def test_given_up(self) -> None:
        """An operator who does not wait for the answer has told every DMZ node all the same."""
        banning = self.command("ban", networks=["192.0.2.1"], seconds=60)
        banning.addErrback(lambda _: None)
        banning.cancel()
        self.assertEqual([len(link.told) for link in self.links], [1, 1])

    def test_all_or_none(self) -> None:
        """Bans that do not all fit are not set in part: nobody would be told of that part."""
        for at in range(MAX_BANS - 1):
            self.guard._set([network_of(f"10.0.{at >> 8}.{at & 255}")], 60)
        wanted = ["10.0.0.1", "192.0.2.1", "192.0.2.2"]
        self.failureResultOf(self.command("ban", networks=wanted), AdminError)
        self.assertFalse(self.guard.bans("192.0.2.1"))
        self.assertEqual([link.told for link in self.links], [[], []])
        self.command("ban", networks=["10.0.0.1", "192.0.2.1", "192.0.2.1"])
        self.assertTrue(self.guard.bans("192.0.2.1"))
        self.assertLess(MAX_NETWORKS, MAX_BANS)
