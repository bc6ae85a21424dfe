"""How long to wait before the next try."""

from __future__ import annotations

from collections.abc import Callable


class FullJitter:
    """
    Waits drawn evenly from zero to a ceiling that doubles with each failure.

    Nodes that lost the same gateway at the same moment so come back spread out, and not in step
    (lesson 8).  The ceiling falls back only when a connection has stood for a while: a gateway that
    accepts and then falls over is not hammered.

    *random* returns a float from 0 up to 1; *first_s* and *longest_s* are seconds.
    """

    # A connection that stood this long (seconds) was a good one.
    STABLE_S = 30.0

    def __init__(
        self, random: Callable[[], float], *, first_s: float = 0.5, longest_s: float = 15.0
    ) -> None:
        self._random = random
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0

    def next_wait(self) -> float:
        """The seconds to wait now; the next answer's ceiling is twice as high."""
        ceiling = min(self._longest_s, self._first_s * 2.0**self._failures)
        if ceiling < self._longest_s:
            self._failures += 1
        return self._random() * ceiling

    def stood(self, seconds: float) -> None:
        """A connection has ended that stood for *seconds*."""
        if seconds >= self.STABLE_S:
            self._failures = 0
