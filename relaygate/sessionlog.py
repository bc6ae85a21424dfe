"""A session's id, and the lines that it leaves in the log."""

from __future__ import annotations

from twisted.logger import Logger

from relaygate.outcome import Cause, Outcome

ID_BYTES = 8


def log_open(log: Logger, **fields: object) -> None:
    """The line at a session's start: the client's bytes flow from now on."""
    log.info("session {session} open: " + _layout(fields), **fields)


def log_end(log: Logger, outcome: Outcome, **fields: object) -> None:
    """The line at a session's end, or the only one of a session that was refused."""
    write = log.info if outcome.cause is Cause.DONE else log.warn
    write(
        "session {session} end: " + _layout(fields) + " outcome={outcome} detail={detail!r}",
        outcome=f"{outcome.cause.value}/{outcome.phase.value}",
        detail=outcome.detail,
        **fields,
    )


def _layout(fields: dict[str, object]) -> str:
    return " ".join(f"{name}={{{name}}}" for name in fields if name != "session")
