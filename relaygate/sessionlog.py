"""The lines that a session leaves in the log: one when its bytes begin to flow, one at its end."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import NamedTuple, Protocol

from twisted.logger import LogEvent, Logger, LogLevel

from relaygate.outcome import Cause, Outcome, Phase

ID_BYTES = 8
# An event of this format is a line already.  Twisted's formatting of fields costs ten times as
# much, and these are most of the lines.
LINE_FORMAT = "{log_line}"

_USUAL = (Cause.DONE, Cause.CLIENT, Cause.INSIDE)


def log_open(log: Logger, **fields: object) -> None:
    """Write the line at a session's start.

    *fields* hold ``session``, the id; a value with blanks is quoted, so that it cannot pass for
    another field.
    """
    _write(log, LogLevel.info, "open", fields)


class IMoved(Protocol):
    """What has carried a session's bytes."""

    @property
    def bytes_in(self) -> int:
        """Bytes towards the backend."""

    @property
    def bytes_out(self) -> int:
        """Bytes towards the client."""


class Moved(NamedTuple):
    """So many bytes."""

    bytes_in: int
    bytes_out: int


def log_end(
    log: Logger,
    outcome: Outcome,
    fields: Mapping[str, object],
    moved: IMoved | None,
    seconds: float,
    **more: object,
) -> None:
    """
    Write the line at a session's end, or the only one of a session that was refused.

    *fields* are as for :func:`log_open`; *seconds* is how long it took.
    """
    fields = {
        **fields,
        "bytes_in": moved.bytes_in if moved else 0,
        "bytes_out": moved.bytes_out if moved else 0,
        "seconds": round(seconds, 3),
        **more,
    }
    fields["outcome"] = f"{outcome.cause.value}/{outcome.phase.value}"
    if outcome.detail:
        fields["detail"] = outcome.detail
    # How a client leaves is its own affair, and what happens inside is told there; the others are
    # for an operator to look at.
    quiet = outcome.phase is Phase.RELAY and outcome.cause in _USUAL
    _write(log, LogLevel.info if quiet else LogLevel.warn, "end", fields)


def log_event(log: Logger, what: str, *, usual: bool, **fields: object) -> None:
    """Write a line about *what* happened in a session; one that is not *usual* as a warning."""
    _write(log, LogLevel.info if usual else LogLevel.warn, what, fields)


def log_backend_failed(
    log: Logger, fields: Mapping[str, object], backend: object, reason: str
) -> None:
    """
    Write that *backend* was not reached, and why; *fields* hold the ``session`` and ``service``
    that it was tried for, which may have another one yet.
    """
    log.warn(
        "backend failed: session={session} service={service} backend={backend} reason={reason!r}",
        session=fields["session"],
        service=fields["service"],
        backend=str(backend),
        reason=reason,
    )


class Shown:
    """Some fields as they stand in a line, put together only if it is written."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def __str__(self) -> str:
        return " ".join(f"{name}={value!r}" for name, value in self._fields.items())


def log_detail(log: Logger, text: str, **fields: object) -> None:
    """Write a line at debug level, *text* with *fields*; it costs little where none is kept."""
    _emit(log, LogLevel.debug, text, fields)


def _write(log: Logger, level: object, what: str, fields: dict[str, object]) -> None:
    event: LogEvent = {**fields, "log_line": _line(what, fields)}
    _emit(log, level, LINE_FORMAT, event)


def _emit(log: Logger, level: object, text: str, event: LogEvent) -> None:
    """What :meth:`Logger.emit` does, which sorts the levels there are for each event."""
    event["log_logger"] = log
    event["log_level"] = level
    event["log_namespace"] = log.namespace
    event["log_source"] = log.source
    event["log_format"] = text
    event["log_time"] = time()
    log.observer(event)


def _line(what: str, fields: dict[str, object]) -> str:
    parts = [f"session {fields['session']} {what}:"]
    for name, value in fields.items():
        if name == "session":
            continue
        text = value if type(value) is str else str(value)
        # What holds a blank could pass for another field.
        if not text or " " in text or "'" in text:
            text = repr(text)
        parts.append(f"{name}={text}")
    return " ".join(parts)
