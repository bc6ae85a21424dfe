"""
Which method performs which effect.

As :func:`functools.singledispatchmethod` does it, but by one look into a dictionary: that one makes
a function anew for each call, and a session makes a dozen calls for each file that it moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Method = TypeVar("_Method", bound=Callable[[Any, Any], None])


class Performers:
    """The methods of one class, each for one class of effects."""

    def __init__(self) -> None:
        self._by_class: dict[type, Callable[[Any, Any], None]] = {}

    def of(self, kind: type) -> Callable[[_Method], _Method]:
        """Decorate the method for effects of the class *kind*, and of no other."""

        def keep(method: _Method) -> _Method:
            self._by_class[kind] = method
            return method

        return keep

    def perform(self, performer: object, effect: object) -> None:
        """Have *performer* perform *effect*.  Raises :class:`KeyError` if it has no method."""
        self._by_class[type(effect)](performer, effect)
