"""
The limits of an HTTP session's waits (Requirement 86).

A limit is absolute: bytes that come meanwhile do not prolong it.  Only bodies, which may be of any
size, are looked at again and again: a client has to keep a rate as long as it is its turn to send,
and whatever waits for a reader has to move at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall

from relaygate.httpsettings import HTTPLimits
from relaygate.protocols.httpeffects import Wait

# How often it is looked at how much of a body has moved.
LOOK_S = 10.0
# In these a client may not be read, since it is ahead or the backend takes nothing.
_UNREAD = (Wait.RESPONSE, Wait.LATE_RESPONSE, Wait.BODY, Wait.STREAM)
_BODIES = (Wait.BODY, Wait.STREAM)
# A client that takes no byte of a response for so long is not reading it.  Kernels tell of what was
# read in large steps, so a slow one needs time to show.
UNREAD_LIMIT_S = 300.0


class IWatched(Interface):
    """What the watch asks of a session."""

    @property
    def bytes_in(self) -> int:
        """Bytes that the client has sent."""

    @property
    def bytes_out(self) -> int:
        """Bytes that the client was sent."""

    @property
    def backend_full(self) -> bool:
        """Whether bytes wait for the backend."""

    @property
    def client_full(self) -> bool:
        """Whether bytes wait for the client."""

    def drop_broken(self) -> bool:
        """Whether the client's connection is broken, which is not told while nobody reads it."""


class Watch:
    """Calls *timed_out* when the time is up for what *watched* waits for."""

    def __init__(
        self, watched: IWatched, limits: HTTPLimits, clock: Any, timed_out: Callable[[], None]
    ) -> None:
        self._watched = watched
        self._clock = clock
        self._timed_out = timed_out
        self._body_rate = limits.body_rate
        self._response_s = limits.response_s
        self._limits_s = limits.by_wait
        self._waits_for: tuple[Wait, int, int] = (Wait.NOTHING, 0, 0)
        self._call: IDelayedCall | None = None
        # When the call comes, and when there is something to look at.
        self._due = self._look_at = math.inf
        self._left_s = 0.0
        self._moved = 0
        self._since = 0.0
        self._was_full = False

    def waits_for(self, what: tuple[Wait, int, int]) -> None:
        """It waits for *what*; the limit runs on if that is what it has waited for already."""
        if what == self._waits_for:
            return
        self._waits_for = what
        if what[0] in _BODIES:
            self._note(self._progress)
            self._was_full = False
            self._look_within(LOOK_S)
        elif (limit_s := self._limits_s.get(what[0])) is not None:
            self._look_within(limit_s)
        else:
            self._look_at = math.inf

    def _look_within(self, limit_s: float) -> None:
        step_s = min(limit_s, LOOK_S) if self._waits_for[0] in _UNREAD else limit_s
        self._left_s = limit_s - step_s
        self._look_at = self._clock.seconds() + step_s
        # A call that comes too early is moved on then: most waits are over long before.
        if self._call is None:
            self._call = self._clock.callLater(step_s, self._reached)
        elif self._look_at < self._due:
            self._call.reset(step_s)
        else:
            return
        self._due = self._look_at

    def stop(self) -> None:
        """It waits for nothing, and is over."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._waits_for = (Wait.NOTHING, 0, 0)

    def _reached(self) -> None:
        self._call = None
        early_s = self._look_at - self._clock.seconds()
        if early_s > 0:
            if early_s < math.inf:
                self._call = self._clock.callLater(early_s, self._reached)
                self._due = self._look_at
            return
        wait = self._waits_for[0]
        if wait in _UNREAD and self._watched.drop_broken():
            return
        if wait in _BODIES and self._moves_on():
            self._left_s = LOOK_S
        if self._left_s > 0:
            self._look_within(self._left_s)
            return
        self.stop()
        self._timed_out()

    @property
    def _progress(self) -> int:
        upload = self._waits_for[0] is Wait.BODY
        return self._watched.bytes_in if upload else self._watched.bytes_out

    def _note(self, progress: int) -> None:
        self._moved, self._since = progress, self._clock.seconds()

    def _moves_on(self) -> bool:
        """Whether a body moves, and as fast as it must."""
        progress, passed_s = self._progress, self._clock.seconds() - self._since
        upload = self._waits_for[0] is Wait.BODY
        full = self._watched.backend_full if upload else self._watched.client_full
        was_full, self._was_full = self._was_full, full
        if upload and not full and not was_full:
            # It was the client's turn all the time.
            fast = bool(progress - self._moved >= self._body_rate * passed_s)
            self._note(progress)
            return fast
        if progress > self._moved or (upload and was_full and not full):
            self._note(progress)
            return True
        slow_reader = full and not upload
        return bool(passed_s < (UNREAD_LIMIT_S if slow_reader else self._response_s))
