"""How a session ended: two small words, as HAProxy's termination state has them."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Cause(enum.Enum):
    """
    Who or what ended the session, as this node saw it.

    ``INSIDE`` is what the DMZ node sees of all that happens behind its data channel: the internal
    node's line under the same session id has the cause itself.
    """

    DONE = "done"
    CLIENT = "client"
    INSIDE = "inside"
    BACKEND = "backend"
    POLICY = "policy"
    TIMEOUT = "timeout"
    UPLINK = "uplink"
    SHUTDOWN = "shutdown"
    FAULT = "fault"


class Phase(enum.Enum):
    """How far the session had come."""

    ADMIT = "admit"
    OPEN = "open"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    Why a session ended.

    ``detail`` is one short English clause for the log; it may hold what a peer sent only as
    ``repr``.
    """

    cause: Cause
    phase: Phase
    detail: str = ""

    def __str__(self) -> str:
        words = f"{self.cause.value}/{self.phase.value}"
        return f"{words} ({self.detail})" if self.detail else words
