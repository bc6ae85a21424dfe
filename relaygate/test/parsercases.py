"""Runs a parser's case in every way in which its bytes may arrive.

A stream has no boundaries, so a parser must find the same thing whether its input comes whole,
byte by byte, cut in two anywhere, or with the next protocol's bytes already behind it.
`ParserCases` demands just that of any parser with ``end()`` and ``rest``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

TAILS = (b"\n", b"SSH-2.0-tail\r\n", bytes(range(256)))
"""What may stand behind a finished input; the last one begins with a NUL."""

CUT_EVERYWHERE = 600
"""Inputs up to so many bytes are cut in two at every point; for longer ones that is too slow."""


class Parser(Protocol):
    """What the cases need to know of a parser."""

    @property
    def rest(self) -> bytes:
        """The bytes that came and belong to nothing that is finished."""

    def end(self) -> None:
        """Raise the parser's violation if the input was cut short."""


AnyParser = TypeVar("AnyParser", bound=Parser)


@dataclass(frozen=True)
class Outcome:
    """All that a parser made of one input."""

    events: tuple[object, ...] = ()
    """What its receive function returned, joined; empty if there was an error."""
    found: object = None
    """The finished value, or None."""
    rest: bytes = b""
    """The bytes behind the finished value."""
    error: str | None = None
    """The message of the violation, or None."""
    cut_short: bool = False
    """Whether it was the end of the input that was the violation."""


@dataclass(frozen=True)
class ParserCases(Generic[AnyParser]):
    """The cases of one kind of parser."""

    make: Callable[[], AnyParser]
    receive: Callable[[AnyParser, bytes], Sequence[object]]
    """Feed one piece; bytes or a list of events."""
    found: Callable[[AnyParser], object]
    """The finished value, or None as long as the parser wants more."""
    violation: type[Exception]
    """The one family of errors that input may raise."""

    def outcome(self, pieces: Iterable[bytes]) -> Outcome:
        """Feed the pieces to a new parser until it has finished, then end the input."""
        parser = self.make()
        events: list[object] = []
        unread = b""
        ending = False
        try:
            for piece in pieces:
                if self.found(parser) is None:
                    events.extend(self.receive(parser, piece))
                else:
                    unread += piece
            ending = True
            parser.end()
        except self.violation as error:
            return Outcome(error=str(error), cut_short=ending)
        return Outcome(tuple(events), self.found(parser), parser.rest + unread)

    def check(self, data: bytes) -> Outcome:
        """Run one input in every way and return the outcome that all of them had.

        A finished input is run with bytes behind it too, which must all be left over, and a
        refused one must be refused in the same words whatever follows.

        :raises AssertionError: if any way led elsewhere.
        """
        expected = self.outcome([data])
        self._demand(expected, data)
        if not expected.cut_short:
            for tail in TAILS:
                rest = expected.rest + tail if expected.error is None else b""
                with_tail = Outcome(expected.events, expected.found, rest, expected.error)
                self._demand(with_tail, data + tail)
        return expected

    def _demand(self, expected: Outcome, data: bytes) -> None:
        for pieces in cuts(data):
            outcome = self.outcome(pieces)
            if outcome != expected:
                sizes = [len(piece) for piece in pieces]
                raise AssertionError(f"{data!r} in pieces of {sizes}: {outcome} != {expected}")


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Yield the input whole, byte by byte, and, if it is small, cut in two at every point."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    if len(data) <= CUT_EVERYWHERE:
        for i in range(1, len(data)):
            yield [data[:i], data[i:]]
