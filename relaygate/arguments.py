"""
The types of arguments on the uplink: each has a bound, checked at the receiver.

AMP's own types take whatever comes; these raise :class:`BadArgument` for what does not fit.
"""

from __future__ import annotations

from typing import Any

from twisted.protocols import amp


class BadArgument(Exception):
    """An argument is missing, of the wrong type, or out of its bounds."""


class Text(amp.Unicode):
    """UTF-8 text of at most *longest* characters, printable."""

    def __init__(self, longest: int, optional: bool = False) -> None:
        super().__init__(optional)
        self.longest = longest

    def fromString(self, inString: bytes) -> str:
        """Raises :class:`BadArgument`."""
        try:
            text = inString.decode()
        except UnicodeDecodeError:
            raise BadArgument("a text is not UTF-8") from None
        if len(text) > self.longest or not text.isprintable():
            raise BadArgument(f"a text is longer than {self.longest} or not printable")
        return text


class Number(amp.Integer):
    """An integer from *least* to *most*, in decimal digits."""

    def __init__(self, least: int, most: int, optional: bool = False) -> None:
        super().__init__(optional)
        self.least = least
        self.most = most

    def fromString(self, inString: bytes) -> int:  # type: ignore[override]
        """Raises :class:`BadArgument`."""
        if (
            not inString.isdigit()
            or len(inString) > 20
            or not self.least <= int(inString) <= self.most
        ):
            raise BadArgument(f"not a number from {self.least} to {self.most}")
        return int(inString)


class Flag(amp.Boolean):
    """True or False."""

    def fromString(self, inString: bytes) -> bool:
        """Raises :class:`BadArgument`."""
        if inString not in (b"True", b"False"):
            raise BadArgument("neither True nor False")
        return inString == b"True"


class Octets(amp.String):
    """At most *most* bytes."""

    def __init__(self, most: int, optional: bool = False) -> None:
        super().__init__(optional)
        self.most = most

    def fromString(self, inString: bytes) -> bytes:
        """Raises :class:`BadArgument`."""
        if len(inString) > self.most:
            raise BadArgument(f"more than {self.most} bytes")
        return inString


class Rows(amp.AmpList):
    """A list of at most *most* records."""

    def __init__(self, subargs: list[tuple[bytes, amp.Argument]], most: int) -> None:
        super().__init__(subargs)
        self.most = most

    def fromStringProto(self, inString: bytes, proto: object) -> list[dict[str, Any]]:
        """Raises :class:`BadArgument`."""
        if not inString:
            return []
        try:
            rows: list[dict[str, Any]] = super().fromStringProto(inString, proto)
            if sum(len(box.serialize()) for box in amp.parseString(inString)) != len(inString):
                raise BadArgument("a list is cut short")
        except (KeyError, ValueError, EOFError, AttributeError, amp.AmpError) as error:
            # AttributeError: for too long a key AMP asks the helper that parses lists to close a
            # connection, which it has not.
            raise BadArgument(f"a list cannot be read: {type(error).__name__}") from None
        if len(rows) > self.most:
            raise BadArgument(f"a list holds more than {self.most} records")
        return rows
