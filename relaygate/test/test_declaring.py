"""The wish of an internal node: stated whole, again when it changes, and again if refused."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate import commands
from relaygate.declaring import DECLARE_AGAIN_S, DECLARE_SOON_S, Declaration
from relaygate.test.test_enrolled import service
from relaygate.uplink import Uplink, UplinkFailed


class Wire:
    """Stands for an uplink: what is asked waits until the test answers."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.ended: list[str] = []
        self._waiting: list[Deferred[dict[str, Any]]] = []

    async def ask(self, command: object, **arguments: Any) -> dict[str, Any]:
        """See :class:`relaygate.uplink.Uplink`."""
        assert command is commands.Declare
        self.asked.append([each["name"] for each in arguments["services"]])
        answer: Deferred[dict[str, Any]] = Deferred()
        self._waiting.append(answer)
        return await answer

    def end(self, reason: str) -> None:
        """See :class:`relaygate.uplink.Uplink`."""
        self.ended.append(reason)

    def answer(self, *refused: str) -> None:
        """Answer what waits longest: *refused* are not to be had."""
        rows = [{"name": name, "reason": "not permitted"} for name in refused]
        self._waiting.pop(0).callback({"refused": rows})

    def fail(self) -> None:
        """What waits longest is not answered."""
        self._waiting.pop(0).errback(UplinkFailed("no answer"))


class DeclarationTests(SynchronousTestCase):
    """A declaration over an uplink that the test answers for."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wire = Wire()
        self.uplink = cast(Uplink, self.wire)
        self.declaration = Declaration("dmz", [service("one")], self.clock)
        self.declaration.up(self.uplink, commands.MINOR)

    def test_changes_meanwhile(self) -> None:
        """One is under way at a time; however often the wish changes meanwhile, one follows."""
        self.declaration.state_again(self.uplink)
        for name in ("two", "three"):
            self.declaration.services = [service(name)]
            self.declaration.state_again(self.uplink)
        self.assertEqual(self.wire.asked, [["one"]])
        self.wire.answer()
        self.assertEqual(self.wire.asked, [["one"], ["three"]])
        self.assertTrue(self.declaration.under_way)
        self.wire.answer()
        self.assertFalse(self.declaration.under_way)
        self.assertEqual((len(self.wire.asked), self.clock.getDelayedCalls()), (2, []))

    def test_refused(self) -> None:
        """What was refused is kept, and asked for again after a while, on an uplink that stands."""
        self.declaration.state_again(self.uplink)
        self.wire.answer("one")
        self.assertEqual(self.declaration.refused, {"one": "not permitted"})
        self.clock.advance(DECLARE_AGAIN_S)
        self.assertEqual(len(self.wire.asked), 2)
        self.wire.answer("one")
        self.declaration.down()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_soon(self) -> None:
        """Where the DMZ node would answer otherwise it is asked within a second, and once however
        often it says so.
        """
        self.declaration.soon()
        self.clock.advance(DECLARE_SOON_S / 2)
        self.declaration.soon()
        self.clock.advance(DECLARE_SOON_S / 2)
        self.assertEqual(len(self.wire.asked), 1)
        # What is said before the answer comes is not lost behind it.
        self.declaration.soon()
        self.wire.answer("one")
        self.clock.advance(DECLARE_SOON_S)
        self.assertEqual(len(self.wire.asked), 2)
        self.wire.answer("one")
        # One that was refused waits longer otherwise, and not for that.
        self.declaration.soon()
        self.clock.advance(DECLARE_SOON_S)
        self.wire.answer()
        self.assertEqual((self.declaration.refused, self.clock.getDelayedCalls()), ({}, []))
        self.declaration.soon()
        self.declaration.down()
        self.declaration.soon()
        self.assertEqual((len(self.wire.asked), self.clock.getDelayedCalls()), (3, []))

    def test_fails(self) -> None:
        """Nobody waits for a wish that is stated again: an uplink that does not take it ends."""
        self.declaration.state_again(self.uplink)
        self.wire.fail()
        self.assertEqual(self.wire.ended, ["no answer"])
        self.assertFalse(self.declaration.under_way)
        # A failure leaves nothing behind: the next uplink is told all of it.
        self.declaration.state_again(self.uplink)
        self.wire.answer()
        self.assertFalse(self.declaration.under_way)
