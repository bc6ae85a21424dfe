"""
The internal node's guard: who is banned, by hand or by a rule, and telling the DMZ nodes so.

The DMZ nodes turn away whom they are told to (:mod:`relaygate.gate`); here the same is kept, so
that a DMZ node that comes back is told again, and one that does not listen changes nothing.  All of
it is in memory, bounded, and runs out by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relaygate.admin import AdminCommands, AdminError, Answer, Arguments
from relaygate.bans import MAX_BAN_S, Bans, Offences, Penance, TooManyBans
from relaygate.networks import Network, NetworkSet, network_of, source_of
from relaygate.uplink import UplinkFailed

# Networks in one command.
MAX_NETWORKS = 500


class Offence(Enum):
    """What may lead to a ban."""

    FTP_LOGIN = "refused FTP logins"
    HTTP_UNAUTHORISED = "HTTP requests without authorisation"


@dataclass(frozen=True, slots=True)
class Rules:
    """
    So many offences of one source within *within_s* seconds are a ban of *duration_s*; 0 of a kind
    is no rule.  *never* is who is banned by nothing.
    """

    most: Mapping[Offence, int]
    within_s: float
    duration_s: float
    never: NetworkSet


class IBanTaker(Protocol):
    """A DMZ node, as the guard needs it."""

    gateway_name: str

    async def put_bans(self, bans: Sequence[tuple[str, float]]) -> bool:
        """Set bans there; whether all were taken.  Raises :class:`UplinkFailed`."""


class Guard:
    """Keeps the bans of one internal node; *links* gives the DMZ nodes of the moment."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, rules: Rules, links: Callable[[], Sequence[IBanTaker]]
    ) -> None:
        self._clock = clock
        self._links = links
        self._bans = Bans()
        self._penance = Penance()
        self.set_by_rule = 0
        self.use(rules)

    def use(self, rules: Rules) -> None:
        """Go by *rules* from now on; bans that hold go on."""
        self._rules = rules
        self._offences = {
            kind: Offences(most, rules.within_s) for kind, most in rules.most.items() if most
        }

    def __len__(self) -> int:
        return len(self.rows())

    def rows(self) -> list[tuple[str, float]]:
        """The bans that hold: networks, and the seconds that are left."""
        return self._bans.rows(self._clock.seconds())

    def bans(self, address: str) -> bool:
        """Whether *address* is banned now."""
        return self._bans.hold(address, self._clock.seconds())

    def offended(self, kind: Offence, address: str) -> bool:
        """A client at *address* has done something of *kind*; whether it is banned for it now."""
        if address in self._rules.never:
            return False
        if self.bans(address):
            # Sessions that ran before the ban may go on, but not go on guessing.
            return True
        source = source_of(address)
        if kind is Offence.FTP_LOGIN:
            self._penance.refused(source, self._clock.seconds())
        offences = self._offences.get(kind)
        if offences is None:
            return False
        if not offences.count(source, self._clock.seconds()):
            return False
        network = network_of(source)
        try:
            self._set([network], self._rules.duration_s)
        except TooManyBans as error:
            self.log.warn("not banned: {network} ({error})", network=source, error=str(error))
            return False
        self.set_by_rule += 1
        self.log.warn(
            "banned: network={network} seconds={seconds:g} reason={reason!r}",
            network=source,
            seconds=self._rules.duration_s,
            reason=f"too many {kind.value}",
        )
        Deferred.fromCoroutine(self._tell([(source, self._rules.duration_s)]))
        return True

    def logged_in(self, address: str) -> None:
        """A client at *address* has shown that it knows a password."""
        self._penance.pardon(source_of(address))

    def password_wait_s(self, address: str) -> float:
        """Seconds for which the next password of a client at *address* is to wait."""
        return self._penance.wait_s(source_of(address), self._clock.seconds())

    def _set(self, networks: Collection[Network], seconds: float) -> None:
        now = self._clock.seconds()
        self._bans.demand_room(networks, now)
        for network in networks:
            self._bans.add(network, seconds, now)

    async def _tell(self, rows: Sequence[tuple[str, float]]) -> dict[str, str]:
        """
        Tell every DMZ node; the answer is what each has said.

        All are told at once: one that is silent keeps the word from no other.
        """

        async def told(link: IBanTaker) -> str:
            try:
                return "ok" if await link.put_bans(rows) else "not taken"
            except UplinkFailed as error:
                return str(error)

        links = self._links()
        telling = [Deferred.fromCoroutine(told(link)) for link in links]
        heard = await gatherResults(telling, consumeErrors=True)
        return {link.gateway_name: words for link, words in zip(links, heard, strict=True)}

    # -- commands -------------------------------------------------------------------------------

    def register(self, commands: AdminCommands) -> None:
        """Put the commands into the table."""
        commands.register("ban", self._ban)
        commands.register("unban", self._unban)
        commands.register("bans", self._list)

    async def _ban(self, arguments: Arguments) -> Answer:
        """Ban ``networks`` for ``seconds``."""
        networks = self._networks(arguments)
        seconds = arguments.number("seconds", 1, MAX_BAN_S, int(self._rules.duration_s))
        arguments.finish()
        for network in networks:
            if self._rules.never.meets(network):
                raise AdminError(f"{network} has addresses of bans.never")
        try:
            self._set(networks, seconds)
        except TooManyBans as error:
            raise AdminError(str(error)) from None
        rows = [(str(network), float(seconds)) for network in networks]
        self.log.warn(
            "banned: networks={networks} seconds={seconds} reason='by command'",
            networks=",".join(str(network) for network in networks),
            seconds=seconds,
        )
        return {"banned": len(rows), "seconds": seconds, "gateways": await self._tell(rows)}

    async def _unban(self, arguments: Arguments) -> Answer:
        """Lift the bans of ``networks``; without any, all bans."""
        networks = self._networks(arguments, optional=True)
        arguments.finish()
        networks = networks or [network_of(network) for network, _ in self.rows()]
        lifted = sum(self._bans.remove(network) for network in networks)
        self.log.warn("bans lifted by command: {lifted}", lifted=lifted)
        # Also what only the DMZ nodes know of: another internal node may have set it.
        rows = [(str(network), 0.0) for network in networks]
        told = await self._tell(rows)
        return {"lifted": lifted, "not_here": len(networks) - lifted, "gateways": told}

    async def _list(self, arguments: Arguments) -> Answer:
        """The bans that hold here."""
        arguments.finish()
        rows = self.rows()
        return {"bans": [{"network": network, "seconds": round(left)} for network, left in rows]}

    def _networks(self, arguments: Arguments, *, optional: bool = False) -> list[Network]:
        texts = arguments.texts("networks", most=MAX_NETWORKS, longest=64)
        if not texts and not optional:
            raise AdminError("networks: expected at least one")
        try:
            return [network_of(text) for text in texts]
        except ValueError as error:
            raise AdminError(f"networks: {error}") from None
