"""
Connections inside that the DMZ node was asked for: FTP data connections of published sessions, and
all that goes out.  They are asked for over an uplink, and arrive as data channels.

For each one the DMZ node is told a number, which comes back on the channel that carries the
client's connection.  The reply on that channel is given as soon as it arrives, not when the
backend's end of the transfer stands: many clients connect right after the 227 and name the file
only much later, and some backends open their end only then, while the DMZ node's patience is
meant for the way between the nodes alone.  Nothing is lost by it, for the leg is not read: what
the client sends waits in kernels until somebody takes it, and whether the transfer comes to
anything is told on the control connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.protocols import amp

from relaygate import commands
from relaygate.addresses import AddressError, HostPort, host_name
from relaygate.errors import NoTransfer, Refusal, refusal_for
from relaygate.legs import Leg
from relaygate.protocols.preamble import SessionReply, TransferStart
from relaygate.supply import SuppliedChannel
from relaygate.uplink import Uplink, UplinkFailed

# The DMZ node listens for 60 seconds and brings a channel within 10.
ARRIVAL_LIMIT_S = 75.0
# Seconds for the DMZ node to reach a destination, and to say so.
CONNECT_LIMIT_S = 15.0
ANSWER_GRACE_S = 5.0
# As the uplink's contract bounds the number.
_NUMBERS = 2**31


class TransferFailed(Exception):
    """A data connection has not come about; the text says why."""


class UplinkGone(TransferFailed):
    """The uplink on which it was asked for is lost."""


class TransferHandle:
    """
    What the inside has of a data connection that it has asked the DMZ node for.

    :attr:`port` is what the DMZ node has opened for it (0: it dials), :attr:`arrived` fires once
    with the client's connection: a leg that is not read, aborts by default, and is the taker's to
    end.  It fails with :class:`TransferFailed` if none comes, so take it up at once.  On a way out
    :attr:`host` and :attr:`port` are the DMZ node's own end, and :attr:`peer` is who has come to
    it, where that was asked for.
    """

    def __init__(self, withdrawn: Callable[[TransferHandle], None], tls: bool) -> None:
        self.host = ""
        self.port = 0
        self.peer: tuple[str, int] | None = None
        self.tls = tls
        self.arrived: Deferred[Leg] = Deferred(lambda _: self.withdraw())
        self.limit: IDelayedCall | None = None
        self._withdrawn: Callable[[TransferHandle], None] | None = withdrawn

    def withdraw(self) -> None:
        """It is not wanted any more: the DMZ node gives everything back.  Harmless when it is
        over.
        """
        withdrawn, self._withdrawn = self._withdrawn, None
        if withdrawn is not None:
            withdrawn(self)
            self._end()
            # Whoever waits is told; where nobody does, nobody minds.
            self.arrived.errback(CancelledError())
            self.arrived.addErrback(lambda _: None)

    def bring(self, leg: Leg) -> None:
        """The client's connection is here."""
        self._end()
        self.arrived.callback(leg)

    def fail(self, reason: TransferFailed) -> None:
        """None will come."""
        if self._withdrawn is not None:
            self._end()
            self.arrived.errback(reason)

    def _end(self) -> None:
        self._withdrawn = None
        if self.limit is not None and self.limit.active():
            self.limit.cancel()


