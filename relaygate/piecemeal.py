"""Looks at all sessions in pieces, with a turn of the reactor after each: nobody waits for more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

T = TypeVar("T")

# Items of a piece: some 0.3 ms, where each is looked at for a microsecond or two.
PIECE = 200


async def piecemeal(items: Iterable[T], clock: IReactorTime) -> AsyncIterator[T]:
    """
    Each of *items* as they are now; after each piece the reactor, which is *clock*, takes a turn.

    What is over by the time it comes, comes nevertheless.
    """
    for number, item in enumerate(list(items), 1):
        yield item
        if number % PIECE == 0:
            await deferLater(clock, 0)
