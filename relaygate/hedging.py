"""
One asks, and when no answer comes soon, the next one is asked beside it: who answers first has won.

A node that was stopped, or whose wire was cut, does not refuse; it says nothing.  Whoever waited
for it to the end of its share of the time would wait for seconds, again and again, until it is
known to be gone.  So a :class:`Race` waits alone for a moment only.  Exactly one answer is taken:
with the first one all other tries are given up, and an answer that comes all the same is thrown
away.

Where everything is slow, asking twice makes it slower.  A :class:`HedgeBudget` bounds how many
second tries are under way, and how many may have been in vain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relaygate.admission import Allowance

K = TypeVar("K")
R = TypeVar("R")

# Second tries that are under way at once.
MAX_AT_ONCE = 256
# Those that were in vain: so many at once, and so many a second. One that has won costs nothing.
VAIN_AT_ONCE = 64
VAIN_PER_S = 2.0


class HedgeBudget:
    """What may be spent on second tries; *seconds* is a clock's."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.begun = self.won = self.running = 0
        self._vain = Allowance(seconds, at_once=VAIN_AT_ONCE, per_s=VAIN_PER_S)

    def begin(self) -> bool:
        """Whether another second try may begin; if so, it has."""
        if self.running >= MAX_AT_ONCE or self._vain.take(0.0) > 0:
            return False
        self.running += 1
        self.begun += 1
        return True

    def end(self, *, won: bool) -> None:
        """One is over."""
        self.running -= 1
        if won:
            self.won += 1
        else:
            self._vain.take(1.0)


@dataclass(eq=False, slots=True)
class _Try(Generic[K]):
    whom: K
    # Whether it has begun while others had not answered.
    beside: bool
    asking: Deferred[None] | None = None


class Race(Generic[K, R]):
    """
    One search for an answer (R) among those that can be asked (K); to be subclassed.

    *alone_s* is for how many seconds a try is alone; *failures* are what it raises to say no.
    """

    def __init__(
        self,
        clock: IReactorTime,
        budget: HedgeBudget,
        alone_s: float,
        failures: tuple[type[Exception], ...],
    ) -> None:
        self._clock = clock
        self._budget = budget
        self._alone_s = alone_s
        self._failures = failures
        # Those that have not answered, in the order in which they have begun.
        self._tries: list[_Try[K]] = []
        self._answers: list[R] = []
        self._failure: BaseException | None = None
        self._wake: Deferred[None] = Deferred()
        self._late: IDelayedCall | None = None
        self._over = False

    # -- what a subclass says -------------------------------------------------------------------

    def choose(self) -> K | None:
        """Who is asked next, one of those of :meth:`more` if there are any; None is nobody."""
        raise NotImplementedError

    def more(self) -> bool:
        """Whether anybody is left who could be asked beside those that are."""
        raise NotImplementedError

    async def ask(self, whom: K) -> R:
        """The answer of *whom*.  Raises one of the *failures*, and bears being cancelled."""
        raise NotImplementedError

    def overtaken(self, whom: K) -> None:
        """*whom* was asked before the one that has answered, and had said nothing."""
        raise NotImplementedError

    def discard(self, answer: R) -> None:
        """*answer* has come too late to be taken."""
        raise NotImplementedError

    # -------------------------------------------------------------------------------------------

    async def run(self) -> R | None:
        """
        The first answer, or None if there was nobody to be asked.

        Raises as the last try has failed.  Cancelling gives all tries up.
        """
        try:
            whom = self.choose()
            while whom is not None and not self.more():
                # Nobody could be asked beside it, so nothing need be ready for two answers.
                try:
                    return await self.ask(whom)
                except self._failures as error:
                    self._failure = error
                whom = self.choose()
            begun = whom is not None
            if whom is not None:
                self._start_asking(whom, beside=False)
            while begun or self._tries:
                await self._wake
                if self._answers:
                    return self._answers[0]
                if self._over and self._failure is not None:
                    raise self._failure
                self._wake = Deferred()
                begun = self._begin()
            if self._failure is not None:
                raise self._failure
            return None
        finally:
            self._stop()

    def _begin(self) -> bool:
        """Ask one more; whether there was one."""
        beside = bool(self._tries)
        if beside and not (self.more() and self._budget.begin()):
            return False
        whom = self.choose()
        if whom is None:
            return False
        self._start_asking(whom, beside=beside)
        return True

    def _start_asking(self, whom: K, *, beside: bool) -> None:
        self._stop_waiting()
        one = _Try(whom, beside)
        self._tries.append(one)
        asking = Deferred.fromCoroutine(self.ask(whom))
        one.asking = asking.addCallbacks(self._answered, self._failed, (one,), {}, (one,), {})
        if one in self._tries and self.more():
            self._late = self._clock.callLater(self._alone_s, self._stir)

    def _stir(self) -> None:
        if not self._wake.called:
            self._wake.callback(None)

    def _answered(self, answer: R, one: _Try[K]) -> None:
        before = self._tries[: self._tries.index(one)]
        self._end(one, won=not self._over)
        if self._over:
            self.discard(answer)
            return
        self._over = True
        self._answers.append(answer)
        for other in before:
            self.overtaken(other.whom)
        self._stir()

    def _failed(self, failure: Failure, one: _Try[K]) -> None:
        self._end(one, won=False)
        if self._over:
            return
        self._failure = failure.value
        if failure.check(*self._failures) is None:
            # Nobody has thought of it: no other try makes it better.
            self._over = True
        self._stir()

    def _end(self, one: _Try[K], *, won: bool) -> None:
        self._tries.remove(one)
        if one.beside:
            self._budget.end(won=won)

    def _stop_waiting(self) -> None:
        if self._late is not None and self._late.active():
            self._late.cancel()
        self._late = None

    def _stop(self) -> None:
        self._over = True
        self._stop_waiting()
        for one in list(self._tries):
            if one.asking is not None:
                one.asking.cancel()
