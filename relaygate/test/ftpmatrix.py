"""
The matrix of FTP clients and servers: client, backend, mode, security, TLS version, action.

A :class:`Cell` is one combination. Each is tried where client and server see each other, and what
works there has to work *through* a gateway as well: what two programs cannot do with each other
says nothing about what stands between them. All cells take the better part of an hour, so a run is
of :func:`chosen` ones, unless it is a soak.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Final

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.trial.unittest import TestCase

from relaygate.test.certificates import Certified
from relaygate.test.ftpclient import ACTIONS, MODES, Action, Client, Mode, Result, Target
from relaygate.test.ftpclients import CLIENTS
from relaygate.test.ftpservers import SERVERS, FTPServer, Offer, Security, Version
from relaygate.test.programs import Where

# As many clients at once as two cores keep busy, since most of them wait for others.
_AT_ONCE: Final = 4
# A busy machine fails a cell now and then, either way. What differs is tried again, this often.
AGAIN: Final = 2
_SECURE: Final[tuple[Security, ...]] = ("explicit", "implicit")
_VERSIONS: Final[tuple[Version, ...]] = ("1.2", "1.3")


@dataclass(frozen=True, order=True)
class Backend:
    """A server and how it is reached; *version* is empty where there is no TLS."""

    kind: str
    security: Security = "plain"
    version: str = ""
    reuse: bool = False

    def __str__(self) -> str:
        words = [self.kind, self.security, self.version, "reuse" if self.reuse else ""]
        return " ".join(filter(None, words))


@dataclass(frozen=True, order=True)
class Cell:
    """One combination of the matrix; *client* is a client's name."""

    client: str
    backend: Backend
    mode: Mode
    action: Action

    def __str__(self) -> str:
        return f"{self.client} {self.mode} {self.action}, {self.backend}"


Results = Mapping[Cell, Result]


def resets_itself(cell: Cell, how: Result) -> bool:
    """
    Whether *how* tells of an upload that the client's own kernel has cut short.

    Under TLS 1.3 curl closes its uploads with the server's tickets unread, so that its own kernel
    resets them: of 20 to vsftpd 14 were cut short directly.  Nobody between can mend what he
    cannot read; but the server tells it, so that it never looks like a whole file.
    """
    sends = cell.action in {"upload", "append"}
    closes_early = (cell.client, cell.backend.version) == ("curl", "1.3")
    return sends and closes_early and not how.ok and "got 426" in how.why


@dataclass(frozen=True)
class Reach:
    """Where clients find a backend: its own address, or that of what leads to it."""

    host: str
    port: int
    ca: Path | None


def backends() -> list[Backend]:
    """Return every server in every way that it can serve."""
    found = []
    for server in SERVERS:
        ways = [Backend(server.kind)]
        for security, version, reuse in product(_SECURE, _VERSIONS, (False, True)):
            ways.append(Backend(server.kind, security, version, reuse))
        found += [way for way in ways if server.can(Offer(way.security, reuse=way.reuse))]
    return found


def cells() -> list[Cell]:
    """Return the combinations that client and server both have."""
    return [
        Cell(client.name, backend, mode, action)
        for client, backend, mode, action in product(CLIENTS, backends(), MODES, ACTIONS)
        if client.can(mode, backend.security, action)
    ]


def _pairs(cell: Cell) -> frozenset[tuple[object, ...]]:
    """Return what a cell tries in the company of what: every two of its features."""
    backend = cell.backend
    tls = (backend.security, backend.version, backend.reuse)
    features = enumerate((backend.kind, tls, cell.mode, cell.action))
    return frozenset((cell.client, *pair) for pair in combinations(features, 2))


def chosen(every: Sequence[Cell]) -> list[Cell]:
    """Return a few cells that together have, for each client, every pair of features in *every*."""
    result = []
    for client in sorted({cell.client for cell in every}):
        left = {cell: _pairs(cell) for cell in every if cell.client == client}
        missing = frozenset().union(*left.values())
        while missing:
            best = max(left, key=lambda cell: (len(left[cell] & missing), str(cell)))
            missing -= left.pop(best)
            result.append(best)
    return result


