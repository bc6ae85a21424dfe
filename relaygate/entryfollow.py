"""
FTPS that passes unopened through a fixed forward: the data ports of an entry.

Nobody between the two ends can read which port the partner has opened.  So the entry has the
partner's own range of data ports, one to one, and what a program connects to there goes to the same
port of the partner that its control connection leads to.  It works for programs that take the host
of their control connection for that of the data, as EPSV says and most do for PASV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.dataway import TransferFailed
from relaygate.entrysession import EntrySession, Surroundings
from relaygate.legs import Leg
from relaygate.outcome import Cause, Outcome
from relaygate.relay import Relay

# Seconds without a byte in a transfer that runs.
STALL_LIMIT_S = 900.0


class Followers:
    """The data connections of one entry, whose *sessions* are told with the oldest first."""

    log = Logger()

    def __init__(
        self, around: Surroundings, sessions: Callable[[], Iterable[EntrySession]]
    ) -> None:
        self._around = around
        self._sessions = sessions
        self._works: set[Deferred[None]] = set()
        self._relays: set[Relay] = set()

    def begin(self, leg: Leg) -> None:
        """*leg*, which is not read, has come to one of the data ports."""
        client = leg.getPeer().host
        mine = [
            session
            for session in self._sessions()
            if session.client[0] == client and session.relay is not None
        ]
        if not mine:
            self.log.warn("data connection dropped: client={client} has no session", client=client)
            leg.abortConnection()
            return
        work = Deferred.fromCoroutine(self._follow(leg, mine[-1]))
        work.addErrback(self._broken, leg)
        if not work.called:
            self._works.add(work)
            work.addBoth(lambda _: self._works.discard(work))

    async def _follow(self, leg: Leg, session: EntrySession) -> None:
        assert session.found is not None
        port = leg.getHost().port
        way = session.found.link.dataway
        inner = await (await way.dial_active(session.id, port, 0, False)).arrived
        if not leg.connected:
            inner.abortConnection()
            return

        def over(_: Outcome) -> None:
            self._relays.discard(relay)

        around = self._around
        relay = Relay(leg, inner, around.reactor, around.shelf, over, idle_timeout_s=STALL_LIMIT_S)
        self._relays.add(relay)
        relay.start()

    def _broken(self, failure: Failure, leg: Leg) -> None:
        leg.abortConnection()
        if failure.check(TransferFailed):
            self.log.warn("data connection failed: {reason}", reason=failure.getErrorMessage())
        elif not failure.check(CancelledError):
            self.log.failure("data connection failed", failure)

    def stop(self, detail: str) -> None:
        """End all of them now."""
        for work in list(self._works):
            work.cancel()
        for relay in list(self._relays):
            relay.abort(Cause.SHUTDOWN, detail)
