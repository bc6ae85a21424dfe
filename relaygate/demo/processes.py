"""The demo's processes: each one's start, its log file, and its end."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

import relaygate

_POLL_S: Final = 0.02
_STOP_LIMIT_S: Final = 5.0
_TAIL_LINES: Final = 15


class DemoError(Exception):
    """The demo cannot go on, or a file did not get through. One line that says why."""


class Child(ProcessProtocol):
    """
    One process of *argv*, which works in *folder* and says everything into ``NAME.log`` there.

    It may be started once.
    """

    def __init__(self, reactor: Any, name: str, argv: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log_file = folder / f"{name}.log"
        self._reactor = reactor
        self._argv = list(argv)
        self._folder = folder
        self._status: int | None = None
        self._waiting: list[Deferred[None]] = []

    def start(self) -> None:
        """Start it; it need not be ready when this returns."""
        # The interpreter of a child finds relaygate where this one did, installed or not.
        path = [str(Path(relaygate.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        with open(os.devnull, "rb") as nothing, self.log_file.open("ab") as log:
            self._reactor.spawnProcess(
                self,
                self._argv[0],
                self._argv,
                env=environment,
                path=str(self._folder),
                childFDs={0: nothing.fileno(), 1: log.fileno(), 2: log.fileno()},
            )

    def processEnded(self, reason: Failure) -> None:
        """See :class:`twisted.internet.interfaces.IProcessProtocol`."""
        value: Any = reason.value
        self._status = -value.signal if value.signal else value.exitCode
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)

    def log(self) -> str:
        """All that it has said."""
        return self.log_file.read_text("utf-8", "backslashreplace")

    def tail(self) -> str:
        """The last lines that it said."""
        return "\n".join(self.log().splitlines()[-_TAIL_LINES:])

    async def said(self, pattern: str, *, limit_s: float, after: int = 0) -> re.Match[str]:
        """
        Wait until *pattern* stands in its log, from the character *after* on.

        Raises :class:`DemoError` after *limit_s* seconds, or when it has ended without saying it.
        """
        expression = re.compile(pattern, re.MULTILINE)
        end = self._reactor.seconds() + limit_s
        while True:
            # Looked at before the log is read: what an ended process said is all there.
            ended = self._status is not None
            if match := expression.search(self.log(), after):
                return match
            if ended:
                raise DemoError(f"{self.name} has ended with status {self._status}")
            if self._reactor.seconds() > end:
                raise DemoError(f"{self.name} has not said {pattern!r} in {limit_s:g} s")
            await deferLater(self._reactor, _POLL_S)

    async def ended(self) -> int:
        """Wait for its end; the exit status, or the signal that ended it as a negative number."""
        if self._status is None:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting
        assert self._status is not None
        return self._status

    async def stop(self) -> None:
        """End it if it runs, by force if it does not listen."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.transport is None or self._status is not None:
                return
            self.transport.signalProcess(number)
            ending = Deferred.fromCoroutine(self.ended())
            try:
                await ending.addTimeout(_STOP_LIMIT_S, self._reactor)
            except DeferredTimeoutError:
                # SIGKILL is next, and nobody can ignore that.
                continue


async def run_client(reactor: Any, name: str, argv: Sequence[str], folder: Path) -> None:
    """Run the client *argv* to its end; raises :class:`DemoError` with its words if it fails."""
    child = Child(reactor, name, argv, folder)
    child.log_file.unlink(missing_ok=True)
    child.start()
    try:
        status = await child.ended()
    finally:
        await child.stop()
    if status != 0:
        words = " / ".join(child.tail().splitlines()) or "nothing"
        raise DemoError(f"{name} ended with status {status} and said: {words}")
