"""Log lines that nobody outside can forge, as text or as JSON.

The rest of relaygate logs through `twisted.logger.Logger` and thinks no further of it.  Names,
identifications and errors in those events come from strangers, so everything that reaches a
line is made harmless here, in one place: `printable` leaves no character that ends a line, moves
a cursor or turns the direction of writing, and everything has a bound.

An observer never raises and never waits for another.  When the log cannot be written, events
are counted instead, and the count is the first line once it can be written again.

``docs/logging.md`` says what the lines look like.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.sessionlog import LINE_FORMAT

Format = Literal["text", "json"]

MAX_MESSAGE: Final = 8 * 1024
"""Characters of one message: an FTP reply or an SSH notice fits, a flood does not."""

MAX_VALUE: Final = 1024
"""Characters of one JSON value or key; the longest name that can be logged has 255."""

MAX_ITEMS: Final = 32
"""Items of a list or object inside an event, and depth below."""
MAX_DEPTH: Final = 2

MAX_TRACEBACK_LINES: Final = 100
"""The last lines of a traceback are kept: they name the error and where it arose."""

MAX_FIELDS: Final = 64 * 1024
"""Characters that an event's own fields may take in a JSON line; beyond, they are left out."""

FILE_MODE: Final = 0o640

_LIBRARY = ("twisted.", "log_legacy")
_LEVELS = ("debug", "info", "warn", "error", "critical")
_RANKS = {name: rank for rank, name in enumerate(_LEVELS)}

# Twisted's bridge between its old and its new logging writes these into events of either kind,
# whoever made them, so they never say anything that the message does not.
_LEGACY_KEYS = frozenset(
    ("message", "time", "system", "isError", "format", "why", "failure", "logLevel")
)


class LineStream(Protocol):
    """Where lines go: a text file, `sys.stdout`, an `io.StringIO`."""

    def write(self, text: str, /) -> object:
        """Take text that ends with a line."""

    def flush(self) -> object:
        """Hold none of it back."""


def printable(text: str, limit: int = MAX_MESSAGE) -> str:
    r"""Make any text harmless on one line, and not longer than the limit.

    What Python does not call printable is written ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``: control
    characters (C0, DEL, C1), line and paragraph separators, the characters that steer the
    direction of writing or that have no width, lone surrogates, unassigned code points, and every
    space but U+0020.  A backslash stays as it is.

    :param limit: characters; longer text is cut there and ends in ``…``.
    """
    if len(text) <= limit and text.isprintable():
        return text
    cut = len(text) > limit
    text = text[:limit]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escape(ord(c)) for c in text)
        cut = cut or len(text) > limit
    return text[:limit] + "…" if cut else text


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# The argument "format" is named as its key in the configuration.
def make_observer(stream: LineStream, *, format: Format, level: str) -> LineObserver:  # noqa: A002
    """Build an observer that writes to a stream which somebody else owns.

    :param level: the least important level that is written, by its name in `LogLevel`.
    :raises ValueError: if there is no such level.
    """
    return LineObserver(stream, _RENDER[format], _threshold(level))


def open_log(file: Path | None, *, format: Format, level: str) -> FileObserver:  # noqa: A002
    """Build an observer that appends to a file, or that writes to standard output.

    A file that is not there is created with mode 0640, whatever the umask; one that is there
    keeps its mode.

    :param file: None means standard output.
    :raises OSError: if the file cannot be opened, or if there is no standard output.
    :raises ValueError: if there is no such level.
    """
    threshold = _threshold(level)  # before the file is open: nobody would close it
    return FileObserver(_Descriptor(file), _RENDER[format], threshold)


def _threshold(level: str) -> int:
    if level not in _LEVELS:
        raise ValueError(f"{level!r} is no log level; expected one of {', '.join(_LEVELS)}")
    return _LEVELS.index(level)