class DataWay:
    """
    The data connections that come through one DMZ node, as long as they are waited for.

    It outlives uplinks: what waits fails with the uplink that it was asked on, what has arrived
    does not depend on any.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._uplink: Uplink | None = None
        self._number = 0
        self._waiting: dict[tuple[str, int], TransferHandle] = {}
        self._led: dict[str, Callable[[SuppliedChannel, int], None]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def up(self, uplink: Uplink) -> None:
        """*uplink* is what to ask on from now on."""
        self._uplink = uplink

    def down(self) -> None:
        """The uplink is gone, and with it all that was asked on it."""
        self._uplink = None
        waiting, self._waiting = self._waiting, {}
        for transfer in waiting.values():
            transfer.fail(UplinkGone("the uplink is gone"))

    def lead(self, session: str, taker: Callable[[SuppliedChannel, int], None] | None) -> None:
        """
        Bring all data connections of *session*, which passes unopened, to *taker*; None: no more.

        They come unasked, each with the number of the port that the client came to.
        """
        if taker is None:
            self._led.pop(session, None)
        else:
            self._led[session] = taker

    async def offer_passive(
        self, session: str, ports: tuple[int, int], peers: Sequence[str], tls: bool
    ) -> TransferHandle:
        """
        Have the DMZ node listen on one of *ports* (first and last) for the client of *session*.

        Members of the networks *peers* may connect in its place.  *tls* is the kind of channel:
        clear for what the client encrypts itself.  Raises :class:`TransferFailed`.
        """

        async def ask(uplink: Uplink, number: int) -> tuple[str, int]:
            answer = await uplink.ask(
                commands.OpenPassive,
                session=session,
                transfer=number,
                first=ports[0],
                last=ports[1],
                peers=[{"network": peer} for peer in peers],
                tls=tls,
            )
            port = answer["port"]
            assert isinstance(port, int)
            if not ports[0] <= port <= ports[1]:
                raise UplinkFailed("the DMZ node opened a port that was not asked for")
            return "", port

        return await self._ask(session, tls, ask)

    async def dial_active(
        self, session: str, port: int, source_port: int, tls: bool
    ) -> TransferHandle:
        """
        Have the DMZ node dial *port* of the client of *session*, from *source_port* (0: any).

        It has reached the client when this returns.  Raises :class:`TransferFailed`.
        """

        async def ask(uplink: Uplink, number: int) -> tuple[str, int]:
            await uplink.ask(
                commands.DialActive,
                session=session,
                transfer=number,
                port=port,
                source_port=source_port,
                tls=tls,
            )
            return "", 0

        return await self._ask(session, tls, ask)

    async def connect(
        self,
        session: str,
        entry: str,
        destination: HostPort,
        *,
        data: bool,
        tls: bool,
        patience_s: float = CONNECT_LIMIT_S,
    ) -> TransferHandle:
        """
        Have the DMZ node dial *destination* for *session*, which came to *entry*.

        It has reached it when this returns, within *patience_s* seconds; with *data* the session
        may have FTP data connections then.  Raises :class:`TransferFailed`, or the
        :class:`relaygate.errors.Refusal` that the DMZ node has answered.
        """
        return await self._go_out(
            commands.Connect,
            session,
            tls,
            entry=entry,
            host=destination.host,
            port=destination.port,
            data=data,
            patience=int(patience_s * 1000),
            deadline_s=patience_s + ANSWER_GRACE_S,
        )

    async def await_peer(
        self, session: str, entry: str, host: str, ports: tuple[int, int], tls: bool
    ) -> TransferHandle:
        """
        Have the DMZ node listen on one of *ports* (first and last) for *host*, and nobody else.

        Raises as :meth:`connect`.
        """
        return await self._go_out(
            commands.Await,
            session,
            tls,
            entry=entry,
            host=host,
            first=ports[0],
            last=ports[1],
            deadline_s=CONNECT_LIMIT_S + ANSWER_GRACE_S,
        )

    async def _go_out(
        self, command: type[amp.Command], session: str, tls: bool, **wish: Any
    ) -> TransferHandle:
        async def ask(uplink: Uplink, number: int) -> tuple[str, int]:
            answer = await uplink.ask(
                command,
                session=session,
                transfer=number,
                tls=tls,
                **wish,
            )
            if answer["code"]:
                refusal = refusal_for(answer["code"])
                refusal.detail = answer["detail"]
                raise refusal
            host_name(answer["own_host"])
            return answer["own_host"], answer["own_port"]

        return await self._ask(session, tls, ask)

    async def _ask(
        self, session: str, tls: bool, ask: Callable[[Uplink, int], Awaitable[tuple[str, int]]]
    ) -> TransferHandle:
        uplink = self._uplink
        if uplink is None:
            raise TransferFailed("the uplink is gone")
        self._number = (self._number + 1) % _NUMBERS
        name = (session, self._number)

        def withdrawn(transfer: TransferHandle) -> None:
            self._waiting.pop(name, None)
            if self._uplink is uplink:
                uplink.tell(commands.CloseTransfer, session=session, transfer=name[1])

        # Before the question: the channel may be faster than the answer.
        self._waiting[name] = transfer = TransferHandle(withdrawn, tls)
        try:
            transfer.host, transfer.port = await ask(uplink, name[1])
        except (UplinkFailed, CancelledError, Refusal, AddressError) as error:
            transfer.withdraw()
            # Nobody has seen it, so nobody waits for it.
            transfer.arrived.addErrback(lambda _: None)
            if isinstance(error, (CancelledError, Refusal)):
                raise
            raise TransferFailed(str(error)) from None
        if self._waiting.get(name) is transfer:
            # The question had a limit of its own; most of what goes out has arrived by now.
            transfer.limit = self._clock.callLater(ARRIVAL_LIMIT_S, self._expire, name)
        return transfer

    def _expire(self, name: tuple[str, int]) -> None:
        self._waiting.pop(name).fail(TransferFailed("nobody has come"))

    def take(self, channel: SuppliedChannel, start: TransferStart) -> None:
        """*channel* carries the data connection that *start* names; one that nobody waits for is
        refused.
        """
        if (taker := self._led.get(start.session)) is not None:
            taker(channel, start.transfer)
            return
        transfer = self._waiting.get((start.session, start.transfer))
        leg = channel.leg
        # The kind is ours to choose: what must be encrypted never comes on a clear channel.
        if transfer is None or transfer.tls is not (leg.tls is not None):
            channel.reply(SessionReply(NoTransfer.code))
            leg.loseConnection()
            return
        del self._waiting[start.session, start.transfer]
        # Whoever takes the leg reads it; our own reply must not be read past.
        leg.stopReading()
        leg.abort_by_default()
        channel.reply(SessionReply(0))
        transfer.peer = start.peer
        transfer.bring(leg)
