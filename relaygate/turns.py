"""Whose turn it is of those who wait for the same thing."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """
    A queue in which each address has its turn: first come, first served among those of one address,
    and one of each address before the second of any, so that a crowd keeps nobody else waiting.
    """

    def __init__(self) -> None:
        # Dicts keep the order of arrival: the address in front is the next.
        self._queues: dict[str, deque[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, address: str, item: T) -> None:
        """*item* waits, for *address*."""
        self._queues.setdefault(address, deque()).append(item)

    def remove(self, address: str, item: T) -> None:
        """
        *item* waits no longer.

        Raises :class:`KeyError` or :class:`ValueError` if it did not wait for *address*.
        """
        queue = self._queues[address]
        queue.remove(item)
        if not queue:
            del self._queues[address]

    def take(self) -> T:
        """
        Take the item whose turn it is; its address goes to the end.

        Raises :class:`StopIteration` if none waits.
        """
        address = next(iter(self._queues))
        queue = self._queues.pop(address)
        item = queue.popleft()
        if queue:
            self._queues[address] = queue
        return item
