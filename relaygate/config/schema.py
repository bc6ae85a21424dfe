"""How a configuration file is read: every mistake is collected, none stops the reading.

A file is described by a tree of nodes: :class:`Value` (one checked value), :class:`ListOf` (a
list of values), :class:`Table` (``[section]``), :class:`Section` (one that may be absent) and
:class:`Tables` (``[[section]]``).  Each has a ``read`` method that returns what it could make of
its input and writes what is wrong into the :class:`Reader`.  What ``read`` returned may only be
used once the reader has found no problem in the whole file, which :meth:`Reader.finish` checks.

Items of lists are counted from one in messages, as people count.  A ``[[section]]`` with a
name of its own is spoken of by that name.
"""

from __future__ import annotations

import datetime
import difflib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "ConfigError",
    "Key",
    "ListOf",
    "Problem",
    "Reader",
    "Section",
    "Table",
    "Tables",
    "Value",
    "printable",
    "read_toml",
]

# Far above any honest file; a path that leads to a disk image must not fill the memory.
_MAX_FILE = 1024 * 1024

_AT_LINE = re.compile(r"\(at line ([0-9]{1,6}),")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LABEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Problem:
    """One mistake: the file, the path of the key in it ("" for the file as such), and what."""

    file: str
    key: str
    message: str

    def __str__(self) -> str:
        parts = (self.file, self.key, self.message) if self.key else (self.file, self.message)
        return printable(": ".join(parts))


class ConfigError(Exception):
    """A configuration file cannot be used; ``problems`` has every mistake that was found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Reader:
    """Collects the problems of one file."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        self._problems: list[Problem] = []

    def wrong(self, where: str, message: str) -> None:
        """Note a mistake at the key path *where*."""
        self._problems.append(Problem(self._file, where, message))

    def noted(self, where: str) -> bool:
        """Whether there is a mistake at the key path *where*, or in its items."""
        return any(each.key.partition("[")[0] == where for each in self._problems)

    def finish(self) -> None:
        """Raise :class:`ConfigError` if there was any mistake."""
        if self._problems:
            raise ConfigError(tuple(self._problems))


class Node(Protocol):
    """What every kind of node can do."""

    def read(self, reader: Reader, where: str, value: object) -> Any:
        """Return what *value* means, or None after a mistake was noted."""

    def missing(self, reader: Reader, where: str, *, required: bool) -> Any:
        """Return what an absent key means, or None to leave it to the default."""


@dataclass(frozen=True)
class Key:
    """A key of a table.

    *field* is its name in what the table reads as, where the two differ.  There are no
    defaults here: an absent key is left out, and the dataclass that is built says what holds.
    """

    name: str
    node: Node
    required: bool = False
    field: str = ""


@dataclass(frozen=True)
class Value:
    """One value; *convert* returns what it means or raises ValueError with the reason or ""."""

    what: str
    convert: Callable[[object], object]

    def read(self, reader: Reader, where: str, value: object) -> Any:
        """Return what *convert* makes of *value*."""
        try:
            return self.convert(value)
        except ValueError as reason:
            because = f" ({reason})" if str(reason) else ""
            reader.wrong(where, f"expected {self.what}, found {_shown(value)}{because}")
            return None

    def missing(self, reader: Reader, where: str, *, required: bool) -> Any:
        """Note that a required value is absent."""
        if required:
            reader.wrong(where, f"missing, expected {self.what}")


@dataclass(frozen=True)
class ListOf:
    """A list of one to *limit* values, all different, read as a tuple."""

    item: Node
    plural: str
    limit: int

    def read(self, reader: Reader, where: str, value: object) -> Any:
        """Return the values that are good and new."""
        if not isinstance(value, list) or not value:
            reader.wrong(
                where, f"expected a non-empty list of {self.plural}, found {_shown(value)}"
            )
            return None
        if len(value) > self.limit:
            reader.wrong(where, f"expected at most {self.limit} {self.plural}, found {len(value)}")
            return None
        seen: dict[object, int] = {}
        for number, raw in enumerate(value, 1):
            meaning = self.item.read(reader, f"{where}[{number}]", raw)
            if meaning is None:
                continue
            if meaning in seen:
                reader.wrong(
                    f"{where}[{number}]",
                    f"expected each of the {self.plural} once, "
                    f"found {_shown(raw)} again (as in item {seen[meaning]})",
                )
            else:
                seen[meaning] = number
        return tuple(seen)

    def missing(self, reader: Reader, where: str, *, required: bool) -> Any:
        """Note that a required list is absent."""
        if required:
            reader.wrong(where, f"missing, expected a non-empty list of {self.plural}")


