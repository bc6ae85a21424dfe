"""
A relay: two legs, two pumps, and how they end.

Each direction ends on its own.  The end of one leg's stream, once its last byte has gone, becomes
the end of the other leg's stream (FIN, or ``close_notify`` under TLS), while the other direction
goes on; when both have ended the legs are closed.  Whatever is not an orderly end (a reset, a
time-out, a TLS stream without ``close_notify``) becomes a reset on the other leg.  The one never
stands in for the other: in FTP's stream mode an orderly end means "the file is complete".

What could wait for ever has a limit: a relay with one direction ended in which nothing moves
(lesson 19), a sink that takes nothing while bytes wait for it, and the service's own idle limit.
In the first two a leg is not read, and would not hear of its peer's reset: the kernel is asked now
and then.  A relay that may idle and does has no timer at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from relaygate.outcome import Cause, Outcome, Phase
from relaygate.pump import Pump, make_pump

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from relaygate.legs import Leg
    from relaygate.pipes import PipeShelf

# Seconds without a byte after one direction has ended.
HALF_CLOSED_LIMIT_S = 900.0
# Seconds without a byte, either way, while a sink takes none of those that wait for it.
STALL_LIMIT_S = 3600.0
# A limit is looked at this many times while it lasts, so it strikes at most a quarter late.
LOOKS = 4
# Seconds between two looks at legs that are not read.  One that is broken is given up when nothing
# has moved in between: what it had sent before may still be on its way to a slow sink.
UNREAD_LOOK_S = 10.0


@implementer(IHalfCloseableProtocol)
class _End(Protocol):
    """The protocol of a leg while it is part of a relay."""

    def __init__(self, relay: Relay, name: Cause) -> None:
        self.relay = relay
        self.name = name

    def readConnectionLost(self) -> None:
        """The leg's stream has ended, in order."""
        self.relay._stream_ended(self)

    def writeConnectionLost(self) -> None:
        """Our end of stream has gone out."""
        self.relay._end_sent(self)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The leg is gone."""
        self.relay._leg_lost(self)


class Relay:
    """
    Joins *outer*, the leg towards the client, and *inner*, the leg towards the backend; *beyond* is
    what the log calls who is behind the inner one.

    *done* is called once, with the outcome, when both legs are gone.  *idle_timeout_s* is the
    service's limit in seconds for a relay in which nothing moves; None is none.  *passed* is called
    with the word for a leg when all that it sent, and its end, went out on the other one.
    """

    def __init__(
        self,
        outer: Leg,
        inner: Leg,
        clock: IReactorTime,
        shelf: PipeShelf,
        done: Callable[[Outcome], None],
        *,
        beyond: Cause = Cause.BACKEND,
        idle_timeout_s: float | None = None,
        passed: Callable[[Cause], None] | None = None,
    ) -> None:
        self._beyond = beyond
        self._passed = passed
        self._outer = outer
        self._inner = inner
        self._clock = clock
        self._done = done
        self._idle_timeout_s = idle_timeout_s
        self._pump_in = make_pump(outer, inner, self, shelf)
        self._pump_out = make_pump(inner, outer, self, shelf)
        self._prefix_in = 0
        self._prefix_out = 0
        self._ended: set[Cause] = set()
        self._ends_sent = 0
        self._outcome: Outcome | None = None
        self._legs_left = 2
        self._watch: IDelayedCall | None = None
        self._quiet_s = 0.0
        self._looked_bytes = 0
        self._watched_s = 0.0

    @property
    def bytes_in(self) -> int:
        """Bytes moved towards the backend, so far."""
        return self._prefix_in + self._pump_in.moved

    @property
    def bytes_out(self) -> int:
        """Bytes moved towards the client, so far."""
        return self._prefix_out + self._pump_out.moved

    def start(
        self,
        *,
        before_in: bytes = b"",
        before_out: bytes = b"",
        seen_in: int = 0,
        seen_out: int = 0,
    ) -> None:
        """
        Begin to relay.

        *before_in* and *before_out* were read from the outer and the inner leg already and go
        first; *seen_in* and *seen_out* count bytes that have even been passed on, for the counters.
        """
        self._prefix_in = seen_in + len(before_in)
        self._prefix_out = seen_out + len(before_out)
        for leg, name in ((self._outer, Cause.CLIENT), (self._inner, self._beyond)):
            end = _End(self, name)
            leg.protocol = end
            end.makeConnection(leg)
            leg.abort_by_default()
        if before_in:
            self._inner.write(before_in)
        if before_out:
            self._outer.write(before_out)
        self._pump_in.start()
        self._pump_out.start()
        self._arm()

    def close(self) -> None:
        """End both legs now, in order: what is still to come from either is of no interest."""
        if self._outcome is None:
            self._outcome = Outcome(Cause.DONE, Phase.RELAY)
            self._stop_pumps()
            self._outer.loseConnection()
            self._inner.loseConnection()

    def abort(self, cause: Cause, detail: str) -> None:
        """End both legs now, with resets."""
        if self._outcome is None:
            self._outcome = Outcome(cause, Phase.RELAY, detail)
        self._abort_legs()

    def _abort_legs(self) -> None:
        self._stop_pumps()
        self._outer.abortConnection()
        self._inner.abortConnection()

    # -- ends -----------------------------------------------------------------------------------

    def _stream_ended(self, end: _End) -> None:
        pump, sink = self._from(end)
        pump.stop()
        self._ended.add(end.name)
        sink.loseWriteConnection()
        self._arm()

    def _from(self, end: _End) -> tuple[Pump, Leg]:
        if end.name is Cause.CLIENT:
            return self._pump_in, self._inner
        return self._pump_out, self._outer

    def _end_sent(self, end: _End) -> None:
        self._ends_sent += 1
        if self._passed is not None:
            self._passed(self._beyond if end.name is Cause.CLIENT else Cause.CLIENT)
        if self._ends_sent == 2 and self._outcome is None:
            # Both streams were read to their ends, so no unread byte can turn the close into a
            # reset.
            self._outcome = Outcome(Cause.DONE, Phase.RELAY)
            self._outer.loseConnection()
            self._inner.loseConnection()

    def _leg_lost(self, end: _End) -> None:
        self._legs_left -= 1
        if self._outcome is None:
            self._outcome = self._broken(end.name)
            self._stop_pumps()
            (self._inner if end.name is Cause.CLIENT else self._outer).abortConnection()
        if self._legs_left == 0:
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None
            self._done(self._outcome)

    def sink_broken(self, sink: Leg) -> None:
        """See :class:`relaygate.pump.IPumpOwner`."""
        if self._outcome is None:
            self._outcome = self._broken(Cause.CLIENT if sink is self._outer else self._beyond)
        self._abort_legs()

    def _broken(self, name: Cause) -> Outcome:
        # Many clients close at once when they have said their last word, as OpenSSH does.
        words = "closed without reading to the end" if name in self._ended else "connection reset"
        return Outcome(name, Phase.RELAY, words)

    def load_held(self) -> None:
        """See :class:`relaygate.pump.IPumpOwner`."""
        if self._watch is None or self._watched_s > UNREAD_LOOK_S:
            self._arm()

    def _stop_pumps(self) -> None:
        self._pump_in.stop()
        self._pump_out.stop()

    # -- limits ---------------------------------------------------------------------------------

    def _limit(self) -> tuple[float, str] | None:
        """The limit (seconds) that is in force now, and what it is called in the log."""
        limits = []
        if self._idle_timeout_s is not None:
            limits.append((self._idle_timeout_s, "idle for too long"))
        if self._ended:
            limits.append((HALF_CLOSED_LIMIT_S, "half closed and idle for too long"))
        if self._pump_in.holding or self._pump_out.holding:
            limits.append((STALL_LIMIT_S, "bytes waited for too long"))
        return min(limits, default=None)

    def hurry(self, limit_s: float) -> None:
        """Let *limit_s* seconds without a byte be the most from now on."""
        if self._idle_timeout_s is None or limit_s < self._idle_timeout_s:
            self._idle_timeout_s = limit_s
            self._arm()

    @property
    def _unread(self) -> bool:
        """Whether a leg is not read, and so is told of nothing."""
        return bool(self._ended or self._pump_in.holding or self._pump_out.holding)

    def _arm(self) -> None:
        """Begin to watch, or begin anew, if a limit is in force."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        limit = self._limit()
        if limit is not None and self._legs_left:
            self._quiet_s = 0.0
            self._looked_bytes = self.bytes_in + self.bytes_out
            self._look_later(limit[0])

    def _look_later(self, limit_s: float) -> None:
        wait_s = min(limit_s / LOOKS, limit_s - self._quiet_s)
        self._watched_s = min(wait_s, UNREAD_LOOK_S) if self._unread else wait_s
        self._watch = self._clock.callLater(self._watched_s, self._look)

    def _look(self) -> None:
        self._watch = None
        limit = self._limit()
        if limit is None or self._looked_bytes != self.bytes_in + self.bytes_out:
            self._arm()
            return
        if self._unread:
            for leg, name in ((self._outer, Cause.CLIENT), (self._inner, self._beyond)):
                if leg.broken:
                    self._outcome = self._outcome or self._broken(name)
                    self._abort_legs()
                    return
        self._quiet_s += self._watched_s
        if self._quiet_s >= limit[0]:
            self.abort(Cause.TIMEOUT, limit[1])
        else:
            self._look_later(limit[0])
