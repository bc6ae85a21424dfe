"""
Two clocks: one that waits are measured by, and one that says what time it is.

Twisted's reactor goes by the time of day. Whoever sets that back by an hour, as a virtual machine's
host does after a pause, has every wait last an hour longer: no ping, no deadline, no ban ends. So
both programs have their reactor go by the clock that nobody sets, and ask :func:`time_of_day` for
what has a date: certificates and cookies.
"""

from __future__ import annotations

import time
from typing import Any

_TIME_OF_DAY = "time_of_day"


def steady(reactor: Any) -> bool:
    """
    Have *reactor* measure by the monotonic clock from now on; whether it does.

    One that runs, or has been asked to call something later, has begun by its own clock.
    """
    if reactor.running or reactor.getDelayedCalls():
        return False
    reactor.seconds = time.monotonic
    setattr(reactor, _TIME_OF_DAY, time.time)
    return True


def time_of_day(clock: Any) -> float:
    """Seconds since 1970 (UTC): by *clock* itself, where that knows no other time."""
    seconds: float = getattr(clock, _TIME_OF_DAY, clock.seconds)()
    return seconds
