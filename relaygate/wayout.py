"""Out through a DMZ node: whichever is up, in turn, and the next one where it does not succeed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.logger import Logger

from relaygate.addresses import HostPort
from relaygate.dataway import DataWay, Transfer, TransferFailed
from relaygate.errors import NoGateway, NotAllowed, Refusal
from relaygate.legs import Leg


class ILink(Protocol):
    """What is needed of a link to a DMZ node."""

    @property
    def gateway_name(self) -> str:
        """The DMZ node's name."""

    @property
    def leads_out(self) -> bool:
        """Whether connections outwards can be asked for there now."""

    @property
    def dataway(self) -> DataWay:
        """Where they are asked for."""

    def hold(self) -> None:
        """A session goes through here from now on."""

    def release(self) -> None:
        """It is over."""


@dataclass(frozen=True)
class Found:
    """What a DMZ node, that of *link*, has made: *transfer* has arrived, or will."""

    link: ILink
    transfer: Transfer


class WayOut:
    """*links* gives those to all DMZ nodes that this node has."""

    log = Logger()

    def __init__(self, links: Callable[[], Sequence[ILink]]) -> None:
        self._links = links
        self._turn = 0

    async def connect(
        self, session: str, entry: str, destination: HostPort, *, data: bool, tls: bool
    ) -> tuple[Found, Leg]:
        """
        A leg that leads to *destination*, as :meth:`relaygate.dataway.DataWay.connect` has it.

        It is not read.  Raises a :class:`Refusal`: the last one, or the one that a policy is.
        """
        legs: list[Leg] = []

        async def attempt(link: ILink) -> Transfer:
            way = link.dataway
            transfer = await way.connect(session, entry, destination, data=data, tls=tls)
            legs.append(await transfer.arrived)
            return transfer

        found = await self._first(session, entry, attempt)
        return found, legs[-1]

    async def await_peer(
        self, session: str, entry: str, host: str, ports: tuple[int, int], tls: bool
    ) -> Found:
        """A port at a DMZ node that is open for *host*.  Raises as :meth:`connect`."""

        async def attempt(link: ILink) -> Transfer:
            return await link.dataway.await_peer(session, entry, host, ports, tls)

        return await self._first(session, entry, attempt)

    async def _first(
        self, session: str, entry: str, attempt: Callable[[ILink], Awaitable[Transfer]]
    ) -> Found:
        refusals: list[Refusal] = [NoGateway()]
        links = [link for link in self._links() if link.leads_out]
        first = self._turn % max(1, len(links))
        self._turn += 1
        for link in (*links[first:], *links[:first]):
            try:
                return Found(link, await attempt(link))
            except TransferFailed as error:
                refusals.append(NoGateway())
                refusals[-1].detail = str(error)
            except Refusal as refusal:
                refusals.append(refusal)
            self.log.warn(
                "gateway failed: session={session} entry={entry} gateway={gateway}"
                " reason={reason!r}",
                session=session,
                entry=entry,
                gateway=link.gateway_name,
                reason=refusals[-1].detail or refusals[-1].meaning,
            )
        forbidden = [refusal for refusal in refusals if isinstance(refusal, NotAllowed)]
        raise (forbidden or refusals)[-1]
