"""Who may come in: counters with caps, in all and per address, and a log that a flood cannot
fill.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caps:
    """The most at once, *total* and *per_address*; 0 is no cap."""

    total: int = 0
    per_address: int = 0


class Counted:
    """Counts what is there now, in all and for each address, against :class:`Caps`."""

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self.total = 0
        self._by_address: dict[str, int] = {}

    def has_room(self, address: str) -> bool:
        """Whether one more from *address* is within the caps."""
        caps = self.caps
        if caps.total and self.total >= caps.total:
            return False
        return not caps.per_address or self._by_address.get(address, 0) < caps.per_address

    def add(self, address: str) -> None:
        """One more from *address* is there."""
        self.total += 1
        self._by_address[address] = self._by_address.get(address, 0) + 1

    def remove(self, address: str) -> None:
        """One from *address* has gone."""
        self.total -= 1
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]


@dataclass(slots=True)
class Tally:
    """What came of sessions since the start; bytes are those of sessions that are over."""

    opened: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Throttle:
    """
    Lets *burst* events through in *period_s* seconds and counts the others.

    *seconds* is a clock's.  For log lines that strangers cause: the first ones tell what happens,
    the thousandth only fills the disk.
    """

    def __init__(
        self, seconds: Callable[[], float], *, burst: int = 20, period_s: float = 10.0
    ) -> None:
        self._seconds = seconds
        self._burst = burst
        self._period_s = period_s
        self._since = seconds()
        self._passed = 0
        self.suppressed = 0

    def passes(self) -> bool:
        """Whether this event may be logged; if not, it is counted in :attr:`suppressed`."""
        now = self._seconds()
        if now - self._since >= self._period_s:
            self._since = now
            self._passed = 0
        if self._passed < self._burst:
            self._passed += 1
            return True
        self.suppressed += 1
        return False

    def take_suppressed(self) -> int:
        """How many were not logged since the last call."""
        count, self.suppressed = self.suppressed, 0
        return count


class Allowance:
    """
    *at_once* of something without a wait, and *per_s* of it a second.

    *seconds* is a clock's.  For what a peer that is let in may have done for it, so that one that
    wants too much waits itself, and not those beside it.
    """

    def __init__(self, seconds: Callable[[], float], *, at_once: float, per_s: float) -> None:
        self._seconds = seconds
        self._at_once = at_once
        self._per_s = per_s
        self._since = seconds()
        self._taken = 0.0

    def take(self, amount: float) -> float:
        """Take *amount*; for how many seconds no more is to be taken."""
        now = self._seconds()
        self._taken = max(0.0, self._taken - (now - self._since) * self._per_s) + amount
        self._since = now
        return max(0.0, (self._taken - self._at_once) / self._per_s)
