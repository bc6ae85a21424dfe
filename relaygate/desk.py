"""The DMZ node's own bounds on sessions, whatever the services allow, and the list of those that
run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from relaygate.admission import Caps, Counted, Throttle
from relaygate.hedging import HedgeBudget
from relaygate.outcome import Cause
from relaygate.piecemeal import piecemeal
from relaygate.pipes import PipeShelf
from relaygate.relay import Relay

# How many may be told at once that they are refused; more are only dropped.
MAX_PARTING = 256


class ISession(Protocol):
    """What the desk needs of a session."""

    id: str
    address: str
    counted: Counted
    relay: Relay | None

    def abort(self, cause: Cause, detail: str) -> None:
        """End it now."""


class Desk:
    """
    What all listeners share.

    *new_id* makes a session's id; *sessions* caps the sessions, *pending* those whose backend is
    not reached yet or that are being refused.
    """

    def __init__(
        self,
        clock: IReactorTime,
        shelf: PipeShelf,
        new_id: Callable[[], str],
        *,
        sessions: Caps,
        pending: Caps,
    ) -> None:
        self.clock = clock
        self.shelf = shelf
        self.new_id = new_id
        # The log's bounds on what strangers can repeat without end, each kind by itself.
        self.dropped = Throttle(clock.seconds)
        self.refused = Throttle(clock.seconds)
        self.pending = Counted(pending)
        # What second nodes may be asked, beside one that has not answered.
        self.hedges = HedgeBudget(clock.seconds)
        self._sessions = Counted(sessions)
        self._running: dict[str, ISession] = {}
        self._opening: set[str] = set()
        self._parting: set[str] = set()
        self._placed: set[str] = set()

    def __len__(self) -> int:
        return len(self._running)

    def use_caps(self, *, sessions: Caps, pending: Caps) -> None:
        """Sessions that come from now on are held against these."""
        self._sessions.caps = sessions
        self.pending.caps = pending

    def enter(self, session: ISession) -> bool:
        """*session* has come; whether it is within the caps."""
        has_room = self._sessions.has_room(session.address) and session.counted.has_room(
            session.address
        )
        self._running[session.id] = session
        self._opening.add(session.id)
        self.pending.add(session.address)
        if has_room:
            # One that is refused takes no place, or those who knock in vain would keep others out.
            self._placed.add(session.id)
            for counted in (self._sessions, session.counted):
                counted.add(session.address)
        return has_room

    def opened(self, session: ISession) -> None:
        """*session* has its backend: it waits for nothing more."""
        if session.id in self._opening:
            self._opening.remove(session.id)
            self.pending.remove(session.address)

    def give_up_place(self, session: ISession) -> None:
        """*session* is over or being refused: another may have its place."""
        if session.id in self._placed:
            self._placed.remove(session.id)
            for counted in (self._sessions, session.counted):
                counted.remove(session.address)

    def may_part(self, session: ISession) -> bool:
        """
        *session* is refused; whether it may be told so, which takes a while.

        Those who are told wait in a room of their own, so that they keep nobody from coming in.
        """
        self.give_up_place(session)
        self.opened(session)
        if len(self._parting) >= MAX_PARTING:
            return False
        self._parting.add(session.id)
        return True

    def leave(self, session: ISession) -> None:
        """*session* is over and its client's connection gone."""
        self.opened(session)
        self.give_up_place(session)
        self._parting.discard(session.id)
        del self._running[session.id]

    async def moved(self) -> dict[Counted, tuple[int, int]]:
        """The bytes that running sessions have moved, in and out, by what counts them."""
        moved: dict[Counted, tuple[int, int]] = {}
        async for session in piecemeal(self._running.values(), self.clock):
            if session.relay is not None:
                into, out = moved.get(session.counted, (0, 0))
                relay = session.relay
                moved[session.counted] = into + relay.bytes_in, out + relay.bytes_out
        return moved

    def abort_all(self, cause: Cause, detail: str) -> None:
        """End every session now."""
        for session in list(self._running.values()):
            session.abort(cause, detail)
