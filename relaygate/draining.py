"""Waiting for sessions to end, for a set time."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

# Seconds between two looks, and for a session whose start is on its way when all seems over.
LOOK_S = 0.2
# The same at the end of the program, where all were aborted; and how long they have at the most.
LAST_LOOK_S = 0.005
LAST_TURNS_S = 0.1


def drained(
    empty: Callable[[], bool], limit_s: float, clock: IReactorTime, *, look_s: float = LOOK_S
) -> Deferred[None]:
    """
    Fires when *empty* says so at two looks in a row, *look_s* seconds apart, or after *limit_s*
    seconds.
    """
    looks = 0

    def look() -> None:
        nonlocal looks
        looks = looks + 1 if empty() else 0
        if looks >= 2:
            looking.stop()

    looking = LoopingCall(look)
    looking.clock = clock
    waiting: Deferred[LoopingCall] = looking.start(look_s, now=False)
    done: Deferred[None] = Deferred(lambda _: looking.stop() if looking.running else None)
    waiting.addCallbacks(lambda _: done.callback(None), done.errback)

    def too_long(failure: Failure) -> None:
        failure.trap(TimeoutError)

    done.addTimeout(limit_s, clock)
    done.addErrback(too_long)
    return done
