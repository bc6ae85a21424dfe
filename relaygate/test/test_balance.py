"""Tests of who serves the next session: balancing, weights, backups, marks and persistence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from twisted.trial.unittest import SynchronousTestCase

from relaygate.balance import RULES, Group, Member, Persistence, client_key
from relaygate.marks import FIRST_PAUSE_S, LONGEST_PAUSE_S, CheckRule, Health, MarkRule
from relaygate.test.properties import given, st


def group(*members: Member[str], rule: str = "round-robin", ttl: float = 0) -> Group[str]:
    """A group of *members*."""
    made: Group[str] = Group(rule, Persistence(ttl) if ttl else None)
    made.members = list(members)
    return made


def plain(names: str) -> list[Member[str]]:
    """A member for each letter."""
    return [Member(name, name, rank=rank) for rank, name in enumerate(names)]


def serve(of: Group[str], address: str = "192.0.2.1", now: float = 0.0) -> str:
    """One session, from its beginning to its end."""
    member = of.pick(address, now)
    assert member is not None
    of.worked(member, address, now)
    of.release(member)
    return member.name


def uneven(served: Sequence[str], one: str, other: str) -> int:
    """The greatest difference between what *one* and *other* had, over any window of *served*."""
    sums = [0]
    for name in served:
        sums.append(sums[-1] + (name == one) - (name == other))
    return max(sums) - min(sums)


class RoundRobinTests(SynchronousTestCase):
    """Evenness."""

    def test_turns(self) -> None:
        """Equal members take turns."""
        members = group(*plain("abc"))
        self.assertEqual("".join(serve(members) for _ in range(7)), "abcabca")

    @given(st.lists(st.sampled_from(["serve", "serve", "serve", "+c", "-c", "+d", "-d", "out d"])))
    def test_even_over_any_window(self, steps: list[str]) -> None:
        """
        Over any window, those who were there all along differ by one session at most, whoever else
        comes, goes, or is out.
        """
        members = group(*plain("ab"))
        served = []
        for step in steps:
            if step == "serve":
                served.append(serve(members))
                continue
            order, name = step.split() if " " in step else (step[0], step[1])
            there = [each for each in members.members if each.name == name]
            if order == "+" and not there:
                members.members.append(Member(name, name))
            elif order == "-":
                members.members = [each for each in members.members if each.name != name]
            elif order == "out" and there:
                there[0].drained = not there[0].drained
        self.assertLessEqual(uneven(served, "a", "b"), 1)

    @given(st.lists(st.integers(1, 10), min_size=2, max_size=6), st.integers(20, 200))
    def test_weights(self, weights: list[int], sessions: int) -> None:
        """Each has its share by weight, to a session or two, over any window."""
        members = group(*(Member(str(at), str(at), each) for at, each in enumerate(weights)))
        served = [serve(members) for _ in range(sessions)]
        for end in range(0, sessions, 7):
            had = Counter(served[end // 2 : end])
            for (one, its), (other, others) in combinations(enumerate(weights), 2):
                difference = had[str(one)] / its - had[str(other)] / others
                self.assertLessEqual(abs(difference), 1 / its + 1 / others + 1e-6)

    def test_back_after_long(self) -> None:
        """One that was out begins where the others are: it has nothing to catch up with."""
        members = group(*plain("ab"))
        members.members[0].drained = True
        for _ in range(100):
            serve(members)
        members.members[0].drained = False
        self.assertLessEqual(uneven([serve(members) for _ in range(20)], "a", "b"), 1)

    def test_second_choices_are_even_too(self) -> None:
        """What one member cannot serve is spread over the others (Lesson 13)."""
        members = group(*plain("abc"))
        served = []
        for _ in range(30):
            first = members.pick("192.0.2.1", 0.0)
            assert first is not None
            if first.name == "a":
                members.release(first)
                first = members.pick("192.0.2.1", 0.0, [first])
                assert first is not None
            served.append(first.name)
            members.release(first)
        self.assertNotIn("a", served)
        self.assertLessEqual(uneven(served, "b", "c"), 1)


class RuleTests(SynchronousTestCase):
    """The other rules, and what holds for all of them."""

    def test_failover(self) -> None:
        """The first serves while it can; rank decides, and then the name."""
        members = group(
            Member("z", "z", rank=1), Member("y", "y", rank=1), Member("x", "x"), rule="failover"
        )
        for name in "xyz":
            self.assertEqual({serve(members) for _ in range(5)}, {name})
            next(each for each in members.members if each.name == name).drained = True
        self.assertIsNone(members.pick("-", 0.0))

    def test_least_sessions(self) -> None:
        """Whoever has the fewest for its weight is next, and equals take turns."""
        members = group(Member("a", "a"), Member("b", "b", 2), rule="least-sessions")
        picked = [members.pick("-", 0.0) for _ in range(6)]
        names = Counter(each.name for each in picked if each)
        self.assertEqual(names, {"a": 2, "b": 4})
        for each in picked:
            if each and each.name == "b":
                members.release(each)
        following = members.pick("-", 0.0)
        assert following is not None
        self.assertEqual(following.name, "b")
        equals = group(*plain("abc"), rule="least-sessions")
        self.assertEqual("".join(serve(equals) for _ in range(6)), "abcabc")

    def test_source(self) -> None:
        """The same client has the same member; when one goes only its clients move, to several."""
        clients = [f"192.0.2.{number}" for number in range(250)]
        members = group(*plain("abcd"), rule="source")
        before = {client: serve(members, client) for client in clients}
        self.assertEqual(before, {client: serve(members, client) for client in clients})
        self.assertGreater(min(Counter(before.values()).values()), 30)
        gone = members.members.pop(1)
        after = {client: serve(members, client) for client in clients}
        moved = {client for client in clients if before[client] != after[client]}
        self.assertEqual(moved, {client for client in clients if before[client] == gone.name})
        self.assertEqual({after[client] for client in moved}, set("acd"))

    def test_source_with_long_names(self) -> None:
        """Backends whose long names differ only at the end have clients of their own."""
        long = "files-of-partners." * 5
        members = group(*(Member(f"{long}{at}", f"{long}{at}") for at in range(3)), rule="source")
        served = [serve(members, f"192.0.2.{number}") for number in range(100)]
        self.assertEqual(len(set(served)), 3)
        self.assertTrue(all(served.count(name) >= 20 for name in set(served)))

    def test_source_by_weight(self) -> None:
        """A member of thrice the weight has about thrice the clients."""
        members = group(Member("a", "a", 1), Member("b", "b", 3), rule="source")
        had = Counter(serve(members, f"client {number}") for number in range(4_000))
        self.assertTrue(2_850 < had["b"] < 3_150, had)

    def test_backup(self) -> None:
        """Backup members serve when no other can, whatever the rule."""
        for rule in RULES:
            members = group(*plain("ab"), Member("c", "c", backup=True), rule=rule)
            self.assertNotIn("c", {serve(members, str(at)) for at in range(20)})
            for each in members.members[:2]:
                each.drained = True
            self.assertEqual({serve(members, str(at)) for at in range(20)}, {"c"})

    @given(st.sampled_from(RULES), st.lists(st.tuples(st.booleans(), st.booleans()), max_size=6))
    def test_nobody_is_left_out(self, rule: str, each: list[tuple[bool, bool]]) -> None:
        """
        A session can try every member that is not drained, once: first those that are up, then
        those that are out.
        """
        members = group(rule=rule, ttl=10)
        for at, (out, backup) in enumerate(each):
            member = Member(str(at), str(at), backup=backup)
            member.health.down = out
            members.members.append(member)
        tried: list[Member[str]] = []
        while (picked := members.pick("192.0.2.1", 0.0, tried)) is not None:
            tried.append(picked)
            self.assertEqual(members.left(tried), len(each) - len(tried))
        self.assertCountEqual(tried, members.members)
        levels = [2 * member.health.down + member.backup for member in tried]
        self.assertEqual(levels, sorted(levels))

    def test_take_over(self) -> None:
        """Another configuration keeps who stays, with its sessions, and uses the new weights."""
        old = group(*plain("abc"), ttl=10)
        running = old.pick("192.0.2.1", 0.0)
        assert running is not None
        old.worked(running, "192.0.2.1", 0.0)
        new = group(Member("b", "b"), Member("a", "a", 5), Member("d", "d"), ttl=20)
        new.take_over(old)
        self.assertIs(new.members[1], running)
        self.assertEqual((running.weight, running.sessions), (5, 1))
        self.assertEqual([serve(new, "192.0.2.1", 15.0) for _ in range(5)], ["a"] * 5)


class PersistenceTests(SynchronousTestCase):
    """The same client, the same member, for a while."""

    def test_holds_while_it_is_used(self) -> None:
        """Each session renews the time; without any it runs out."""
        members = group(*plain("abc"), ttl=60)
        first = serve(members, "192.0.2.1", 0.0)
        for now in (50.0, 100.0, 150.0):
            serve(members, "192.0.2.2", now)
            self.assertEqual(serve(members, "192.0.2.1", now), first)
        assert members.persistence is not None
        self.assertIsNone(members.persistence.find("192.0.2.1", 211.0))

    def test_fails_over(self) -> None:
        """A client whose member is gone gets another one, and stays with that (Lesson 13)."""
        members = group(*plain("abc"), ttl=60)
        first = serve(members)
        members.members = [each for each in members.members if each.name != first]
        second = serve(members)
        self.assertNotEqual(second, first)
        members.members.append(Member(first, first))
        self.assertEqual({serve(members) for _ in range(5)}, {second})

    def test_not_to_one_that_is_out(self) -> None:
        """Persistence does not lead to a member that is out while another is not."""
        members = group(*plain("ab"), ttl=60)
        first = serve(members)
        out = next(each for each in members.members if each.name == first)
        out.health.down = True
        self.assertNotEqual(serve(members), first)

    def test_bounded(self) -> None:
        """The table has a bound, and what has ended goes by itself."""
        table = Persistence(60, 100)
        for number in range(1_000):
            table.keep(str(number), "a", 0.0)
        self.assertEqual(len(table), 100)
        self.assertEqual(table.find("999", 1.0), "a")
        self.assertIsNone(table.find("1", 1.0))
        for number in range(100):
            table.keep(f"later {number}", "a", 100.0)
        table.keep("one more", "a", 170.0)
        self.assertLess(len(table), 101)

    def test_clients(self) -> None:
        """A client is an IPv4 address or a /64 of IPv6."""
        self.assertEqual(client_key("192.0.2.1"), "192.0.2.1")
        one, other = client_key("2001:db8:0:1::1"), client_key("2001:db8:0:1:f:f:f:f")
        self.assertEqual(one, other)
        self.assertNotEqual(one, client_key("2001:db8:0:2::1"))
        self.assertEqual(client_key("fe80::1%eth0"), client_key("fe80::2%eth1"))
        self.assertEqual(client_key("no:address"), "no:address")


class HealthTests(SynchronousTestCase):
    """Marks and checks."""

    def setUp(self) -> None:
        self.health = Health(MarkRule(3, 30.0), CheckRule(2, 3))

    def test_so_many_in_so_long(self) -> None:
        """Three failures within thirty seconds take it out; spread wider they do not."""
        for now in (0.0, 20.0, 40.0):
            self.assertFalse(self.health.failed(now))
        self.assertTrue(self.health.failed(45.0))
        self.assertEqual(self.health.state, "marked")
        self.assertFalse(self.health.available(45.0))

    def test_success_clears(self) -> None:
        """A session that came through wipes the marks off."""
        self.health.failed(0.0)
        self.health.failed(1.0)
        self.health.worked()
        self.assertFalse(self.health.failed(2.0))
        self.assertTrue(self.health.available(2.0))

    def test_growing_pauses(self) -> None:
        """Each failure after a pause doubles it, up to a limit; a success ends it all."""
        now, pauses = 0.0, []
        self.assertTrue(self.health.failed(now, costly=True))
        for _ in range(8):
            pauses.append(self.health.due() - now)
            now = self.health.due()
            self.assertTrue(self.health.available(now))
            self.health.tried(now)
            self.assertFalse(self.health.available(now))
            self.health.failed(now)
        self.assertEqual(pauses[:4], [FIRST_PAUSE_S * 2**power for power in range(4)])
        self.assertEqual(pauses[-1], LONGEST_PAUSE_S)
        self.assertTrue(self.health.worked())
        self.assertEqual(self.health.state, "up")

    def test_failures_of_one_moment(self) -> None:
        """Many sessions that fail at once are one pause, not many."""
        for _ in range(50):
            self.health.failed(5.0)
        self.assertEqual(self.health.due(), 5.0 + FIRST_PAUSE_S)

    def test_rise_and_fall(self) -> None:
        """Three bad checks in a row make it down, two good ones up; anything between does not."""
        for good in (False, False, True, False, False):
            self.assertFalse(self.health.checked(good))
        self.assertTrue(self.health.checked(False))
        self.assertEqual(self.health.state, "down")
        for good in (True, False, True):
            self.assertFalse(self.health.checked(good))
        self.assertTrue(self.health.checked(True))
        self.assertEqual(self.health.state, "up")

    def test_a_good_check_ends_a_pause(self) -> None:
        """What sessions marked is back as soon as a check finds it well."""
        self.health.failed(0.0, costly=True)
        self.assertTrue(self.health.checked(True))
        self.assertTrue(self.health.available(0.0))

    def test_marked_and_there(self) -> None:
        """
        What became of connections may mark it, and does not say that it takes none; one that it
        did not take does, until it is back.
        """
        for reached in (False, False, True):
            self.health.failed(0.0, reached=reached)
        self.assertEqual((self.health.state, self.health.there), ("marked", True))
        self.health.failed(1.0)
        self.assertFalse(self.health.there)
        self.health.failed(2.0, reached=True)
        self.assertFalse(self.health.there)
        self.health.worked()
        self.assertTrue(self.health.there)
        for _ in range(3):
            self.health.checked(False)
        self.assertFalse(self.health.there)

    def test_no_marks(self) -> None:
        """With no failures allowed to count, sessions mark nothing."""
        health = Health(MarkRule(0), CheckRule())
        for _ in range(10):
            self.assertFalse(health.failed(0.0, costly=True))
        self.assertTrue(health.available(0.0))

    @given(st.lists(st.sampled_from(["fail", "costly", "work", "good", "bad", "try", "wait"])))
    def test_anything(self, steps: list[str]) -> None:
        """Whatever happens, it is never out for longer than the longest pause but by checks."""
        # Anew for each example: their times begin at zero again.
        self.setUp()
        now = 0.0
        for step in steps:
            now += 1.0
            if step == "wait":
                now += 10.0
            elif step in ("good", "bad"):
                self.health.checked(step == "good")
            elif step == "work":
                self.health.worked()
            elif step == "try":
                self.health.tried(now)
            else:
                self.health.failed(now, costly=step == "costly")
            self.assertLessEqual(self.health.due(), now + LONGEST_PAUSE_S)
            self.assertTrue(self.health.down or self.health.available(now + LONGEST_PAUSE_S))
