"""Reading the audit's lines back out of a node's log, in either format.  Pure.

``sessionlog`` wrote them: ``session ID transfer: name=value ...``.  A value with a blank or an
apostrophe in it, or without anything, stands there as Python's ``repr``; every other stands as it
is.  So a value cannot pass for another field, and what was written can be told from what was meant.
"""

from __future__ import annotations

import ast
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["TransferReader", "TransferRecord"]

# More sessions than this are not under way at once; whoever logged in longest ago is forgotten.
MAX_SESSIONS = 100_000
_MAX_LINE = 64 * 1024

_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z) +[A-Z]+ +\[[^\]]*\] "
    r"session (?P<session>[0-9a-f]{16}) (?P<what>login|transfer|end): (?P<fields>.*)"
)
_FIELD = re.compile(
    r"""(?P<name>[a-z_]+)=(?P<value>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S*)(?:\s+|$)"""
)
_MESSAGE = re.compile(r"session [0-9a-f]{16} (login|transfer|end): ")
_QUOTED = re.compile(r"[ ']")


@dataclass(frozen=True)
class TransferRecord:
    """One file or listing that was moved, or was to be.

    *time* is when it ended (RFC 3339, UTC), *code* the last answer to the client, *size* its
    bytes.  *user* is who had logged in, "" if the log does not reach back that far.
    """

    time: str
    session: str
    service: str
    user: str
    client: str
    verb: str
    path: str
    direction: str
    size: int
    seconds: float
    code: int

    @property
    def day(self) -> str:
        """The day in UTC, as 2026-11-26."""
        return self.time[:10]

    @property
    def ok(self) -> bool:
        """Whether the server said that it is complete."""
        return self.code < 400


class TransferReader:
    """Makes :class:`TransferRecord` out of lines, which come in the log's order.

    *unreadable* counts lines of the audit that could not be understood: cut off by a full disk,
    or of a newer version.
    """

    def __init__(self) -> None:
        self._users: OrderedDict[str, str] = OrderedDict()
        self.unreadable = 0
        # Those that there were.
        self.found = 0

    def read(self, lines: Iterable[str]) -> Iterator[TransferRecord]:
        """Yield one for each line that tells of one."""
        for line in lines:
            found = _json_line(line) if line.startswith("{") else _text_line(line)
            if found is None:
                continue
            what, fields = found
            try:
                if what == "login":
                    self._login(fields)
                elif what == "end":
                    self._users.pop(str(fields["session"]), None)
                else:
                    made = self._transfer(fields)
                    self.found += 1
                    yield made
            except (KeyError, ValueError, TypeError):
                self.unreadable += 1

    def _login(self, fields: dict[str, Any]) -> None:
        if fields["result"] != "ok":
            return
        session = str(fields["session"])
        self._users[session] = str(fields["user"])
        self._users.move_to_end(session)
        if len(self._users) > MAX_SESSIONS:
            self._users.popitem(last=False)

    def _transfer(self, fields: dict[str, Any]) -> TransferRecord:
        session = str(fields["session"])
        return TransferRecord(
            time=str(fields["time"]),
            session=session,
            # A fixed forward's session has an entry in its place.
            service=str(fields.get("service") or fields["entry"]),
            user=str(fields.get("user") or self._users.get(session, "")),
            client=_host(str(fields["client"])),
            verb=str(fields["verb"]),
            path=str(fields["path"]),
            direction=str(fields["direction"]),
            size=int(fields["bytes"]),
            seconds=float(fields["seconds"]),
            code=int(fields["result"]),
        )


def _json_line(line: str) -> tuple[str, dict[str, Any]] | None:
    try:
        event = json.loads(line[:_MAX_LINE])
    except (ValueError, RecursionError):
        return None
    message = event.get("message")
    match = _MESSAGE.match(message) if isinstance(message, str) else None
    return None if match is None else (match[1], event)


def _text_line(line: str) -> tuple[str, dict[str, Any]] | None:
    match = _LINE.match(line[:_MAX_LINE].rstrip("\n"))
    if match is None:
        return None
    fields: dict[str, Any] = {"time": match["time"], "session": match["session"]}
    for field in _FIELD.finditer(match["fields"]):
        fields[field["name"]] = _meant(field["value"])
    return match["what"], fields


def _meant(value: str) -> str:
    """What was logged as *value*."""
    if value[:1] not in ("'", '"') or len(value) < 2:
        return value
    try:
        meant = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    # A value that needed no quotes was given none: those that it has are its own.
    return meant if isinstance(meant, str) and (not meant or _QUOTED.search(meant)) else value


def _host(address: str) -> str:
    """The address without its port."""
    host, colon, port = address.rpartition(":")
    return host.strip("[]") if colon and port.isdigit() else address
