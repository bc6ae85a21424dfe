"""
AMP's boxes, read and written in one go.

What is on the wire is AMP's and nothing else.  Twisted's own reading passes each key and each value
through four calls, and works out the name that a key has in Python each time it meets one; a
connection outwards and a file of FTP have a question and an answer each, of two dozen such strings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from twisted.protocols import amp

from relaygate.arguments import BadArgument

_MAX_KEY = 0xFF
_MAX_VALUE = 0xFFFF

# The key on the wire, the name in Python, and the type.
_Field = tuple[bytes, str, amp.Argument]


class Command(amp.Command):
    """A command that knows the names of its arguments."""

    _asked: ClassVar[tuple[_Field, ...]]
    _answered: ClassVar[tuple[_Field, ...]]
    _names: ClassVar[frozenset[str]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._asked = tuple(_fields(cls.arguments))
        cls._answered = tuple(_fields(cls.response))
        cls._names = frozenset(name for _, name, _ in cls._asked)

    def __init__(self, **values: Any) -> None:
        """See :class:`twisted.protocols.amp.Command`; what is missing is found as it is written."""
        self.structured = values

    @classmethod
    def makeArguments(cls, objects: dict[str, Any], proto: Any) -> amp.AmpBox:
        """See :class:`twisted.protocols.amp.Command`."""
        if not cls._names.issuperset(objects):
            unknown = sorted(set(objects) - cls._names)
            raise amp.InvalidSignature(f"{', '.join(unknown)}: not for {cls.__name__}")
        return _written(cls._asked, objects, proto)

    @classmethod
    def makeResponse(cls, objects: dict[str, Any], proto: Any) -> amp.AmpBox:
        """See :class:`twisted.protocols.amp.Command`."""
        return _written(cls._answered, objects, proto)

    @classmethod
    def parseArguments(cls, box: amp.AmpBox, protocol: Any) -> dict[str, Any]:
        """See :class:`twisted.protocols.amp.Command`.  Raises :class:`KeyError`, too."""
        return _read(cls._asked, box, protocol)

    @classmethod
    def parseResponse(cls, box: amp.AmpBox, protocol: Any) -> dict[str, Any]:
        """See :class:`twisted.protocols.amp.Command`.  Raises :class:`KeyError`, too."""
        return _read(cls._answered, box, protocol)


def _fields(schema: Iterable[tuple[bytes, amp.Argument]]) -> Iterable[_Field]:
    for key, argument in schema:
        # None of ours is a word of Python's, for which AMP has a rule.
        yield key, key.decode("ascii").replace("-", "_"), argument


def _written(fields: Iterable[_Field], objects: dict[str, Any], proto: Any) -> amp.AmpBox:
    box = amp.AmpBox()
    for key, name, argument in fields:
        value = objects.get(name)
        if value is not None:
            box[key] = argument.toStringProto(value, proto)
        elif not argument.optional:
            raise amp.InvalidSignature(f"{name} is missing")
    return box


def _read(fields: Iterable[_Field], box: amp.AmpBox, proto: Any) -> dict[str, Any]:
    objects: dict[str, Any] = {}
    for key, name, argument in fields:
        if key in box:
            objects[name] = argument.fromStringProto(box[key], proto)
        elif argument.optional:
            objects[name] = None
        else:
            raise KeyError(key)
    return objects


def serialized(box: amp.AmpBox) -> bytes:
    """The bytes of *box*.  Raises :class:`twisted.protocols.amp.TooLong`."""
    parts: list[bytes] = []
    for key, value in box.items():
        if len(key) > _MAX_KEY or len(value) > _MAX_VALUE:
            raise amp.TooLong(len(key) > _MAX_KEY, True, value, key)
        parts += (len(key).to_bytes(2), key, len(value).to_bytes(2), value)
    parts.append(b"\0\0")
    return b"".join(parts)


class BoxReader:
    """
    Reads boxes as they come, each with *most_keys* keys at most.

    It never keeps more than one string that is not whole, beside the box that it belongs to.
    """

    def __init__(self, most_keys: int) -> None:
        self.rest = b""
        self._most_keys = most_keys
        self._box = amp.AmpBox()
        self._key: bytes | None = None

    def receive(self, data: bytes) -> list[amp.AmpBox]:
        """Take the next piece.  Raises :class:`BadArgument` for what is no box of ours."""
        data = self.rest + data
        boxes: list[amp.AmpBox] = []
        box, key = self._box, self._key
        at, end = 0, len(data)
        while at + 2 <= end:
            length = data[at] << 8 | data[at + 1]
            if key is None and length > _MAX_KEY:
                raise BadArgument("too long a key in a box")
            stop = at + 2 + length
            if stop > end:
                break
            text = data[at + 2 : stop]
            at = stop
            if key is not None:
                box[key] = text
                key = None
            elif text:
                if len(box) >= self._most_keys:
                    raise BadArgument("too many keys in a box")
                key = text
            else:
                boxes.append(box)
                box = amp.AmpBox()
        self.rest, self._box, self._key = data[at:], box, key
        return boxes