@implementer(ILogObserver)
class LineObserver:
    """Writes events as lines; drops and counts those that it cannot write."""

    def __init__(
        self, stream: LineStream, render: Callable[[LogEvent, str], str | None], threshold: int
    ) -> None:
        self._stream = stream
        self._render = render
        self._threshold = threshold
        self._dropped = 0
        self._reason = ""

    def __call__(self, event: LogEvent) -> None:
        """Write one event, if its level is high enough and it has a message."""
        try:
            level = _level(event)
            if _RANKS[level] >= self._threshold:
                line = self._render(event, level)
                if line is not None:
                    if self._dropped:
                        self._report_dropped()
                    self._write(line)
        except Exception as error:  # noqa: BLE001 - a program that cannot log must go on
            self._dropped += 1
            self._reason = _as_text(error)

    def _report_dropped(self) -> None:
        event: LogEvent = {
            "log_format": "{dropped} events could not be logged: {reason}",
            "log_level": LogLevel.warn,
            "log_namespace": __name__,
            "dropped": self._dropped,
            "reason": printable(self._reason, MAX_VALUE),
        }
        self._write(self._render(event, "warn") or "")
        self._dropped = 0

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line)
        except UnicodeEncodeError:
            # A stream in another character set, as standard output is under LANG=C.
            self._stream.write(line.encode("ascii", "backslashreplace").decode("ascii"))
        self._stream.flush()


class FileObserver(LineObserver):
    """A `LineObserver` on a file of its own, which can be rotated."""

    _stream: _Descriptor

    def reopen(self) -> None:
        """Go on in the file that now has the log's name, after the old one was renamed.

        Standard output has nothing to reopen.

        :raises OSError: if it cannot be opened; the log then goes on in the old file.
        """
        self._stream.reopen()

    def close(self) -> None:
        """Close the file; what is logged later is dropped."""
        self._stream.close()


