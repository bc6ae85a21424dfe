"""
Who serves the next session: the nodes of a listener in the DMZ, the backends of a service inside.

A :class:`Group` picks one :class:`Member` at a time, so that a session whose first choice fails
gets its second one by the same rule, and so evenly.  Those that are out (:mod:`relaygate.marks`)
come after those that are not, and ``backup`` members after all others; nobody who is there is left
out, because a session that is refused while there is a way is worse than one that tries in vain.

``round-robin`` goes by virtual time: each pick moves a member on by the inverse of its weight, and
the one that is furthest behind is next.  Whoever comes, or comes back, begins where the others are.
So of two members that are there all along, of one weight, neither gets two sessions in a row before
the other has had one, whoever else comes and goes.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Generic, TypeVar

from relaygate.marks import CheckRule, Health, MarkRule

T = TypeVar("T")

RULES = ("round-robin", "failover", "least-sessions", "source")
MAX_WEIGHT = 256
# What one pick adds to a member of weight 1: divisible by most weights, so that equals stay equal.
_STEP = 720_720 * 256
# Addresses that one table remembers; of more, those that have been quiet longest are forgotten.
MAX_REMEMBERED = 32_768


def client_key(address: str) -> str:
    """
    What counts as one client: an IPv4 address, or a /64 of IPv6, in which a host has many.

    What is no address is taken as it is.
    """
    if ":" not in address:
        return address
    try:
        number = int(ipaddress.IPv6Address(address.partition("%")[0]))
    except ValueError:
        return address
    return f"{number >> 64:x}"


@dataclass(eq=False, slots=True)
class Member(Generic[T]):
    """
    One that serves sessions: *target*, which is called *name* wherever it is remembered.

    ``failover`` goes by *rank*, and by name where that is the same.
    """

    target: T
    name: str
    weight: int = 1
    backup: bool = False
    rank: int = 0
    # Takes no new sessions, by order.
    drained: bool = False
    # Those that are there now, also those that are being opened.
    sessions: int = 0
    opened: int = 0
    failed: int = 0
    health: Health = field(default_factory=lambda: Health(MarkRule(), CheckRule()))
    # Virtual time, and the number of its last pick.
    due: int = 0
    last: int = 0


class Persistence:
    """
    Which member each client had, for *ttl_s* seconds from its latest session on.

    All entries live equally long, so the order of use is the order in which they end.
    """

    def __init__(self, ttl_s: float, most: int = MAX_REMEMBERED) -> None:
        self.ttl_s = ttl_s
        self._most = most
        self._entries: dict[str, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, client: str, now: float) -> str | None:
        """The name that *client* had, if it is not too long ago."""
        name, used = self._entries.get(client, (None, 0.0))
        return name if now - used < self.ttl_s else None

    def keep(self, client: str, name: str, now: float) -> None:
        """*client* has *name* now."""
        entries = self._entries
        entries.pop(client, None)
        entries[client] = (name, now)
        # Two are looked at for one that comes, so that what has ended goes by and by.
        for _ in range(2):
            oldest = next(iter(entries))
            if len(entries) > self._most or now - entries[oldest][1] >= self.ttl_s:
                del entries[oldest]


class Group(Generic[T]):
    """Members, of which *rule* (one of :data:`RULES`) picks; *persistence* comes before it."""

    def __init__(self, rule: str, persistence: Persistence | None = None) -> None:
        self.rule = rule
        self.persistence = persistence
        self.members: list[Member[T]] = []
        self._time = 0
        self._picks = 0

    def left(self, tried: Container[Member[T]]) -> int:
        """How many could still be tried by a session that has *tried* some."""
        return sum(1 for member in self.members if not member.drained and member not in tried)

    def available(self, now: float) -> bool:
        """Whether anybody is there who is neither drained nor out."""
        return any(not each.drained and each.health.available(now) for each in self.members)

    def others_up(self, tried: Container[Member[T]], now: float) -> bool:
        """Whether anybody who is neither drained nor out is not among *tried*."""
        return any(
            not each.drained and each not in tried and each.health.available(now)
            for each in self.members
        )

    def pick(
        self,
        address: str,
        now: float,
        tried: Container[Member[T]] = (),
        prefer: str | None = None,
    ) -> Member[T] | None:
        """
        Who is to serve a session of the client *address* that has *tried* others in vain.

        The one called *prefer* comes before all others that are up.  The pick counts as one of the
        member's sessions until :meth:`release`; None is nobody.
        """
        best, level = self._candidates(now, tried)
        if not best:
            return None
        picked = None
        if level < 2:
            picked = self._remembered(address, now, best, prefer)
        if picked is None:
            picked = best[0] if len(best) == 1 else self._by_rule(address, best)
        self._count(picked)
        picked.health.tried(now)
        picked.sessions += 1
        return picked

    def _candidates(self, now: float, tried: Container[Member[T]]) -> tuple[list[Member[T]], int]:
        """Those of the best level that has any: up, up but backup, out, out and backup."""
        best: list[Member[T]] = []
        level = 4
        for member in self.members:
            if member.drained or member in tried:
                continue
            its = member.backup + 2 * (not member.health.available(now))
            if its < level:
                best, level = [member], its
            elif its == level:
                best.append(member)
        return best, level

    def _remembered(
        self, address: str, now: float, best: Iterable[Member[T]], prefer: str | None
    ) -> Member[T] | None:
        name = prefer
        if name is None and self.persistence is not None:
            name = self.persistence.find(client_key(address), now)
        if name is None:
            return None
        return next((member for member in best if member.name == name), None)

    def _by_rule(self, address: str, members: list[Member[T]]) -> Member[T]:
        if self.rule == "failover":
            return min(members, key=lambda member: (member.rank, member.name))
        if self.rule == "least-sessions":
            return min(members, key=lambda each: (each.sessions / each.weight, each.last))
        if self.rule == "source":
            client = client_key(address).encode()
            return max(members, key=lambda member: _score(client, member))
        return min(members, key=lambda member: (max(member.due, self._time), member.last))

    def _count(self, member: Member[T]) -> None:
        self._picks += 1
        member.last = self._picks
        if self.rule == "round-robin":
            due = max(member.due, self._time)
            # Time never runs back: a backup member that was far behind must not be caught up with.
            self._time = due
            member.due = due + _STEP // member.weight

    def release(self, member: Member[T]) -> None:
        """A session that *member* was picked for has ended, or went on to another."""
        member.sessions -= 1

    def worked(self, member: Member[T], address: str, now: float) -> bool:
        """A session of *address* is open there; whether that brought *member* back."""
        member.opened += 1
        if self.persistence is not None:
            self.persistence.keep(client_key(address), member.name, now)
        return member.health.worked()

    def failed(
        self, member: Member[T], now: float, *, costly: bool = False, reached: bool = False
    ) -> bool:
        """A session failed there, see :class:`Health`; whether that took *member* out."""
        member.failed += 1
        return member.health.failed(now, costly=costly, reached=reached)

    def take_over(self, older: Group[T]) -> None:
        """
        Go on where *older* ends: members of one name are the same ones, with the new settings, and
        what was remembered stays.
        """
        known = {member.name: member for member in older.members}
        for at, new in enumerate(self.members):
            old = known.get(new.name)
            if old is not None:
                old.target, old.weight = new.target, new.weight
                old.backup, old.rank = new.backup, new.rank
                old.health.use(new.health)
                self.members[at] = old
        self._time, self._picks = older._time, older._picks
        if self.persistence is not None and older.persistence is not None:
            older.persistence.ttl_s = self.persistence.ttl_s
            self.persistence = older.persistence


def _score(client: bytes, member: Member[T]) -> float:
    """
    Weighted rendezvous hashing: whoever scores highest has the client.

    A member's score does not depend on who else is there, so when one leaves only its own clients
    move, and they spread over all others.
    """
    name = member.name.encode()
    if len(name) > blake2b.MAX_KEY_SIZE:
        # Those that begin alike are not alike.
        name = blake2b(name).digest()
    digest = blake2b(client, digest_size=8, key=name).digest()
    # A number between 0 and 1, neither included.
    drawn = (int.from_bytes(digest) + 0.5) / 2.0**64
    return -member.weight / math.log(drawn) if drawn < 1.0 else math.inf