@dataclass(frozen=True)
class Table:
    """A table, read as a dict by field name.

    An absent table is an empty one, so that each of its missing keys is spoken of by name.
    *check* notes what is wrong between its keys; it gets the fields that could be read.
    """

    keys: tuple[Key, ...]
    check: Callable[[Reader, str, dict[str, Any]], None] | None = None

    def read(self, reader: Reader, where: str, value: object) -> Any:
        """Return what could be read, by field name."""
        if not isinstance(value, Mapping):
            reader.wrong(where, f"expected a table, found {_shown(value)}")
            return None
        self._refuse_unknown(reader, where, value)
        fields: dict[str, Any] = {}
        for key in self.keys:
            path = _join(where, key.name)
            if key.name in value:
                meaning = key.node.read(reader, path, value[key.name])
            else:
                meaning = key.node.missing(reader, path, required=key.required)
            if meaning is not None:
                fields[key.field or key.name] = meaning
        if self.check is not None:
            self.check(reader, where, fields)
        return fields

    def missing(self, reader: Reader, where: str, *, required: bool) -> Any:
        """Read an empty table."""
        return self.read(reader, where, {})

    def _refuse_unknown(self, reader: Reader, where: str, value: Mapping[str, object]) -> None:
        known = [key.name for key in self.keys]
        for name in value:
            if name in known:
                continue
            near = difflib.get_close_matches(name[:64].lower(), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            reader.wrong(_join(where, name), f"unknown key ({hint})")


@dataclass(frozen=True)
class Section(Table):
    """A table that may be absent as a whole."""

    def missing(self, reader: Reader, where: str, *, required: bool) -> Any:
        """Leave it out."""


@dataclass(frozen=True)
class Tables:
    """One to *limit* tables of the same kind, read as a list of dicts.

    *unique* has the fields whose values may not come twice.
    """

    table: Table
    limit: int
    unique: tuple[str, ...]

    def read(self, reader: Reader, where: str, value: object) -> Any:
        """Return one dict for each table."""
        if not isinstance(value, list) or not value:
            reader.wrong(where, f"expected at least one [[{where}]], found {_shown(value)}")
            return None
        if len(value) > self.limit:
            reader.wrong(where, f"expected at most {self.limit} [[{where}]], found {len(value)}")
            return None
        labels = _labels(where, value)
        seen: dict[tuple[str, object], str] = {}
        rows: list[Any] = []
        for label, raw in zip(labels, value, strict=True):
            row = self.table.read(reader, label, raw)
            rows.append(row)
            for field in self.unique:
                if row is None or field not in row:
                    continue
                owner = seen.setdefault((field, row[field]), label)
                if owner != label:
                    reader.wrong(
                        f"{label}.{field}",
                        f"expected one of its own, found {row[field]}, which {owner} has already",
                    )
        return rows

    def missing(self, reader: Reader, where: str, *, required: bool) -> Any:
        """Note that there is no such table."""
        if required:
            reader.wrong(where, f"missing, expected at least one [[{where}]]")


def read_toml(file: Path) -> dict[str, Any]:
    """Return the tables of a TOML file of at most 1 MiB.

    :raises ConfigError: if it cannot be read, is too large, or is not UTF-8 or not TOML; with
        line and column where there are any.
    """
    reader = Reader(file)
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            reader.wrong("", "expected a file of at most 1 MiB, found a larger one")
        else:
            # Some editors begin a file with a mark of its byte order, which is none of TOML's.
            return tomllib.loads(data.decode("utf-8-sig"))
    except IsADirectoryError:
        reader.wrong("", "expected a file, found a folder")
    except OSError as error:
        reader.wrong("", f"expected a readable file, found none ({error.strerror or error})")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        found = "UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "other bytes"
        where = f"at line {line}, byte {column}"
        reader.wrong("", f"expected UTF-8, found {found} ({where}): save it as UTF-8")
    except ValueError as error:
        # Besides its own error, tomllib lets that of a number with too many digits through.
        reader.wrong("", f"expected TOML: {error}{_line_of(error, data)}")
    except RecursionError:
        reader.wrong("", "expected TOML, found brackets nested too deeply")
    reader.finish()
    raise AssertionError("unreachable: every way here has noted a problem")


def _line_of(error: ValueError, data: bytes) -> str:
    """The line that *error* speaks of, shortened, or nothing."""
    match = _AT_LINE.search(str(error))
    if match is None:
        return ""
    lines = data.decode("utf-8-sig").split("\n")
    text = lines[int(match[1]) - 1].strip() if int(match[1]) <= len(lines) else ""
    return f", which reads {_shown(text)}" if text else ""


def printable(text: str) -> str:
    """Return *text* with everything that could break or forge a line escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _labels(where: str, tables: list[object]) -> list[str]:
    """Name each table: by its name where that is sound and its own, else by its number."""
    names = [table.get("name") if isinstance(table, Mapping) else None for table in tables]
    count = Counter(name for name in names if isinstance(name, str))
    return [
        f'{where} "{name}"'
        if isinstance(name, str) and count[name] == 1 and _LABEL_NAME.fullmatch(name)
        else f"{where}[{number}]"
        for number, name in enumerate(names, 1)
    ]


def _join(where: str, name: str) -> str:
    own = name if _BARE_KEY.fullmatch(name) else _shown(name)
    return f"{where}.{own}" if where else own


def _shown(value: object) -> str:
    """Return a short form of a TOML value for a message."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 64 else value[:61] + "...")
    if isinstance(value, int):
        # Python refuses to print very long numbers, which hexadecimal TOML can hold.
        return str(value) if abs(value) < 2**63 else "a number beyond 64 bits"
    if isinstance(value, float | datetime.date | datetime.time):
        return str(value)
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "[]"
    return "a table"
