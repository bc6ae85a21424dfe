"""Who is tried next: the order of candidates for one session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Balance(Protocol):
    """A rule that orders candidates."""

    def order(self, candidates: Sequence[T]) -> list[T]:
        """All *candidates*, the one to try first in front."""


class RoundRobin:
    """Each session begins one candidate further than the one before, then goes on round the
    ring.
    """

    def __init__(self) -> None:
        self._turn = 0

    def order(self, candidates: Sequence[T]) -> list[T]:
        """All *candidates*, from this session's on."""
        if not candidates:
            return []
        first = self._turn % len(candidates)
        self._turn += 1
        return [*candidates[first:], *candidates[:first]]


class Failover:
    """The first candidate serves all sessions while it can, the second when it cannot, and so
    on.
    """

    def order(self, candidates: Sequence[T]) -> list[T]:
        """All *candidates*, as the configuration has them."""
        return list(candidates)


BALANCES: dict[str, type[RoundRobin] | type[Failover]] = {
    "round-robin": RoundRobin,
    "failover": Failover,
}