class _Descriptor:
    """An append-only file, written without a buffer: a line is in it at once or never."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._torn = False
        if path is not None:
            self._fd = _open_append(path)
        elif sys.__stdout__ is not None:
            # Not sys.stdout: twistd turns that into log events.
            self._fd = _not_waiting(sys.__stdout__.fileno())
        else:
            raise OSError("there is no standard output to log to")

    def write(self, text: str) -> None:
        """Write all of the text, on a new line if the last write broke off within one."""
        data = text.encode("utf-8", "backslashreplace")
        if self._torn:
            data = b"\n" + data
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, data[done:])
        finally:
            if done:
                self._torn = data[done - 1] != ord("\n")

    def flush(self) -> None:
        """Do nothing: no byte is held back."""

    def reopen(self) -> None:
        if self._path is None:
            return
        fresh = _open_append(self._path)
        try:
            # The number stays the same, so a thread that writes just now hits one or the other.
            os.dup2(fresh, self._fd, inheritable=False)
        finally:
            os.close(fresh)
        self._torn = False

    def close(self) -> None:
        # The number must not be kept: it may soon belong to a client's socket.
        fd, self._fd = self._fd, -1
        if self._path is not None and fd >= 0:
            os.close(fd)


def _not_waiting(fd: int) -> int:
    """A descriptor for the pipe *fd* that never waits for its reader; *fd* itself if it is no pipe.

    It is opened anew, since the other programs that write to this pipe share the old one's flags.
    """
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return fd
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return fd


def _open_append(path: Path) -> int:
    # Not to wait is for a FIFO, whose reader may be slow or missing; a file does not care.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = os.open(path, flags | os.O_EXCL, FILE_MODE)
    except FileExistsError:
        return os.open(path, flags, FILE_MODE)
    # A daemon's umask is 0077, which would shut out the group that reads logs.
    os.fchmod(fd, FILE_MODE)
    return fd


def _text_lines(event: LogEvent, level: str) -> str | None:
    message, traceback = _message_and_traceback(event)
    if not message and not traceback:
        return None
    head = f"{_time(event)} {level.upper():<5} [{_namespace(event)}] {message}\n"
    return head + "".join([f"    | {line}\n" for line in traceback]) if traceback else head


def _json_line(event: LogEvent, level: str) -> str | None:
    message, traceback = _message_and_traceback(event)
    if not message and not traceback:
        return None
    fixed: dict[str, object] = {
        "time": _time(event),
        "level": level,
        "namespace": _namespace(event),
        "message": message,
    }
    if traceback:
        fixed["traceback"] = "\n".join(traceback)
    own = {key: value for key, value in event.items() if not key.startswith("log_")}
    fields = _json_object(own, _LEGACY_KEYS | fixed.keys(), 0)
    if len(json.dumps(fields)) > MAX_FIELDS:
        fields = {"fields_left_out": sorted(fields)[:MAX_ITEMS]}
    return json.dumps(fixed | fields) + "\n"


def _json_object(
    mapping: Mapping[Any, object], without: Iterable[str], depth: int
) -> dict[str, object]:
    items = ((k, v) for k, v in mapping.items() if k not in without)
    return {
        printable(_as_text(key), MAX_VALUE): _json_value(value, depth)
        for key, value in islice(items, MAX_ITEMS)
    }


def _json_value(value: object, depth: int) -> object:
    """Turn any object into what JSON has; strings are printable, all else has its own form."""
    if value is None or isinstance(value, bool):
        return value
    # Others than these would lose digits in a reader, or are no JSON.
    if isinstance(value, int) and value.bit_length() <= 64:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return _json_object(value, (), depth + 1)
        if isinstance(value, list | tuple | set | frozenset):
            return [_json_value(item, depth + 1) for item in islice(value, MAX_ITEMS)]
    return printable(_as_text(value), MAX_VALUE)


def _as_text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        # The whole may be a buffer, and a character has four bytes at most.
        return bytes(value[: 4 * (MAX_VALUE + 1)]).decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - any __str__ may raise anything
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _message_and_traceback(event: LogEvent) -> tuple[str, list[str]]:
    failure = event.get("log_failure")
    if failure is None and event.get("isError") and isinstance(event.get("failure"), Failure):
        # An old-style log.err(): its ready-made text has the traceback in it.
        failure = event["failure"]
        message = _as_text(event.get("why") or "Unhandled Error")
    elif event.get("log_format") == LINE_FORMAT:
        message = _as_text(event.get("log_line"))
    else:
        message = formatEvent(event)
    return printable(message), [] if failure is None else _traceback(failure)


def _traceback(failure: Any) -> list[str]:
    try:
        lines = failure.getTraceback().rstrip("\n").split("\n")
    except Exception as error:  # noqa: BLE001 - it calls the error's own __str__
        lines = [f"no traceback: {_as_text(error)}"]
    if len(lines) > MAX_TRACEBACK_LINES:
        lines = ["…", *lines[-MAX_TRACEBACK_LINES:]]
    return [printable(line, MAX_VALUE) for line in lines]


def _time(event: LogEvent) -> str:
    """Give the event's time, or now, as RFC 3339 in UTC with milliseconds."""
    when = event.get("log_time")
    # Microseconds as `datetime` rounds them: a float just below a whole second may be that second.
    second, fraction = divmod(round((time.time() if when is None else when) * 1_000_000), 1_000_000)
    return f"{_second(second)}.{fraction // 1000:03}Z"


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    # Hundreds of lines share a second.
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _level(event: LogEvent) -> str:
    """
    Give the name of the event's level; one without a level counts as info.

    What a library finds worth telling its developers (each retry, each port) is debug to an
    operator.
    """
    name = getattr(event.get("log_level"), "name", "info")
    if name == "info" and str(event.get("log_namespace")).startswith(_LIBRARY):
        return "debug"
    return name if name in _RANKS else "info"


def _namespace(event: LogEvent) -> str:
    return _shown_namespace(_as_text(event.get("log_namespace") or "-"))


@lru_cache(maxsize=256)
def _shown_namespace(text: str) -> str:
    return printable(text, MAX_VALUE)


_RENDER: Final = {"text": _text_lines, "json": _json_line}