class Servers:
    """Servers for all of some cells' backends, on *address* and one port after the other."""

    def __init__(
        self, case: TestCase, wanted: Iterable[Backend], address: str, first_port: int, where: Where
    ) -> None:
        self._case = case
        self._where = where
        self._address = address
        self._kinds = {server.kind: server for server in SERVERS}
        self._ports = {
            backend: first_port + number for number, backend in enumerate(sorted(set(wanted)))
        }
        self.by_backend: dict[Backend, FTPServer] = {}

    async def start(self, certified: Certified) -> None:
        """Start them all, with one certificate; they end together, before anything else does."""
        for backend, port in self._ports.items():
            tls = certified if backend.security != "plain" else None
            version: Version | None = "1.2" if backend.version == "1.2" else "1.3"
            offer = self.offer(backend, Offer(backend.security, tls, version if tls else None))
            server = self._kinds[backend.kind]
            made = server(self._case, self._address, port, offer, where=self._where)
            await made.ready()
            self.by_backend[backend] = made
        self._case.addCleanup(self.stop)

    async def stop(self) -> None:
        """End them all at once: ProFTPD takes nearly half a second for it."""
        ending = [Deferred.fromCoroutine(each.stop()) for each in self.by_backend.values()]
        await gatherResults(ending, consumeErrors=True)

    def port_of(self, backend: Backend) -> int:
        """Return where *backend* listens."""
        return self._ports[backend]

    def offer(self, backend: Backend, made: Offer) -> Offer:
        """Return how *backend* serves; *made* has its TLS."""
        return replace(made, reuse=backend.reuse)

    def reach(self, ca: Path) -> Callable[[Backend], Reach]:
        """Return the way to a server without anything between."""

        def directly(backend: Backend) -> Reach:
            trust = None if backend.security == "plain" else ca
            return Reach(self._address, self._ports[backend], trust)

        return directly


async def run(
    case: TestCase,
    which: Sequence[Cell],
    servers: Servers,
    reach: Callable[[Backend], Reach],
    where: Where,
    *,
    clients: Iterable[Client] = CLIENTS,
) -> Results:
    """
    Try cells, some at a time, with *clients* in the place *where*.

    *reach* tells what they connect to; the files are those of the *servers* in any case.
    """
    named = {client.name: client for client in clients}
    slots = DeferredSemaphore(_AT_ONCE)

    async def attempt(cell: Cell) -> tuple[Cell, Result]:
        server = servers.by_backend[cell.backend]
        return cell, await _attempt(case, named[cell.client], cell, server, reach, where)

    def started(cell: Cell) -> Deferred[tuple[Cell, Result]]:
        return slots.run(lambda: Deferred.fromCoroutine(attempt(cell)))

    return dict(await gatherResults([started(cell) for cell in which], consumeErrors=True))


async def run_again(
    case: TestCase,
    which: Sequence[Cell],
    servers: Servers,
    reach: Callable[[Backend], Reach],
    where: Where,
    *,
    clients: Iterable[Client] = CLIENTS,
) -> Results:
    """As :func:`run`, but that what fails is told, and tried :data:`AGAIN` times more."""
    found = dict(await run(case, which, servers, reach, where, clients=clients))
    for _ in range(AGAIN):
        lost = [cell for cell, how in found.items() if not how.ok]
        sys.stdout.write("".join(f"again: {cell}: {found[cell].why}\n" for cell in lost))
        found |= await run(case, lost, servers, reach, where, clients=clients)
    return found


def _attempt(
    case: TestCase,
    client: Client,
    cell: Cell,
    server: FTPServer,
    reach: Callable[[Backend], Reach],
    where: Where,
) -> Awaitable[Result]:
    at = reach(cell.backend)
    backend = cell.backend
    target = Target(
        at.host,
        at.port,
        server.user,
        cell.mode,
        backend.security,
        server.offer.version,
        at.ca,
    )
    return client.perform(case, target, cell.action, server.files, where=where)


def working(results: Results) -> list[Cell]:
    """Return the cells that went well."""
    return [cell for cell, result in results.items() if result.ok]


def differences(direct: Results, through: Results) -> list[str]:
    """Return a line for each cell that works directly and not *through* the gateway."""
    return [
        f"{cell}: {through[cell].why if cell in through else 'not tried'}"
        for cell in sorted(working(direct))
        if cell not in through or not through[cell].ok
    ]


def table(direct: Results, through: Results | None = None) -> str:
    """
    Return all results, a line for each client, mode and backend.

    A column is an action: "ok" or "no" directly, then the same through the gateway. A dot is what
    was not tried.
    """

    def word(results: Results | None, cell: Cell) -> str:
        if results is None or cell not in results:
            return "."
        return "ok" if results[cell].ok else "no"

    rows = sorted({(cell.client, cell.mode, cell.backend) for cell in direct})
    lines = [f"{'client':<8}{'mode':<6}{'backend':<34}" + "".join(f"{a:<10}" for a in ACTIONS)]
    for client, mode, backend in rows:
        of_row = [Cell(client, backend, mode, action) for action in ACTIONS]
        words = [f"{word(direct, cell)} {word(through, cell)}" for cell in of_row]
        columns = "".join(f"{'' if text == '. .' else text:<10}" for text in words)
        lines.append(f"{client:<8}{mode:<6}{backend!s:<34}{columns}".rstrip())
    for name, results in (("directly", direct), ("through the gateway", through)):
        if results is not None:
            lines.append(f"{len(working(results))} of {len(results)} work {name}")
            lines += sorted(f"{cell}: {r.why}" for cell, r in results.items() if not r.ok)
    return "\n".join(lines) + "\n"
