"""Keeps what a running node has from files up to date: certificates are renewed while nodes run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from relaygate.clocks import time_of_day
from relaygate.identity import IdentityError

# Seconds between two looks at the files.
LOOK_S = 60.0
# Where the dashboard's keeper is among those of the services: no service may have this name.
DASHBOARD = "[admin]"
WARN_BEFORE = timedelta(days=30)
# Seconds between two warnings of the same thing.
WARN_AGAIN_S = 24 * 3600.0


class IKept(Protocol):
    """What is read from files: whose it is, and when the first of its certificates ends (UTC)."""

    @property
    def name(self) -> str:
        """A node's or a service's name."""

    @property
    def not_after(self) -> datetime:
        """The end of a certificate or of its CA, whichever comes first."""


K = TypeVar("K", bound=IKept)


class Keeper(Service, Generic[K]):
    """
    Reads *kept* again when its files have changed, or when told to.

    *what* it is stands in the log; *load* reads and checks it at a time (UTC), *use* puts it to
    work, *paths* are its files.  A file that cannot be used leaves the node as it is, with a line
    in the log: the old certificate goes on.
    """

    log = Logger()

    def __init__(
        self,
        what: str,
        kept: K,
        load: Callable[[datetime], K],
        use: Callable[[K], None],
        paths: tuple[Path, ...],
        clock: IReactorTime,
    ) -> None:
        self._what = what
        self._kept = kept
        self._load = load
        self._use = use
        self._paths = paths
        self._clock = clock
        self._seen = self._state()
        self._warned_at: float | None = None
        self._looks = LoopingCall(self.look)
        self._looks.clock = clock

    @property
    def kept(self) -> K:
        """What was read last."""
        return self._kept

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        super().startService()
        self._looks.start(LOOK_S)

    def stopService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        super().stopService()
        if self._looks.running:
            self._looks.stop()

    def look(self) -> None:
        """Read it again if a file has changed; warn when its end is near."""
        if self._state() != self._seen:
            self.reload()
        self._warn()

    def reload(self) -> None:
        """Read it again now."""
        self._seen = self._state()
        try:
            kept = self._load(self._now())
        except IdentityError as error:
            self._refuse(str(error))
            return
        if kept == self._kept:
            self.log.info("{what} read again: unchanged name={name}", **self._named)
            return
        try:
            self._use(kept)
        except SSL.Error as error:
            self._refuse(f"OpenSSL refuses it: {error}")
            return
        self._kept = kept
        self._warned_at = None
        self.log.info(
            "{what} changed: name={name} not_after={not_after}",
            not_after=kept.not_after.isoformat(),
            **self._named,
        )

    def _refuse(self, reason: str) -> None:
        self.log.error(
            "{what} not changed: name={name} reason={reason!r}", reason=reason, **self._named
        )

    @property
    def _named(self) -> dict[str, str]:
        return {"what": self._what, "name": self._kept.name}

    def _state(self) -> list[tuple[int, int] | None]:
        state: list[tuple[int, int] | None] = []
        for path in self._paths:
            try:
                found = path.stat()
            except OSError:
                state.append(None)
            else:
                state.append((found.st_ino, found.st_mtime_ns))
        return state

    def _warn(self) -> None:
        now = self._clock.seconds()
        left = self._kept.not_after - self._now()
        if left > WARN_BEFORE or (
            self._warned_at is not None and now - self._warned_at < WARN_AGAIN_S
        ):
            return
        self._warned_at = now
        self.log.warn(
            "the certificate of {name} (or its CA) ends in {days} days, at {not_after}: renew it",
            name=self._kept.name,
            days=left.days,
            not_after=self._kept.not_after.isoformat(),
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(time_of_day(self._clock), UTC)
