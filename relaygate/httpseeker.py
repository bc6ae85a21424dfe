"""Which backend serves a request: one after the other is tried, while that does no harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relaygate.addresses import HostPort
from relaygate.backends import CONNECT_LIMIT_S, Backend, Backends
from relaygate.httppool import FAILURES
from relaygate.httpsettings import HTTPSettings
from relaygate.legs import Leg
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

    async def find(self, effect: FindBackend) -> tuple[Leg, bytes]:
        """
        A leg to a backend as *effect* asks for, and a cookie to be set, b"" for none.

        Raises :class:`NotFound`.
        """
        settings, now = self._settings, self._clock.seconds()
        backends = settings.target(effect.route)
        sticky = settings.cookie()
        wanted, left_s = None, 0.0
        if not effect.again:
            self._tried = []
            if sticky is not None and effect.cookie:
                names = [each.name for each in backends.group.members]
                wanted, left_s = sticky.find(effect.cookie, names, now)
        elif self._used_before and self._tried:
            # It may only have been the connection that had grown old.
            wanted = self._tried.pop().name
        status = 502 if effect.again else 503
        while (member := backends.group.pick(self._address, now, self._tried, wanted)) is not None:
            self._tried.append(member)
            try:
                leg = await self._reach(backends, member, effect)
            except FAILURES as error:
                late = "timed out" in str(error)
                status = 504 if late else status
                self._note(member.target, str(error))
                backends.failed(member, str(error), costly=late)
                continue
            self.name, self._taken = member.name, (backends, member)
            if sticky is None or (member.name == wanted and sticky.fresh(left_s)):
                return leg, b""
            return leg, sticky.set_cookie(member.name, now)
        self.name = "-"
        raise NotFound(status)

    async def _reach(self, backends: Backends, member: Backend, effect: FindBackend) -> Leg:
        get = self._settings.pool.get
        try:
            leg, used = await get(member.target, CONNECT_LIMIT_S, steady=effect.steady)
        except BaseException:
            backends.release(member)
            raise
        self._used_before = used
        return leg

    def silent(self, reason: str, *, costly: bool) -> None:
        """The backend gave no answer; *costly* if that took long to find out."""
        # A connection that had been idle may just have ended meanwhile.
        if self._taken is not None and (costly or not self._used_before):
            backends, member = self._taken
            backends.failed(member, reason, costly=costly)

    def keep(self, leg: Leg) -> None:
        """*leg*, of the backend of the moment, is good for another request."""
        if self._taken is not None:
            self._settings.pool.put(self._taken[1].target, leg)

    def give_back(self, *, worked: bool = False) -> None:
        """The request has no use for its backend any longer, which has *worked* or not."""
        taken, self._taken = self._taken, None
        if taken is not None:
            backends, member = taken
            if worked:
                backends.worked(member, self._address)
            backends.release(member)
