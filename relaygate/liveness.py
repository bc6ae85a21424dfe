"""
Whether an internal node is there at all, asked by sessions that have waited for it in vain.

Its uplink is pinged every few seconds, and ended after fifteen seconds of silence.  A client that
comes in these seconds would wait for its whole deadline where no other node is left: behind a cut
wire all of them are silent.  So whoever has waited for a moment asks, and all who ask at the same
time share one ping: a node that is slow answers it, one that was stopped or cut off does not.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

# Seconds without an answer, after which one is doubted.
DOUBT_S = 2.0
# Then so many times as many seconds for the ping. Turns are counted: where this process was
# stopped itself, its timers run before what has come meanwhile is read.
TURN_S = 2.0
TURNS = 2
# Seconds for which an answer is good.
FRESH_S = 1.0


class Liveness:
    """Of one node, which *ping* asks; it returns when there was an answer, or raises."""

    def __init__(
        self, clock: IReactorTime, ping: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        self._clock = clock
        self._ping = ping
        self._waiting: list[Deferred[bool]] = []
        self._heard: float | None = None
        self._asked = 0
        self._limit: IDelayedCall | None = None

    async def there(self) -> bool:
        """Whether the node answers."""
        now = self._clock.seconds()
        if self._heard is not None and now - self._heard < FRESH_S:
            return True
        answer: Deferred[bool] = Deferred()
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            self._asked += 1
            number = self._asked
            self._limit = self._clock.callLater(TURN_S, self._turn, number, TURNS - 1)
            asking = Deferred.fromCoroutine(self._ping())
            asking.addCallbacks(self._answered, lambda _: self._tell(False, number))
        return await answer

    def _answered(self, _: object) -> None:
        self._heard = self._clock.seconds()
        self._tell(True, self._asked)

    def _turn(self, number: int, left: int) -> None:
        if left:
            self._limit = self._clock.callLater(TURN_S, self._turn, number, left - 1)
        else:
            self._tell(False, number)

    def _tell(self, there: bool, number: int) -> None:
        if number != self._asked:
            return
        if self._limit is not None and self._limit.active():
            self._limit.cancel()
        self._limit = None
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(there)
