"""What the dashboard shows of the past, in bounded memory: two curves, and the latest endings."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

# Seconds between points, and how many: a quarter of an hour, and a day.
FINE_S, FINE_POINTS = 5, 180
COARSE_S, COARSE_POINTS = 120, 720
# Endings and failed log-ins that are kept.
MAX_EVENTS = 100
_FIELDS = ("session", "service", "client", "user", "outcome", "detail", "bytes_in", "bytes_out")


class History:
    """Points of (seconds, sessions, bytes in a second, bytes out a second)."""

    def __init__(self) -> None:
        self._last: tuple[float, int, int] | None = None
        self.fine: deque[tuple[float, ...]] = deque(maxlen=FINE_POINTS)
        self.coarse: deque[tuple[float, ...]] = deque(maxlen=COARSE_POINTS)

    def note(
        self,
        now: float,
        services: Sequence[Mapping[str, Any]],
        entries: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """
        Take a point of what ``status`` says of *services* and *entries*; *now* in seconds.

        What goes in at an entry leaves the private network, so it is on its way out.
        """
        sessions = sum(each["sessions"] for each in (*services, *entries))
        into = sum(each["bytes_in"] for each in services)
        into += sum(each["bytes_out"] for each in entries)
        out = sum(each["bytes_out"] for each in services)
        out += sum(each["bytes_in"] for each in entries)
        last, self._last = self._last, (now, into, out)
        if last is None or now <= last[0]:
            return
        took = now - last[0]
        # A service that was taken out of the file takes its bytes with it.
        point = (now, sessions, max(0, into - last[1]) / took, max(0, out - last[2]) / took)
        self.fine.append(point)
        if not self.coarse or now - self.coarse[-1][0] >= COARSE_S:
            self.coarse.append(point)


@implementer(ILogObserver)
class Recent:
    """An observer of the log that keeps the latest endings and failed log-ins."""

    def __init__(self) -> None:
        self.events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        # All that there have been.
        self.count = 0

    def start(self) -> None:
        """Listen from now on."""
        globalLogPublisher.addObserver(self)

    def stop(self) -> None:
        """Listen no longer."""
        globalLogPublisher.removeObserver(self)

    def __call__(self, event: LogEvent) -> None:
        """See :class:`twisted.logger.ILogObserver`."""
        failed = event.get("result") == "refused" and "user" in event
        if "session" not in event or not (failed or "outcome" in event):
            return
        kept = {name: event[name] for name in _FIELDS if name in event}
        kept = {
            name: value if isinstance(value, int | float) else str(value)[:200]
            for name, value in kept.items()
        }
        if failed:
            kept["outcome"] = "log-in refused"
        self.count += 1
        self.events.append({"time": event.get("log_time", 0.0), **kept})
