"""
A turn of the reactor, without what nobody here needs.

Twisted's epoll reactor makes each event a context for its old logging system: ten calls and two
dictionaries around each read of a few bytes, which was an eighth of all that a new session costs.
:func:`shorten` puts another turn in the place of that reactor's own, with the same order, the same
bounds and the same ends of what fails; lines are logged by :mod:`twisted.logger` here, which knows
where they come from without it.  What does not simply become readable or writable is left to
Twisted, and so is everything where the reactor is another one, or not built as it was.

It also keeps apart what Twisted does not: where one connection closes and another is opened in the
same turn, the new one may have the old one's number, and is not told what happened to that.
"""

from __future__ import annotations

from collections.abc import Callable
from select import EPOLLIN, EPOLLOUT, epoll
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

_log = Logger()
_PARTS = ("_poller", "_selectables", "_doReadOrWrite", "_disconnectSelectable")


def shorten(reactor: Any) -> bool:
    """Have *reactor*, if it is Twisted's for epoll, turn so from now on; whether it does."""
    if type(reactor) is not EPollReactor or not all(hasattr(reactor, part) for part in _PARTS):
        return False
    turn = _make_turn(
        reactor._poller,
        reactor._selectables,
        reactor._doReadOrWrite,
        reactor._disconnectSelectable,
    )
    reactor.doIteration = turn  # type: ignore[method-assign]
    return True


def _make_turn(
    poller: epoll,
    selectables: dict[int, Any],
    otherwise: Callable[[Any, int, int], None],
    disconnect: Callable[[Any, Exception, bool], None],
) -> Callable[[float | None], None]:
    def ready(selectable: Any, number: int, event: int) -> None:
        # A descriptor is closed, perhaps, by what was ready before it in this turn.
        if (event != EPOLLIN and event != EPOLLOUT) or selectable.fileno() != number:
            otherwise(selectable, number, event)
            return
        reads = event == EPOLLIN
        try:
            why = selectable.doRead() if reads else selectable.doWrite()
        except Exception as error:  # noqa: BLE001 - whatever it is, one connection ends by it
            _log.failure("{selectable} failed", selectable=repr(selectable))
            why = error
        if why:
            disconnect(selectable, why, reads)

    def turn(limit_s: float | None) -> None:
        """See :meth:`twisted.internet.base.ReactorBase.doIteration`."""
        events = [
            (selectables.get(number), number, event)
            for number, event in poller.poll(limit_s, len(selectables))
        ]
        for selectable, number, event in events:
            # Its number may be another one's by now: what became of the old one is none of its.
            if selectable is None or selectables.get(number) is not selectable:
                continue
            try:
                ready(selectable, number, event)
            except Exception:  # noqa: BLE001 - of the others each has its turn
                _log.failure("an event of {selectable} failed", selectable=repr(selectable))

    return turn
