"""The backends of one service: one is picked for each session, dialled, and judged by what came."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from twisted.logger import Logger

from relaygate.addresses import HostPort
from relaygate.balance import Group, Member
from relaygate.dial import DialFailed, dial
from relaygate.errors import NoBackend, TooSlow
from relaygate.handshake import HandshakeFailed
from relaygate.hedging import HedgeBudget, Race
from relaygate.legs import Leg

# Seconds for one backend, if the session's patience lasts that long.
CONNECT_LIMIT_S = 5.0
# Seconds for which one is dialled alone. The kernel sends a lost SYN again after one second
# (RFC 6298, section 2), and the DMZ node asks another internal node only after two.
ALONE_S = 1.25

# How a backend says that there is no connection to it.
FAILURES = (DialFailed, HandshakeFailed)

Backend = Member[HostPort]
# A leg to an address, within seconds; it raises one of FAILURES.
Connect = Callable[[HostPort, float], Coroutine[Any, Any, Leg]]


class Backends:
    """
    The backends of the service called *name*, which *group* balances.

    Whoever has reached one says how it went (:meth:`worked` or :meth:`failed`), and gives it back
    with :meth:`release` at the session's end.  *changed* is called when one has gone out or come
    back.
    """

    log = Logger()

    def __init__(self, name: str, group: Group[HostPort], reactor: Any) -> None:
        self.name = name
        self.group = group
        self.changed: Callable[[], None] = _nothing
        self.hedges = HedgeBudget(reactor.seconds)
        self._reactor = reactor

    async def reach(
        self,
        address: str,
        end: float,
        note: Callable[[HostPort, str], None],
        *,
        prefer: str | None = None,
        connect: Connect | None = None,
    ) -> tuple[Backend, Leg]:
        """
        A backend for a session of the client *address*, and a leg to it, before the time *end*.

        *note* is told of each that was not reached, and why.  The one called *prefer* is taken if
        it is up; *connect* connects where more than dialling is needed.  Raises a
        :class:`relaygate.errors.Refusal`.
        """
        connect = connect or partial(dial, self._reactor)
        search = _Reaching(self, self._reactor, address, end, note, prefer, connect)
        try:
            reached = await search.run()
        except FAILURES:
            raise NoBackend from None
        if reached is None:
            raise NoBackend
        return reached

    @property
    def up(self) -> bool:
        """Whether any takes connections and is not drained."""
        return any(not each.drained and each.health.there for each in self.group.members)

    def worked(self, backend: Backend, address: str) -> None:
        """A session of *address* is open there."""
        if self.group.worked(backend, address, self._reactor.seconds()):
            self.tell(backend, "it works")

    def failed(
        self, backend: Backend, reason: str, *, costly: bool = False, reached: bool = False
    ) -> None:
        """A session failed there; *costly*: only after a long wait; *reached*: once connected."""
        health, now = backend.health, self._reactor.seconds()
        there = health.there
        out = self.group.failed(backend, now, costly=costly, reached=reached)
        if out or health.there is not there:
            self.tell(backend, reason)

    def tell(self, backend: Backend, reason: str) -> None:
        """*backend* has gone out or come back: say so."""
        up = backend.health.state == "up"
        write = self.log.info if up else self.log.warn
        write(
            "backend {what}: service={service} backend={backend} reason={reason!r}",
            what="back" if up else "out",
            service=self.name,
            backend=str(backend.target),
            reason=reason,
        )
        self.changed()

    def release(self, backend: Backend) -> None:
        """The session that had *backend* is over."""
        self.group.release(backend)

    def state(self) -> list[dict[str, Any]]:
        """How each is, for operators."""
        return [
            {
                "address": str(each.target),
                "state": "drained" if each.drained else each.health.state,
                "weight": each.weight,
                "backup": each.backup,
                "sessions": each.sessions,
                "opened": each.opened,
                "failed": each.failed,
            }
            for each in self.group.members
        ]


class _Reaching(Race[Backend, tuple[Backend, Leg]]):
    """One session's search among *backends*, as :meth:`Backends.reach` has it."""

    def __init__(
        self,
        backends: Backends,
        reactor: Any,
        address: str,
        end: float,
        note: Callable[[HostPort, str], None],
        prefer: str | None,
        connect: Connect,
    ) -> None:
        super().__init__(reactor, backends.hedges, ALONE_S, FAILURES)
        self._backends = backends
        self._group = backends.group
        self._address = address
        self._end_at = end
        self._note = note
        self._prefer = prefer
        self._connect = connect
        self._tried: list[Backend] = []

    def choose(self) -> Backend | None:
        """See :class:`Race`."""
        now = self._clock.seconds()
        backend = self._group.pick(self._address, now, self._tried, self._prefer)
        if backend is not None:
            self._tried.append(backend)
        return backend

    def more(self) -> bool:
        """See :class:`Race`."""
        return self._group.others_up(self._tried, self._clock.seconds())

    async def ask(self, whom: Backend) -> tuple[Backend, Leg]:
        """See :class:`Race`."""
        clock, group = self._clock, self._group
        # What is left is shared out, so that one backend that hangs leaves time for the next.
        share = (self._end_at - clock.seconds()) / (1 + group.left(self._tried))
        try:
            if share <= 0:
                raise TooSlow
            return whom, await self._connect(whom.target, min(share, CONNECT_LIMIT_S))
        except FAILURES as error:
            group.release(whom)
            self._failed_there(whom, str(error))
            raise
        except BaseException:
            # The client is gone, which says nothing of the backend; or another was faster.
            group.release(whom)
            raise

    def overtaken(self, whom: Backend) -> None:
        """See :class:`Race`; the dial that is given up releases it."""
        self._failed_there(whom, "slower than another")

    def discard(self, answer: tuple[Backend, Leg]) -> None:
        """See :class:`Race`."""
        backend, leg = answer
        self._group.release(backend)
        leg.abortConnection()

    def _failed_there(self, backend: Backend, reason: str) -> None:
        self._note(backend.target, reason)
        self._backends.failed(backend, reason)


def _nothing() -> None:
    """Nobody is to be told."""
