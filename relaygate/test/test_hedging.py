"""Tests of asking the next one while the first has not answered."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate import backends
from relaygate.addresses import HostPort
from relaygate.balance import Group, Member
from relaygate.handshake import HandshakeFailed
from relaygate.hedging import MAX_AT_ONCE, VAIN_AT_ONCE, HedgeBudget, Race

ALONE_S = 2.0


class No(Exception):
    """One says no."""


class Asking(Race[str, str]):
    """Asks those who are called by the letters of *names*."""

    def __init__(self, names: str, clock: Clock, budget: HedgeBudget, slow: str = "") -> None:
        super().__init__(clock, budget, ALONE_S, (No,))
        # Those that are only asked when nobody else is waited for.
        self.slow = slow
        # Those that answer although they are given up.
        self.stubborn = ""
        self.names = list(names)
        self.asked: list[str] = []
        self.waits: dict[str, Deferred[str]] = {}
        self.given_up: list[str] = []
        self.late: list[str] = []
        self.discarded: list[str] = []
        self.at_once: dict[str, object] = {}

    def choose(self) -> str | None:
        if not self.names:
            return None
        chosen = next((name for name in self.names if name not in self.slow), self.names[0])
        self.names.remove(chosen)
        return chosen

    def more(self) -> bool:
        return any(name not in self.slow for name in self.names)

    async def ask(self, whom: str) -> str:
        self.asked.append(whom)
        told = self.at_once.get(whom)
        if isinstance(told, Exception):
            raise told
        if isinstance(told, str):
            return told
        self.waits[whom] = Deferred()
        try:
            return await self.waits[whom]
        except CancelledError:
            if whom in self.stubborn:
                return f"{whom}'s all the same"
            self.given_up.append(whom)
            raise

    def overtaken(self, whom: str) -> None:
        self.late.append(whom)

    def discard(self, answer: str) -> None:
        self.discarded.append(answer)


class RaceTests(SynchronousTestCase):
    """One search (Lesson 7: the next one, and the client notices nothing but time)."""

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.budget = HedgeBudget(self.clock.seconds)

    def race(self, names: str, slow: str = "", **at_once: object) -> Asking:
        """Begin a search."""
        self.asking = Asking(names, self.clock, self.budget, slow)
        self.asking.at_once = at_once
        self.found: Deferred[str | None] = Deferred.fromCoroutine(self.asking.run())
        return self.asking

    def ended(self) -> None:
        """Nothing of the search is left."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.budget.running, 0)

    def test_nobody(self) -> None:
        """Where nobody can be asked there is no answer."""
        self.race("")
        self.assertIsNone(self.successResultOf(self.found))
        self.ended()

    def test_at_once(self) -> None:
        """An answer in time is the end; nobody else is asked."""
        race = self.race("ab")
        self.clock.advance(ALONE_S - 0.1)
        race.waits["a"].callback("yes")
        self.assertEqual(self.successResultOf(self.found), "yes")
        self.assertEqual((race.asked, race.late, self.budget.begun), (["a"], [], 0))
        self.ended()

    def test_the_next_one_beside(self) -> None:
        """Who is silent is not waited for: the next is asked, and the first answer is taken."""
        race = self.race("abc")
        self.clock.advance(ALONE_S)
        self.assertEqual(race.asked, ["a", "b"])
        self.assertNoResult(self.found)
        race.waits["b"].callback("b's")
        self.assertEqual(self.successResultOf(self.found), "b's")
        self.assertEqual((race.given_up, race.late), (["a"], ["a"]))
        self.assertEqual((self.budget.begun, self.budget.won), (1, 1))
        self.ended()

    def test_the_first_after_all(self) -> None:
        """The first may still be the faster one; the second is then given up without blame."""
        race = self.race("ab")
        self.clock.advance(ALONE_S)
        race.waits["a"].callback("a's")
        self.assertEqual(self.successResultOf(self.found), "a's")
        self.assertEqual((race.given_up, race.late), (["b"], []))
        self.assertEqual((self.budget.begun, self.budget.won), (1, 0))
        self.ended()

    def test_all_of_them(self) -> None:
        """One more is asked each time; those that have waited longer than the winner are late."""
        race = self.race("abcd")
        self.clock.pump([ALONE_S] * 2)
        self.assertEqual(race.asked, ["a", "b", "c"])
        race.waits["b"].callback("b's")
        self.assertEqual(self.successResultOf(self.found), "b's")
        self.assertEqual((race.given_up, race.late), (["a", "c"], ["a"]))
        self.ended()

    def test_refusals(self) -> None:
        """A no is followed by the next one at once; the last no is the search's."""
        race = self.race("abc", a=No("a"))
        self.assertEqual(race.asked, ["a", "b"])
        race.waits["b"].errback(No("b"))
        self.assertEqual(race.asked, ["a", "b", "c"])
        race.waits["c"].errback(No("c"))
        self.assertEqual(str(self.failureResultOf(self.found, No).value), "c")
        self.assertEqual(self.budget.begun, 0)
        self.ended()

    def test_refusal_beside_silence(self) -> None:
        """A second one that says no leaves the first its time, and the third its turn."""
        race = self.race("abc")
        self.clock.advance(ALONE_S)
        race.waits["b"].errback(No("b"))
        self.assertEqual(race.asked, ["a", "b", "c"])
        race.waits["c"].errback(No("c"))
        self.assertNoResult(self.found)
        race.waits["a"].callback("a's")
        self.assertEqual(self.successResultOf(self.found), "a's")
        self.ended()

    def test_who_is_out(self) -> None:
        """Those that are out are asked when all others have said no, and not beside them."""
        race = self.race("ab", slow="b")
        self.clock.advance(5 * ALONE_S)
        self.assertEqual(race.asked, ["a"])
        race.waits["a"].errback(No("a"))
        self.assertEqual(race.asked, ["a", "b"])
        race.waits["b"].callback("b's")
        self.assertEqual(self.successResultOf(self.found), "b's")
        self.assertEqual(self.budget.begun, 0)
        self.ended()

    def test_late_answer(self) -> None:
        """An answer that cannot be stopped any more is thrown away: a client has one session."""
        race = self.race("ab")
        self.clock.advance(ALONE_S)
        race.stubborn = "a"
        race.waits["b"].callback("b's")
        self.assertEqual(self.successResultOf(self.found), "b's")
        self.assertEqual(race.discarded, ["a's all the same"])
        self.ended()

    def test_cancelled(self) -> None:
        """Who does not want to know any more gives up all that are asked."""
        race = self.race("abc")
        self.clock.advance(ALONE_S)
        self.found.cancel()
        self.failureResultOf(self.found, CancelledError)
        self.assertEqual((race.given_up, race.late), (["a", "b"], []))
        self.ended()

    def test_mistake(self) -> None:
        """What nobody has thought of ends the search, and is not tried elsewhere."""
        race = self.race("ab", a=ZeroDivisionError())
        self.failureResultOf(self.found, ZeroDivisionError)
        self.assertEqual(race.asked, ["a"])
        self.ended()

    def test_a_thousand(self) -> None:
        """However many say no at once, the stack does not grow."""
        race = self.race("abc")
        race.names = [f"n{number}" for number in range(3000)]
        race.at_once = {name: No(name) for name in race.names}
        for name in "a":
            race.waits[name].errback(No(name))
        self.assertEqual(str(self.failureResultOf(self.found, No).value), "n2999")
        self.ended()


