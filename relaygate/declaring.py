"""
What an internal node wishes of a DMZ node: said over the uplink, and again when it changes.

One declaration is under way at a time.  A wish that changes meanwhile makes it stale, and it is
stated anew behind it; services that were refused are asked for again after a while, or when the DMZ
node says that its answer has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relaygate import commands
from relaygate.listpush import pages_of, put_lists
from relaygate.uplink import Uplink

# Services that were refused are asked for again after this many seconds: ports become free.
DECLARE_AGAIN_S = 30.0
# Where the DMZ node says that it would answer otherwise, after so many: it may say so often.
DECLARE_SOON_S = 1.0


class Declaration:
    """
    The wish for *services*, towards the DMZ node *gateway*.

    *services* are records as :class:`relaygate.commands.Declare` has them; whoever changes them
    calls :meth:`state_again`.
    """

    log = Logger()

    def __init__(
        self, gateway: str, services: Sequence[dict[str, Any]], clock: IReactorTime
    ) -> None:
        self.services = services
        # The services that the DMZ node has refused, and why.
        self.refused: dict[str, str] = {}
        self._gateway = gateway
        self._clock = clock
        # The uplink that stands, and the minor version that is spoken on it.
        self._uplink: Uplink | None = None
        self._minor = 0
        # The uplink on which the wish is being stated, and whether it has changed since.
        self._stating: Uplink | None = None
        self._stale = False
        self._again: IDelayedCall | None = None

    @property
    def under_way(self) -> bool:
        """Whether the DMZ node has yet to answer to what is wished for."""
        return self._stating is not None

    def up(self, uplink: Uplink, minor: int) -> None:
        """*uplink* stands: the wish goes there from now on."""
        self._uplink, self._minor = uplink, minor

    def down(self) -> None:
        """The uplink is lost."""
        self._uplink = None
        self._forget_again()

    async def state(self, uplink: Uplink) -> None:
        """
        State the whole wish on *uplink*, again if it changes meanwhile.

        Raises :class:`relaygate.uplink.UplinkFailed`.
        """
        self._stale = True
        if self._stating is uplink:
            return
        self._stating = uplink
        try:
            while self._stale:
                self._stale = False
                await self._state_once(uplink)
        finally:
            if self._stating is uplink:
                self._stating = None

    def state_again(self, uplink: Uplink) -> None:
        """The same for who does not wait; an uplink on which it fails is ended."""
        Deferred.fromCoroutine(self.state(uplink)).addErrback(
            lambda failure: uplink.end(failure.getErrorMessage())
        )

    def soon(self) -> None:
        """The DMZ node would answer otherwise by now: hear how."""
        if self._uplink is not None:
            self._state_in(DECLARE_SOON_S, self._uplink)

    async def _state_once(self, uplink: Uplink) -> None:
        self._forget_again()
        services = await put_lists(uplink, self.services, self._minor)
        pages = pages_of(services)
        answer: dict[str, Any] = {}
        for number, page in enumerate(pages):
            last = number == len(pages) - 1
            answer = await uplink.ask(commands.Declare, page=number, last=last, services=page)
        self.refused = {each["name"]: each["reason"] for each in answer["refused"]}
        for refused in answer["refused"]:
            self.log.warn(
                "listener refused: gateway={gateway} service={service} reason={reason!r}",
                gateway=self._gateway,
                service=refused["name"],
                reason=refused["reason"],
            )
        self.log.info(
            "services declared: gateway={gateway} services={services} refused={refused}",
            gateway=self._gateway,
            services=len(self.services),
            refused=len(answer["refused"]),
        )
        if answer["refused"] and uplink is self._uplink:
            self._state_in(DECLARE_AGAIN_S, uplink)

    def _state_in(self, seconds: float, uplink: Uplink) -> None:
        """State it again after *seconds*, if it is not to be sooner anyway."""
        again = self._again
        if again is not None and again.active():
            if again.getTime() <= self._clock.seconds() + seconds:
                return
            again.cancel()
        self._again = self._clock.callLater(seconds, self.state_again, uplink)

    def _forget_again(self) -> None:
        if self._again is not None and self._again.active():
            self._again.cancel()
        self._again = None
