"""
Out through a DMZ node: whichever is up, in turn, and the next one where it does not succeed.

A DMZ node that says that it cannot is asked in its turn the next time, too: another destination is
another question.  One that says nothing, or brings no channel, is asked last for a while: it has
cost a program its time, and would cost the next one the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.logger import Logger

from relaygate.addresses import HostPort
from relaygate.dataway import CONNECT_LIMIT_S, DataWay, TransferFailed, TransferHandle
from relaygate.errors import NoGateway, NotAllowed, Refusal
from relaygate.legs import Leg
from relaygate.marks import CheckRule, Health, MarkRule

# Seconds that a DMZ node has to reach a destination while there is another one to ask.  A SYN is
# repeated after 1, 3 and 7.
FIRST_LIMIT_S = 8.0


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
    transfer: TransferHandle


class WayOut:
    """*links* gives those to all DMZ nodes that this node has; *seconds* is a clock's."""

    log = Logger()

    def __init__(self, links: Callable[[], Sequence[ILink]], seconds: Callable[[], float]) -> None:
        self._links = links
        self._seconds = seconds
        self._turn = 0
        # By the DMZ node's name; only of such as have failed.
        self._health: dict[str, Health] = {}

    async def connect(
        self, session: str, entry: str, destination: HostPort, *, data: bool, tls: bool
    ) -> tuple[Found, Leg]:
        """
        A leg that leads to *destination*, as :meth:`relaygate.dataway.DataWay.connect` has it.

        It is not read.  Raises a :class:`Refusal`: the last one, or the one that a policy is.
        """
        legs: list[Leg] = []

        async def attempt(link: ILink, patience_s: float) -> TransferHandle:
            transfer = await link.dataway.connect(
                session, entry, destination, data=data, tls=tls, patience_s=patience_s
            )
            legs.append(await transfer.arrived)
            return transfer

        found = await self._first(session, entry, attempt)
        return found, legs[-1]

    async def await_peer(
        self, session: str, entry: str, host: str, ports: tuple[int, int], tls: bool
    ) -> Found:
        """A port at a DMZ node that is open for *host*.  Raises as :meth:`connect`."""

        async def attempt(link: ILink, _: float) -> TransferHandle:
            return await link.dataway.await_peer(session, entry, host, ports, tls)

        return await self._first(session, entry, attempt)

    async def _first(
        self, session: str, entry: str, attempt: Callable[[ILink, float], Awaitable[TransferHandle]]
    ) -> Found:
        refusals: list[Refusal] = [NoGateway()]
        links = self._in_turn()
        for link in links:
            patience_s = CONNECT_LIMIT_S if link is links[-1] else FIRST_LIMIT_S
            try:
                found = Found(link, await attempt(link, patience_s))
            except TransferFailed as error:
                refusals.append(NoGateway())
                refusals[-1].detail = str(error)
                self._mark(link.gateway_name)
            except Refusal as refusal:
                refusals.append(refusal)
            else:
                self._health.pop(link.gateway_name, None)
                return found
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

    def _in_turn(self) -> list[ILink]:
        """Those that can be asked, each first in its turn; who has not answered comes last."""
        links = [link for link in self._links() if link.leads_out]
        first = self._turn % max(1, len(links))
        self._turn += 1
        turned = [*links[first:], *links[:first]]
        if not self._health:
            return turned
        now = self._seconds()
        doubtful = {name for name, health in self._health.items() if not health.available(now)}
        turned.sort(key=lambda link: link.gateway_name in doubtful)
        for link in turned[:1]:
            if link.gateway_name in self._health:
                # It has its chance: nobody else waits for what comes of it.
                self._health[link.gateway_name].tried(now)
        return turned

    def _mark(self, gateway: str) -> None:
        health = self._health.setdefault(gateway, Health(MarkRule(1), CheckRule()))
        health.failed(self._seconds(), costly=True)
