"""How often somebody may come: new sessions a second, in all and for each source."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

# A rate holds on average over so many seconds: a job that opens twenty sessions at once, on the
# hour, is no flood.
OVER_S = 10.0
# Sums of fractions of a second come out a little too high.
_ROUNDING_S = 1e-6
# Sources that are remembered: beyond that the one that came longest ago is forgotten.
MAX_SOURCES = 65_536


@dataclass(frozen=True, slots=True)
class Rates:
    """New sessions a second, *total* and *per_address*; 0 is no bound."""

    total: int = 0
    per_address: int = 0


class Rated:
    """
    Lets through what is within :class:`Rates`, in constant time and bounded memory.

    It is the generic cell rate algorithm (ITU-T I.371, annex A): one number for each source, the
    time at which it would be back to nothing.
    """

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self._total = 0.0
        self._due: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due)

    def admits(self, source: str, now: float) -> bool:
        """Whether one more may come from *source* at *now* (seconds); if so, it has."""
        rates = self.rates
        total = self._total
        if rates.total:
            total = max(total, now) + 1 / rates.total
            if total - now > OVER_S + _ROUNDING_S:
                return False
        if rates.per_address:
            due = max(self._due.get(source, now), now) + 1 / rates.per_address
            if due - now > OVER_S + _ROUNDING_S:
                return False
            self._due[source] = due
            self._due.move_to_end(source)
            self._forget(now)
        self._total = total
        return True

    def _forget(self, now: float) -> None:
        # Two for each that comes: so it shrinks though others come.
        for _ in range(2):
            oldest = next(iter(self._due))
            if self._due[oldest] > now and len(self._due) <= MAX_SOURCES:
                return
            del self._due[oldest]
            if not self._due:
                return
