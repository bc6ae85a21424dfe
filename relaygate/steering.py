"""
What an operator asks and orders of a running internal node: the commands of its admin socket.

Each answer is a plain object that ``relaygate`` prints as a table, or as it is with ``--json``;
keys are only ever added.  Rooms that have more to tell register commands of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from relaygate import __version__
from relaygate.admin import AdminCommands, Answer, Arguments
from relaygate.backsession import BackSession, Service
from relaygate.gatewaylink import GatewayLink
from relaygate.identity import Identity

# Sessions in one answer; who wants more asks again from where it ended.
MAX_SESSIONS = 1_000


class INode(Protocol):
    """What is steered."""

    identity: Identity
    published: dict[str, Service]
    links: dict[str, GatewayLink]

    @property
    def sessions(self) -> set[BackSession]:
        """Those that run."""


class Steering:
    """Answers for *node*."""

    def __init__(self, node: INode, clock: IReactorTime) -> None:
        self._node = node
        self._clock = clock
        self._began = clock.seconds()

    def register(self, commands: AdminCommands) -> None:
        """Put the commands into the table."""
        commands.register("status", self.status)
        commands.register("sessions", self.list_sessions)

    async def status(self, arguments: Arguments) -> Answer:
        """The node, its gateways with what they say of themselves, and its services."""
        arguments.finish()
        node = self._node
        reports = await gatherResults(
            [Deferred.fromCoroutine(link.report()) for link in node.links.values()]
        )
        moved = _moved(node.sessions)
        return {
            "node": node.identity.name,
            "software": f"relaygate {__version__}",
            "certificate_ends": node.identity.not_after.isoformat(),
            "uptime_seconds": round(self._clock.seconds() - self._began, 1),
            "sessions": len(node.sessions),
            "gateways": [
                {**link.state(), "report": report}
                for link, report in zip(node.links.values(), reports, strict=True)
            ],
            "services": [_service(each, moved) for each in node.published.values()],
        }

    async def list_sessions(self, arguments: Arguments) -> Answer:
        """
        The sessions that run, by their ids: those of ``service``, if it is given, after the id
        ``after``; ``more`` says whether ``limit`` has left some out.
        """
        service = arguments.text("service", "", longest=63)
        after = arguments.text("after", "", longest=16)
        limit = arguments.number("limit", 1, MAX_SESSIONS, MAX_SESSIONS)
        arguments.finish()
        found = sorted(
            (
                session
                for session in self._node.sessions
                if session.start.session > after and service in ("", session.start.service)
            ),
            key=lambda session: session.start.session,
        )
        return {
            "sessions": [session.state() for session in found[:limit]],
            "more": len(found) > limit,
        }


def _moved(sessions: Iterable[BackSession]) -> Mapping[str, tuple[int, int]]:
    """The bytes that the running *sessions* of each service have moved, in and out."""
    moved: dict[str, tuple[int, int]] = {}
    for session in sessions:
        if session.relay is not None:
            into, out = moved.get(session.start.service, (0, 0))
            name = session.start.service
            moved[name] = into + session.relay.bytes_in, out + session.relay.bytes_out
    return moved


def _service(service: Service, moved: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    tally = service.tally
    into, out = moved.get(service.name, (0, 0))
    return {
        "name": service.name,
        "protocol": service.protocol,
        "sessions": service.sessions.total,
        "opened": tally.opened,
        "refused": tally.refused,
        "bytes_in": tally.bytes_in + into,
        "bytes_out": tally.bytes_out + out,
        "backends": service.backends.state(),
    }
