"""Keeps a running node's identity up to date: certificates are renewed while nodes run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from relaygate.identity import Identity, IdentityError

# Seconds between two looks at the files.
LOOK_S = 60.0
WARN_BEFORE = timedelta(days=30)
# Seconds between two warnings of the same thing.
WARN_AGAIN_S = 24 * 3600.0


class IdentityKeeper(Service):
    """
    Reads the identity again when its files have changed, or when told to.

    *load* reads and checks it at a time (UTC), *use* puts it to work, *paths* are its files.  A
    file that cannot be used leaves the node as it is, with a line in the log: the old certificate
    goes on.
    """

    log = Logger()

    def __init__(
        self,
        identity: Identity,
        load: Callable[[datetime], Identity],
        use: Callable[[Identity], None],
        paths: tuple[Path, ...],
        clock: IReactorTime,
    ) -> None:
        self._identity = identity
        self._load = load
        self._use = use
        self._paths = paths
        self._clock = clock
        self._seen = self._state()
        self._warned_at: float | None = None
        self._looks = LoopingCall(self.look)
        self._looks.clock = clock

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
        """Read the identity again if a file has changed; warn when its end is near."""
        if self._state() != self._seen:
            self.reload()
        self._warn()

    def reload(self) -> None:
        """Read the identity again now."""
        self._seen = self._state()
        try:
            identity = self._load(self._now())
        except IdentityError as error:
            self.log.error("identity not changed: {reason}", reason=str(error))
            return
        if identity == self._identity:
            self.log.info("identity read again: unchanged")
            return
        try:
            self._use(identity)
        except SSL.Error as error:
            self.log.error("identity not changed: OpenSSL refuses it: {reason}", reason=str(error))
            return
        self._identity = identity
        self._warned_at = None
        self.log.info(
            "identity changed: node={node} not_after={not_after}",
            node=identity.name,
            not_after=identity.not_after.isoformat(),
        )

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
        left = self._identity.not_after - self._now()
        if left > WARN_BEFORE or (
            self._warned_at is not None and now - self._warned_at < WARN_AGAIN_S
        ):
            return
        self._warned_at = now
        self.log.warn(
            "the certificate of {node} (or its CA) ends in {days} days, at {not_after}: renew it",
            node=self._identity.name,
            days=left.days,
            not_after=self._identity.not_after.isoformat(),
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.seconds(), UTC)
