"""The backends of one service: one is picked for each session, dialled, and judged by what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from relaygate.addresses import HostPort
from relaygate.balance import Group, Member
from relaygate.dial import DialFailed, dial
from relaygate.errors import NoBackend, TooSlow
from relaygate.legs import Leg

# Seconds for one backend, if the session's patience lasts that long.
CONNECT_LIMIT_S = 5.0

Backend = Member[HostPort]


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
        self._reactor = reactor

    async def reach(
        self,
        address: str,
        end: float,
        note: Callable[[HostPort, str], None],
        *,
        prefer: str | None = None,
    ) -> tuple[Backend, Leg]:
        """
        A backend for a session of the client *address*, and a leg to it, before the time *end*.

        *note* is told of each that was not reached, and why.  The one called *prefer* is taken if
        it is up.  Raises a :class:`relaygate.errors.Refusal`.
        """
        clock, group = self._reactor, self.group
        tried: list[Backend] = []
        while (backend := group.pick(address, clock.seconds(), tried, prefer)) is not None:
            # What is left is shared out, so that one backend that hangs leaves time for the next.
            share = (end - clock.seconds()) / (1 + group.left([*tried, backend]))
            tried.append(backend)
            if share <= 0:
                group.release(backend)
                raise TooSlow
            try:
                return backend, await dial(clock, backend.target, min(share, CONNECT_LIMIT_S))
            except DialFailed as error:
                group.release(backend)
                note(backend.target, str(error))
                self.failed(backend, str(error))
            except BaseException:
                # The client is gone; that says nothing of the backend.
                group.release(backend)
                raise
        raise NoBackend

    @property
    def up(self) -> bool:
        """Whether any is up and not drained."""
        return any(not each.drained and each.health.state == "up" for each in self.group.members)

    def worked(self, backend: Backend, address: str) -> None:
        """A session of *address* is open there."""
        if self.group.worked(backend, address, self._reactor.seconds()):
            self.tell(backend, "it works")

    def failed(self, backend: Backend, reason: str, *, costly: bool = False) -> None:
        """A session failed there; *costly*: only after a long wait."""
        if self.group.failed(backend, self._reactor.seconds(), costly=costly):
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


def _nothing() -> None:
    """Nobody is to be told."""
