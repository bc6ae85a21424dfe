"""
The gate: whether a client may come to a service at all.

In the DMZ it is asked before anything else is done for a client (lesson 25): by bans, by the lists
of the service, by rates.  Each answer takes a few steps however long the lists are, and what the
gate keeps is bounded.  Inside, the lists are asked once more, whatever the DMZ has said (lesson
21).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from relaygate.bans import Bans
from relaygate.networks import NetworkSet, source_of
from relaygate.rates import Rated, Rates


class Turned(StrEnum):
    """Why a client was turned away, in the words of the log and the figures."""

    BANNED = "banned"
    NOT_ALLOWED = "not allowed by the service's lists"
    TOO_OFTEN = "too many new sessions"
    TOO_MANY_WAIT = "too many wait to be opened"


def allows(allow: NetworkSet | None, deny: NetworkSet | None, address: str) -> bool:
    """Whether *address* is in *allow* (None: all are) and not in *deny*, which wins."""
    if deny is not None and address in deny:
        return False
    return allow is None or address in allow


class Gate:
    """
    What all listeners of a DMZ node share.

    *seconds* is a clock's, *rates* are the node's own, *bans* those that the inside has set.
    """

    def __init__(self, seconds: Callable[[], float], rates: Rates, bans: Bans) -> None:
        self.bans = bans
        self.turned: Counter[Turned] = Counter()
        self._seconds = seconds
        self._rated = Rated(rates)

    def use(self, rates: Rates) -> None:
        """The node's own rates are *rates* from now on."""
        self._rated.rates = rates

    def refuses(
        self, address: str, allow: NetworkSet | None, deny: NetworkSet | None, rated: Rated
    ) -> Turned | None:
        """
        Why *address* may not come to a service with these lists; None if it may, and has.

        *rated* is the service's own count.
        """
        now = self._seconds()
        if self.bans.hold(address, now):
            return Turned.BANNED
        if not allows(allow, deny, address):
            return Turned.NOT_ALLOWED
        source = source_of(address)
        if not (rated.admits(source, now) and self._rated.admits(source, now)):
            return Turned.TOO_OFTEN
        return None
