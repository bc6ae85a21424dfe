"""Data connections that follow a control connection out, where nobody reads either."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relaygate.dataway import TransferFailed
from relaygate.entryfollow import Followers
from relaygate.entrysession import Surroundings
from relaygate.legs import Leg
from relaygate.pipes import PipeShelf
from relaygate.test.dataplane import accepted, dialled, gone
from relaygate.test.farend import LOOPBACK, Ending, Peer, reactor, until
from relaygate.test.wire import lines, logged


class Way:
    """A data way that notes what it is asked for; what comes of it, the test says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int, bool]] = []
        self.arrived: Deferred[Leg] = Deferred()

    async def dial_active(self, session: str, port: int, source: int, tls: bool) -> Any:
        """See :meth:`relaygate.dataway.DataWay.dial_active`."""
        self.asked.append((session, port, source, tls))
        return self

    def withdraw(self) -> None:
        """See :meth:`relaygate.dataway.TransferHandle.withdraw`."""


class FollowTests(TestCase):
    """One entry's data ports."""

    timeout = 180

    def setUp(self) -> None:
        self.way = Way()
        self.sessions: list[Any] = []
        self.shelf = PipeShelf()
        self.addCleanup(self.shelf.close)
        unused = cast(Any, None)
        around = Surroundings(
            reactor, self.shelf, way=unused, departures=unused, wordless=unused, new_id=lambda: ""
        )
        self.followers = Followers(around, lambda: self.sessions)

    def session(self, name: str, host: str = LOOPBACK, *, relayed: bool = True) -> None:
        """A session of a program at *host*, which is *relayed* already or not."""
        self.sessions.append(
            SimpleNamespace(
                id=name,
                client=(host, 4000),
                relay=object() if relayed else None,
                found=SimpleNamespace(link=SimpleNamespace(dataway=self.way)),
            )
        )

    async def program(self) -> tuple[Leg, Peer]:
        """A program's connection to a data port, which the followers have been given."""
        leg, peer = await accepted()
        self.addCleanup(peer.close)
        leg.abort_by_default()
        self.followers.begin(leg)
        return leg, peer

    async def partner(self) -> tuple[Leg, Peer]:
        """The channel on which a partner's data connection arrives."""
        leg, peer = await dialled()
        self.addCleanup(peer.close)
        self.way.arrived.callback(leg)
        return leg, peer

    async def test_follows_the_newest(self) -> None:
        """It goes to the same port of the partner of this program's newest relayed session."""
        self.session("older")
        self.session("newer")
        self.session("not yet", relayed=False)
        self.session("another's", "192.0.2.1")
        leg, program = await self.program()
        self.assertEqual(self.way.asked, [("newer", leg.getHost().port, 0, False)])
        _, partner = await self.partner()
        program.send(b"a file")
        program.finish()
        await partner.got(b"a file")
        partner.finish()
        await program.got(b"")
        await until(lambda: not self.followers._relays, "the end of the relay")

    async def test_nobodys(self) -> None:
        """Who has no session is reset: an end would be a file that is complete."""
        self.session("another's", "192.0.2.1")
        self.session("not yet", relayed=False)
        with logged() as events:
            _, program = await self.program()
        self.assertIs(await program.ended(), Ending.RESET)
        self.assertEqual(self.way.asked, [])
        self.assertIn("has no session", "".join(lines(events)))

    async def test_not_reached(self) -> None:
        """A partner that is not reached resets the program, and the log says why."""
        self.session("only")
        _, program = await self.program()
        with logged() as events:
            self.way.arrived.errback(TransferFailed("refused there"))
        self.assertIs(await program.ended(), Ending.RESET)
        self.assertIn("refused there", "".join(lines(events)))
        self.assertFalse(self.followers._works)

    async def test_left_meanwhile(self) -> None:
        """A program that has left costs the partner's connection its life, too."""
        self.session("only")
        leg, _ = await self.program()
        leg.abortConnection()
        await gone(leg)
        _, partner = await self.partner()
        self.assertIs(await partner.ended(), Ending.RESET)

    async def test_stop(self) -> None:
        """What runs and what still waits ends when the entry does."""
        self.session("only")
        _, program = await self.program()
        _, partner = await self.partner()
        await until(lambda: self.followers._relays, "the relay")
        self.way.arrived = Deferred()
        _, waiting = await self.program()
        self.followers.stop("the entry closes")
        for peer in (program, partner, waiting):
            self.assertIs(await peer.ended(), Ending.RESET)
        self.assertFalse(self.followers._works or self.followers._relays)
