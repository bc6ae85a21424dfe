"""
How a node or a backend is: what sessions found out in passing, and what checks found out.

Both speak of one :class:`Health`.  A session that fails puts a mark on it; so many marks in so
many seconds take it out for a pause, and each further failure for a longer one.  After the pause
one session may try it, and the others wait for what comes of that.  Checks have a say of their
own: after *fall* failures in a row it is down, after *rise* good ones it is up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class MarkRule:
    """*failures* within *within_s* seconds take it out; 0 failures: never."""

    failures: int = 3
    within_s: float = 30.0


@dataclass(frozen=True, slots=True)
class CheckRule:
    """How many checks in a row make it up (*rise*) and down (*fall*)."""

    rise: int = 2
    fall: int = 3


class Health:
    """Of one node or backend; up at first.  Times are a clock's seconds."""

    __slots__ = (
        *("_checks", "_marks", "_pause_s", "_reached", "_row", "_rule", "_trial", "_until"),
        "down",
    )

    def __init__(self, marks: MarkRule, checks: CheckRule) -> None:
        self._rule = marks
        self._checks = checks
        self._marks: deque[float] = deque(maxlen=max(1, marks.failures))
        self._pause_s = 0.0
        self._until = 0.0
        # Marked, and by nothing but sessions that had a connection to it.
        self._reached = False
        self._trial = False
        self._row = 0
        self.down = False

    def use(self, rules: Health) -> None:
        """Judge by the rules of another one from now on."""
        self._rule, self._checks = rules._rule, rules._checks
        self._marks = deque(self._marks, maxlen=rules._marks.maxlen)

    @property
    def marked(self) -> bool:
        """Whether marks have taken it out, and nothing good has come since."""
        return self._pause_s > 0

    @property
    def state(self) -> str:
        """``up``, ``marked`` or ``down``, for people."""
        return "down" if self.down else "marked" if self.marked else "up"

    @property
    def there(self) -> bool:
        """
        Whether it takes connections, for all that is known, though it may be marked for what became
        of them: that may be the doing of one client.
        """
        return not self.down and (not self.marked or self._reached)

    def available(self, now: float) -> bool:
        """Whether a session may go there: not while it is down, nor in a pause."""
        return not self.down and (not self.marked or now >= self._until)

    def due(self) -> float:
        """When the pause ends."""
        return self._until

    def tried(self, now: float) -> None:
        """A session tries it: after a pause, nobody else does until it is known how it went."""
        if self.marked and now >= self._until:
            self._trial = True
            self._until = now + self._pause_s

    def failed(self, now: float, *, costly: bool = False, reached: bool = False) -> bool:
        """
        A session failed there; *costly* ones, which waited long in vain, weigh as much as all that
        are needed; *reached* says that it had a connection.  Whether this took it out.
        """
        if not self._rule.failures:
            return False
        self._reached = reached and (self._reached or not self.marked)
        if self.marked:
            # Sessions that began before the pause, or had no other choice, teach nothing.
            if self._trial:
                self._pause(now)
            return False
        self._marks.append(now)
        enough = len(self._marks) == self._marks.maxlen
        if costly or (enough and now - self._marks[0] <= self._rule.within_s):
            self._pause(now)
            return True
        return False

    def _pause(self, now: float) -> None:
        self._trial = False
        self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
        self._until = now + self._pause_s

    def worked(self) -> bool:
        """A session came through; whether that brought it back."""
        back = self.marked
        if back or self._marks:
            self._marks.clear()
            self._pause_s = self._until = 0.0
        return back

    def checked(self, good: bool) -> bool:
        """A check went well or not; whether that changed its state."""
        before = self.down
        if good is not self.down:
            # It says what is known already.
            self._row = 0
        else:
            self._row += 1
            if self._row >= (self._checks.rise if self.down else self._checks.fall):
                self.down, self._row = not self.down, 0
        if good and not self.down:
            return self.worked() or before
        return self.down is not before