class BudgetTests(SynchronousTestCase):
    """What second tries may cost (Lesson 8)."""

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.budget = HedgeBudget(self.clock.seconds)

    def test_at_once(self) -> None:
        """So many are under way at once, and no more."""
        begun = [self.budget.begin() for _ in range(MAX_AT_ONCE + 1)]
        self.assertEqual(begun, [True] * MAX_AT_ONCE + [False])
        self.budget.end(won=True)
        self.assertTrue(self.budget.begin())

    def test_in_vain(self) -> None:
        """Where everybody is slow nobody is asked twice, after a while."""
        tries = 0
        while self.budget.begin():
            self.budget.end(won=False)
            tries += 1
        self.assertEqual(tries, VAIN_AT_ONCE + 1)
        self.clock.advance(1.0)
        self.assertTrue(self.budget.begin())

    def test_won(self) -> None:
        """Those that helped cost nothing."""
        for _ in range(20 * VAIN_AT_ONCE):
            self.assertTrue(self.budget.begin())
            self.budget.end(won=True)

    def test_silent_without_budget(self) -> None:
        """Without any left, one is waited for until it fails, as ever."""
        while self.budget.begin():
            pass
        self.budget.running, before = MAX_AT_ONCE, self.budget.begun
        race = Asking("ab", self.clock, self.budget)
        found = Deferred.fromCoroutine(race.run())
        self.clock.advance(5 * ALONE_S)
        self.assertEqual(race.asked, ["a"])
        race.waits["a"].errback(No())
        race.waits["b"].callback("b's")
        self.assertEqual(self.successResultOf(found), "b's")
        self.assertEqual(self.budget.begun, before)


class BackendTests(SynchronousTestCase):
    """Backends that are reached by more than a dial, as those of opened HTTP under TLS are."""

    def setUp(self) -> None:
        self.clock = Clock()
        group: Group[HostPort] = Group("failover", None)
        names = [HostPort("192.0.2.1", 443), HostPort("192.0.2.2", 443)]
        group.members = [Member(each, str(each)) for each in names]
        self.first, self.second = group.members
        self.backends = backends.Backends("web", group, self.clock)
        self.waits: dict[HostPort, Deferred[Any]] = {}
        self.notes: list[str] = []
        self.found = Deferred.fromCoroutine(
            self.backends.reach(
                "198.51.100.9",
                60.0,
                lambda address, reason: self.notes.append(f"{address} {reason}"),
                connect=self.connect,
            )
        )

    async def connect(self, address: HostPort, limit_s: float) -> Any:
        """Connect to *address*."""
        self.waits[address] = Deferred()
        return await self.waits[address]

    def test_silent(self) -> None:
        """Another is asked beside one that is silent within its handshake, which is given up."""
        self.assertEqual([*self.waits], [self.first.target])
        self.clock.advance(backends.ALONE_S)
        self.waits[self.second.target].callback("a leg")
        self.assertEqual(self.successResultOf(self.found), (self.second, "a leg"))
        self.assertEqual(self.notes, ["192.0.2.1:443 slower than another"])
        self.assertEqual((self.first.sessions, self.second.sessions), (0, 1))
        self.assertTrue(self.waits[self.first.target].called)

    def test_refused_handshake(self) -> None:
        """One whose handshake fails is followed by the next at once."""
        self.waits[self.first.target].errback(HandshakeFailed("not for you"))
        self.waits[self.second.target].callback("a leg")
        self.assertEqual(self.successResultOf(self.found), (self.second, "a leg"))
        self.assertEqual(self.notes, ["192.0.2.1:443 not for you"])
