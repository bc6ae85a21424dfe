"""Which backend serves a request: one after the other is tried, while that does no harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relaygate.addresses import HostPort
from relaygate.backends import CONNECT_LIMIT_S, FAILURES, Backend, Backends
from relaygate.clocks import time_of_day
from relaygate.httpend import HTTPEnd, IEndOwner
from relaygate.httpsettings import HTTPSettings
from relaygate.protocols.httpeffects import FindBackend


@dataclass(frozen=True)
class NotFound(Exception):
    """No backend was reached; the client is answered *status*."""

    status: int


class Seeker:
    """
    Finds backends for the requests of a client at *address*, one at a time.

    *note* is told of each that was not reached, and why.
    """

    def __init__(
        self,
        settings: HTTPSettings,
        address: str,
        clock: Any,
        note: Callable[[HostPort, str], None],
    ) -> None:
        # The backend of the moment, or the last one.
        self.name = "-"
        self._settings = settings
        self._address = address
        self._clock = clock
        self._note = note
        self._taken: tuple[Backends, Backend] | None = None
        # Those that the request under way has had.
        self._tried: list[Backend] = []
        self._used_before = False
        # What is sought now.
        self._backends = settings.default
        self._picked: Backend | None = None
        self._wanted: str | None = None
        self._left_s = 0.0

    def begin(self, effect: FindBackend) -> tuple[HTTPEnd, bytes] | None:
        """
        What :meth:`find` finds, if that needs no waiting; else None, and :meth:`find` goes on.

        Most requests follow others, whose connection they take over: they need no coroutine.
        """
        settings = self._settings
        self._backends = backends = settings.target(effect.route)
        self._wanted, self._left_s = None, 0.0
        if not effect.again:
            self._tried = []
            sticky = settings.cookie()
            if sticky is not None and effect.cookie:
                names = [each.name for each in backends.group.members]
                now = time_of_day(self._clock)
                self._wanted, self._left_s = sticky.find(effect.cookie, names, now)
        elif self._used_before and self._tried:
            # It may only have been the connection that had grown old.
            self._wanted = self._tried.pop().name
        member = self._pick()
        if member is None:
            return None
        end = settings.pool.take(member.target, steady=effect.steady)
        if end is None:
            return None
        self._used_before = True
        return end, self._found(member)

    async def find(self, owner: IEndOwner, effect: FindBackend) -> tuple[HTTPEnd, bytes]:
        """
        A connection to a backend as *effect* asks for, which is *owner*'s, and a cookie to be set,
        b"" for none.  It goes on where :meth:`begin` had to wait.

        Raises :class:`NotFound`.
        """
        status = 502 if effect.again else 503
        while (member := self._picked) is not None:
            try:
                end = self._settings.pool.take(member.target, steady=effect.steady)
                self._used_before = end is not None
                if end is None:
                    leg = await self._settings.pool.get(member.target, CONNECT_LIMIT_S)
                    end = HTTPEnd(owner, leg)
            except FAILURES as error:
                status = 504 if error.late else status
                self._note(member.target, str(error))
                self._backends.release(member)
                self._backends.failed(member, str(error), costly=error.late)
                self._pick()
            except BaseException:
                self._backends.release(member)
                raise
            else:
                return end, self._found(member)
        self.name = "-"
        raise NotFound(status)

    def _pick(self) -> Backend | None:
        group = self._backends.group
        self._picked = member = group.pick(
            self._address, self._clock.seconds(), self._tried, self._wanted
        )
        if member is not None:
            self._tried.append(member)
        return member

    def _found(self, member: Backend) -> bytes:
        self.name, self._taken = member.name, (self._backends, member)
        sticky = self._settings.cookie()
        if sticky is None or (member.name == self._wanted and sticky.fresh(self._left_s)):
            return b""
        return sticky.set_cookie(member.name, time_of_day(self._clock))

    def silent(self, reason: str, *, costly: bool) -> None:
        """The backend gave no answer; *costly* if that took long to find out."""
        # A connection that had been idle may just have ended meanwhile.
        if self._taken is not None and (costly or not self._used_before):
            backends, member = self._taken
            backends.failed(member, reason, costly=costly, reached=True)

    def keep(self, end: HTTPEnd) -> None:
        """*end*, of the backend of the moment, is good for another request."""
        if self._taken is not None:
            self._settings.pool.put(self._taken[1].target, end)

    def give_back(self, *, worked: bool = False) -> None:
        """The request has no use for its backend any longer, which has *worked* or not."""
        taken, self._taken = self._taken, None
        if taken is not None:
            backends, member = taken
            if worked:
                backends.worked(member, self._address)
            backends.release(member)
