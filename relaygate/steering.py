"""
What an operator asks and orders of a running internal node: the commands of its admin socket.

Each answer is a plain object that ``relaygate`` prints as a table, or as it is with ``--json``;
keys are only ever added.  Rooms that have more to tell register commands of their own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, Protocol
from weakref import ref

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relaygate import __version__
from relaygate.admin import AdminCommands, AdminError, Answer, Arguments
from relaygate.backsession import BackSession
from relaygate.entrysession import EntrySession
from relaygate.forwards import Forwards
from relaygate.gatewaylink import GatewayLink
from relaygate.identity import Identity
from relaygate.keeper import DASHBOARD, Keeper
from relaygate.outcome import Cause
from relaygate.piecemeal import piecemeal
from relaygate.servicekeys import ServiceFiles
from relaygate.services import Service

NEVER = datetime.max.replace(tzinfo=UTC)
# Sessions in one answer; who wants more asks again from where it ended.
MAX_SESSIONS = 1_000
# Seconds for which an order of all sessions is good for further pages.
ORDER_S = 10.0

# A client's of a service, or a program's on its way out.
Session = BackSession | EntrySession
_Row = list[tuple[str, "ref[Session]"]]
_number = itemgetter(0)


@dataclass(frozen=True)
class _Order:
    """The sessions by their ids, as they were *at*; those *of* a service or of an entry."""

    at: float
    of: tuple[str, str]
    row: _Row


class ISteered(Protocol):
    """What is steered."""

    identity: Identity
    published: dict[str, Service]
    links: dict[str, GatewayLink]
    forwards: Forwards
    draining: bool
    drained: set[str]
    ending: bool
    keepers: dict[str, Keeper[ServiceFiles]]

    def offer_state(self, name: str) -> str:
        """Whether the service *name* is offered."""

    def offer_again(self) -> None:
        """What is offered may have changed."""

    @property
    def sessions(self) -> set[BackSession]:
        """Those that run."""


class Steering:
    """Answers for *node*."""

    log = Logger()

    def __init__(self, node: ISteered, clock: IReactorTime) -> None:
        self._node = node
        self._clock = clock
        self._began = clock.seconds()
        self._order = _Order(0.0, ("", ""), [])

    def register(self, commands: AdminCommands) -> None:
        """Put the commands into the table."""
        commands.register("status", self.status)
        commands.register("sessions", self.list_sessions)
        commands.register("end", self.end)
        commands.register("drain", partial(self._steer, True))
        commands.register("resume", partial(self._steer, False))

    async def status(self, arguments: Arguments) -> Answer:
        """
        The node, its gateways with what they say of themselves (unless ``reports`` is false), its
        services and its entries.
        """
        asked = arguments.flag("reports", True)
        arguments.finish()
        node = self._node
        reports: list[Any] = [None] * len(node.links)
        if asked:
            reports = await gatherResults(
                [Deferred.fromCoroutine(link.report()) for link in node.links.values()]
            )
        moved = await self._moved()
        entries = await node.forwards.state()
        return {
            "node": node.identity.name,
            "software": f"relaygate {__version__}",
            "certificate_ends": node.identity.not_after.isoformat(),
            "certificates": _certificates(node),
            "uptime_seconds": round(self._clock.seconds() - self._began, 1),
            "state": "draining" if node.draining else "running",
            "sessions": len(node.sessions) + len(node.forwards.sessions),
            "gateways": [
                {**link.state(), "report": report}
                for link, report in zip(node.links.values(), reports, strict=True)
            ],
            "services": [
                {**_service(each, moved), "state": node.offer_state(each.name)}
                for each in node.published.values()
            ],
            "forwards": entries,
        }

    async def _moved(self) -> Mapping[str, tuple[int, int]]:
        """The bytes of each service, in and out, those of the sessions that run as well."""
        # Of one moment, as the sessions are: one that ends meanwhile is not counted twice.
        moved = {
            name: (each.tally.bytes_in, each.tally.bytes_out)
            for name, each in self._node.published.items()
        }
        async for session in piecemeal(self._node.sessions, self._clock):
            name = session.start.service
            if session.relay is not None and name in moved:
                into, out = moved[name]
                moved[name] = into + session.relay.bytes_in, out + session.relay.bytes_out
        return moved

    async def list_sessions(self, arguments: Arguments) -> Answer:
        """
        The sessions that run, by their ids: those of ``service`` or of ``entry``, if one is given,
        after the id ``after``; ``more`` says whether ``limit`` has left some out.
        """
        service = arguments.text("service", "", longest=63)
        entry = arguments.text("entry", "", longest=63)
        after = arguments.text("after", "", longest=16)
        limit = arguments.number("limit", 1, MAX_SESSIONS, MAX_SESSIONS)
        arguments.finish()
        found = self._after(after, await self._row(after, service, entry))
        page = [session.state() for session in islice(found, limit)]
        return {"sessions": page, "more": next(found, None) is not None}

    def _after(self, after: str, row: _Row) -> Iterator[Session]:
        """The sessions of *row* behind the id *after* that still run."""
        for _, reference in islice(row, bisect_right(row, after, key=_number), None):
            session = reference()
            if session is not None and self._runs(session):
                yield session

    async def _row(self, after: str, service: str, entry: str) -> _Row:
        """The sessions by their ids, put in order for the first page and not again for each."""
        now, of = self._clock.seconds(), (service, entry)
        if after and self._order.of == of and now - self._order.at <= ORDER_S:
            return self._order.row
        row: _Row = []
        if not entry:
            async for session in piecemeal(self._node.sessions, self._clock):
                if service in ("", session.start.service):
                    row.append((session.start.session, ref(session)))
        if not service:
            async for leaving, its in piecemeal(self._node.forwards.sessions.items(), self._clock):
                if entry in ("", its.name):
                    row.append((leaving.id, ref(leaving)))
        row.sort(key=_number)
        self._order = _Order(now, of, row)
        return row

    def _runs(self, session: Session) -> bool:
        return session in self._node.sessions or session in self._node.forwards.sessions

    async def end(self, arguments: Arguments) -> Answer:
        """End one session now; its client's connection is reset."""
        wanted = arguments.text("session", longest=16)
        arguments.finish()
        found: list[Session] = [
            each for each in self._node.sessions if each.start.session == wanted
        ]
        found += [each for each in self._node.forwards.sessions if each.id == wanted]
        for session in found:
            session.abort(Cause.POLICY, "ended by an operator")
        if not found:
            raise AdminError("session: there is none with this id")
        return {"ended": wanted}

    async def _steer(self, drain: bool, arguments: Arguments) -> Answer:
        """
        Take new sessions no longer (*drain*), or again: the node, a service, or a backend.

        A backend is named by its address, in all services or in the one called ``service``.
        """
        kind = arguments.choice("kind", "node", "service", "backend")
        name = arguments.text("name", "" if kind == "node" else None)
        service = arguments.text("service", "", longest=63) if kind == "backend" else ""
        arguments.finish()
        node = self._node
        if kind == "node":
            if node.ending and not drain:
                raise AdminError("this node stops as soon as its sessions have ended")
            node.draining = drain
            sessions = len(node.sessions) + len(node.forwards.sessions)
        elif kind == "service":
            if name not in node.published:
                raise AdminError(f"there is no service {name!r}")
            (node.drained.add if drain else node.drained.discard)(name)
            sessions = node.published[name].sessions.total
        else:
            found = [
                backend
                for each in node.published.values()
                if service in ("", each.name)
                for backend in each.backends.group.members
                if backend.name == name
            ]
            if not found:
                raise AdminError(f"there is no backend {name!r}")
            for backend in found:
                backend.drained = drain
            sessions = sum(backend.sessions for backend in found)
        self.log.info(
            "{what}: {kind} {name}, {sessions} sessions run",
            what="drained" if drain else "resumed",
            kind=kind,
            name=name or node.identity.name,
            sessions=sessions,
        )
        node.offer_again()
        return {"sessions": sessions}


def _certificates(node: ISteered) -> list[dict[str, str]]:
    """
    Whose certificates end when, the first first: the node's, and those of DMZ nodes and services.

    A service that shows none, and believes the public authorities, has no row.
    """
    ends = [("node", node.identity.name, node.identity.not_after)]
    ends += [
        ("DMZ node", link.gateway_name, link.not_after)
        for link in node.links.values()
        if link.not_after is not None
    ]
    ends += [
        ("dashboard" if name == DASHBOARD else "service", keeper.kept.name, keeper.kept.not_after)
        for name, keeper in node.keepers.items()
        if keeper.kept.not_after < NEVER
    ]
    ends.sort(key=lambda row: row[2])
    return [{"kind": kind, "name": name, "ends": end.isoformat()} for kind, name, end in ends]


def _service(service: Service, moved: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    tally = service.tally
    into, out = moved.get(service.name, (tally.bytes_in, tally.bytes_out))
    return {
        "name": service.name,
        "protocol": service.protocol,
        "sessions": service.sessions.total,
        "opened": tally.opened,
        "refused": tally.refused,
        "bytes_in": into,
        "bytes_out": out,
        "backends": service.backends.state(),
    }
