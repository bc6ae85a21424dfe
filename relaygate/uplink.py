"""
An uplink: AMP with deadlines, pings both ways, and responders that cannot close the connection.

AMP's own habits are kept outside: a failed call that nobody watches and an error that a command
does not declare close the connection; calls have no deadline; a box may have any number of keys;
and a ``StartTLS`` command is answered by everyone.  So there is one place that calls
(:meth:`Uplink.ask`), one that dispatches (:meth:`Uplink.dispatchCommand`), and boxes have a bound.

Both roles are told what comes, through what :mod:`relaygate.uplinkends` says of them.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IDelayedCall,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import Interface

from relaygate import commands
from relaygate.admission import Allowance
from relaygate.boxes import BoxReader, serialized
from relaygate.uplinkends import IDMZEnd, IInternalEnd

ASK_DEADLINE_S = 10.0
PING_INTERVAL_S = 5.0
# An uplink ends at the second ping in a row that finds that nothing came since the one before.
SILENT_PINGS = 2
# So a half-open one is found within this time.
SILENCE_LIMIT_S = (SILENT_PINGS + 1) * PING_INTERVAL_S
# Seconds for a farewell to go out.
LEAVE_LIMIT_S = 2.0
# Our largest command has six arguments beside AMP's own two keys.
MAX_KEYS = 32
# Answers that the other node does not read: far more than ever wait at once.
MAX_UNSENT_BYTES = 1024 * 1024
# What an uplink may have done for it, in boxes: the largest wish at once, and then so many a second
# as leave most of a core to the sessions. One that wants more is not read for a while.
BOXES_AT_ONCE = 16_384.0
BOXES_PER_S = 4_096.0
# A box of so many bytes is as much work as two, and a listener that is opened as much as so many.
BOX_BYTES = 150
SERVICE_BOXES = 10
# A page of the DMZ node's report is as much as so many.
REPORT_BOXES = 100
# Seconds for which it is not read at the most: whether it is gone is seen only by reading.
LONGEST_PAUSE_S = 1.0

# Where AMP keeps its responders; a later one that has them elsewhere is asked for each by its name.
DIRECT = hasattr(amp.CommandLocator, "_commandDispatch")

_REFUSED: tuple[type[Exception], ...] = (amp.AmpError, *commands.ERRORS)


class UplinkFailed(Exception):
    """A call over the uplink was not answered: it was refused, too slow, or the uplink is gone."""


class Unanswered(UplinkFailed):
    """The uplink was lost before the answer came."""


class Uplink(amp.AMP):
    """
    One end of an uplink.

    *role* provides :class:`IDMZEnd` or :class:`IInternalEnd`; commands that the role does not have
    are refused as out of order.  *clock* gives the deadlines.
    """

    noisy = False
    log = Logger()

    def __init__(self, role: Any, clock: IReactorTime, software: str) -> None:
        super().__init__()
        self._role = role
        self._software = software
        self._clock = clock
        self._pings = LoopingCall(self._ping)
        self._pings.clock = clock
        self._silent_pings = 0
        self._reason = ""
        self._leaving: IDelayedCall | None = None
        self._allowance = Allowance(clock.seconds, at_once=BOXES_AT_ONCE, per_s=BOXES_PER_S)
        self._work = 0.0
        self._paused: IDelayedCall | None = None
        self._reader = BoxReader(MAX_KEYS)
        self.greeted = False

    # -- asking ---------------------------------------------------------------------------------

    async def ask(
        self, command: type[amp.Command], *, deadline_s: float = ASK_DEADLINE_S, **arguments: Any
    ) -> dict[str, Any]:
        """
        Call *command* on the other node and wait for its answer.

        Raises :class:`UplinkFailed` after *deadline_s* seconds, when the uplink is lost, or when
        the other node refuses; its text says which.
        """
        limit: IDelayedCall | None = None
        try:
            call: Deferred[dict[str, Any]] = self.callRemote(command, **arguments)
            limit = self._clock.callLater(deadline_s, call.cancel)
            return await call
        except _REFUSED as error:
            raise UplinkFailed(f"{command.__name__} was refused: {error}") from None
        except Exception as error:  # noqa: BLE001 - a call fails with whatever ended the uplink
            if isinstance(error, CancelledError) and limit is not None and not limit.active():
                raise UplinkFailed(f"no answer to {command.__name__} in {deadline_s:g} s") from None
            raise Unanswered(f"{command.__name__} got no answer: {error}") from None
        finally:
            if limit is not None and limit.active():
                limit.cancel()

    def tell(self, command: type[amp.Command], **arguments: Any) -> None:
        """Call *command* and only log it if the other node refuses."""

        async def told() -> None:
            try:
                await self.ask(command, **arguments)
            except UplinkFailed as error:
                self.log.debug("{error}", error=str(error))

        Deferred.fromCoroutine(told())

    def start_pings(self) -> None:
        """Ask now and then whether the other node is there, and end the uplink when it is not."""
        self._pings.start(PING_INTERVAL_S, now=False)

    def _ping(self) -> None:
        # Turns are counted, not seconds: where this process (or its whole machine) was stopped, its
        # timers are late and run before what has come meanwhile is read.
        if self._silent_pings == SILENT_PINGS:
            self.end(f"the other node is silent: no answer to {SILENT_PINGS} pings")
            return
        self._silent_pings += 1
        self.tell(commands.Ping)

    def end(self, reason: str) -> None:
        """End the uplink at once, without waiting for anything."""
        self._reason = self._reason or reason
        if self.transport is not None:
            cast(ITCPTransport, self.transport).abortConnection()

    def leave(self, reason: str, *, superseded: bool = False) -> None:
        """Say farewell and end the uplink; without farewell if the other node does not read."""
        self._reason = self._reason or reason
        self.tell(commands.Farewell, reason=reason, superseded=superseded)
        if self.transport is not None:
            self.transport.loseConnection()
            self._leaving = self._clock.callLater(LEAVE_LIMIT_S, self.end, reason)

    # -- answering ------------------------------------------------------------------------------

    def dispatchCommand(self, box: amp.AmpBox) -> Deferred[amp.AmpBox]:
        """
        Answer *box*; only our own commands have a responder, not the ``StartTLS`` that AMP brings.

        An error in answering goes back to the caller; it never closes the uplink.
        """
        command = commands.ALL.get(box[amp.COMMAND])
        if command is not None:
            answer = Deferred.fromCoroutine(self._respond(command, box))
        else:
            # In our words: AMP would send the name back, however long it is.
            answer = fail(amp.RemoteAmpError(amp.UNHANDLED_ERROR_CODE, "unknown command", False))
        answer.addErrback(self._refusal, box)
        if amp.ASK not in box:
            # Nobody asked, so nobody is told; AMP would close the connection.
            answer.addErrback(lambda _: None)
        return answer

    async def _respond(self, command: type[amp.Command], box: amp.AmpBox) -> amp.AmpBox:
        if not DIRECT:
            theirs: amp.AmpBox = await self.locateResponder(command.commandName)(box)
            return theirs
        # As AMP does it, without three functions made for each box.
        _, responder = self._commandDispatch[command.commandName]  # type: ignore[attr-defined]
        answer = responder(self, **command.parseArguments(box, self))
        if isinstance(answer, Coroutine):
            answer = await answer
        made: amp.AmpBox = command.makeResponse(answer, self)
        return made

    def _refusal(self, failure: Failure, box: amp.AmpBox) -> Failure:
        if failure.check(amp.RemoteAmpError):
            return failure
        known = failure.check(*commands.ERRORS)
        if known is not None:
            code, text = commands.ERRORS[known], f"{failure.value}"
        elif failure.check(KeyError, ValueError, TypeError, EOFError):
            code, text = b"BAD_ARGUMENT", f"{failure.value}"
        else:
            code, text = b"INTERNAL", "internal error"
            self.log.failure("answering {command!r}", failure, command=bytes(box[amp.COMMAND]))
        return Failure(amp.RemoteAmpError(code, text[:200], fatal=False))

    def dataReceived(self, data: bytes) -> None:
        """Whatever is not AMP ends the uplink, with one line in the log."""
        self._silent_pings = 0
        try:
            for box in self._reader.receive(data):
                self.ampBoxReceived(box)
        except Exception as error:  # noqa: BLE001 - an answer to nothing raises all sorts of things
            self.end(f"what came is not the protocol: {type(error).__name__}")
        transport = self.transport
        if transport is not None and getattr(transport, "unsent", 0) > MAX_UNSENT_BYTES:
            self.end("the other node does not read its answers")
        self._pace(len(data) / BOX_BYTES)

    def _pace(self, work: float) -> None:
        """What was heard was *work*, beside what it brought about; too much of it has a pause."""
        work, self._work = work + self._work, 0.0
        wait = self._allowance.take(work)
        if wait and self._paused is None and self.transport is not None:
            cast(IPushProducer, self.transport).pauseProducing()
            self._paused = self._clock.callLater(min(wait, LONGEST_PAUSE_S), self._read_on)

    def _read_on(self) -> None:
        self._paused = None
        cast(IPushProducer, self.transport).resumeProducing()

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        """See :class:`twisted.protocols.amp.IBoxReceiver`; counts it."""
        self._work += 1
        super().ampBoxReceived(box)

    def sendBox(self, box: amp.AmpBox) -> None:
        """See :class:`twisted.protocols.amp.IBoxSender`."""
        if self.transport is None:
            raise ConnectionLost
        self.transport.write(serialized(box))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self._pings.running:
            self._pings.stop()
        for call in (self._leaving, self._paused):
            if call is not None and call.active():
                call.cancel()
        super().connectionLost(reason)
        self._role.uplink_lost(self, self._reason or reason.getErrorMessage())

    # -- responders -----------------------------------------------------------------------------

    @commands.Hello.responder
    def _hello(self, major: int, minor: int, software: str) -> dict[str, Any]:
        role = self._as(IDMZEnd)
        if major != commands.MAJOR:
            reason = (
                f"protocol {major}.{minor} of {software} is refused:"
                f" this node speaks {commands.MAJOR}.{commands.MINOR}"
            )
            self.log.warn("uplink refused: {reason}", reason=reason)
            raise commands.VersionRefused(reason)
        if self.greeted:
            raise commands.OutOfOrder("hello was said already")
        generation = role.hello(self, software)
        self.greeted = True
        self.start_pings()
        return {
            "major": commands.MAJOR,
            "minor": commands.MINOR,
            "software": self._software,
            "generation": generation,
        }

    @commands.Declare.responder
    def _declare(self, page: int, last: bool, services: list[dict[str, Any]]) -> dict[str, Any]:
        self._work += SERVICE_BOXES * len(services)
        return {"refused": self._dmz_end().declare(self, page, last, services)}

    @commands.OpenChannels.responder
    def _open_channels(self, tls: bool, count: int) -> dict[str, Any]:
        self._as(IInternalEnd).open_channels(self, tls, count)
        return {}

    @commands.OpenPassive.responder
    def _open_passive(
        self,
        session: str,
        transfer: int,
        first: int,
        last: int,
        peers: list[dict[str, str]],
        tls: bool,
    ) -> dict[str, Any]:
        role = self._dmz_end()
        networks = [peer["network"] for peer in peers]
        port = role.open_passive(self, session, transfer, (first, last), networks, tls)
        return {"port": port}

    @commands.DialActive.responder
    async def _dial_active(
        self, session: str, transfer: int, port: int, source_port: int, tls: bool
    ) -> dict[str, Any]:
        await self._dmz_end().dial_active(self, session, transfer, port, source_port, tls)
        return {}

    @commands.Connect.responder
    async def _connect(self, **wish: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._dmz_end().connect(self, **wish)
        return answer

    @commands.Await.responder
    async def _await(self, **wish: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._dmz_end().await_peer(self, **wish)
        return answer

    @commands.CloseTransfer.responder
    def _close_transfer(self, session: str, transfer: int) -> dict[str, Any]:
        self._dmz_end().close_transfer(self, session, transfer)
        return {}

    @commands.PutNetworks.responder
    def _put_networks(
        self, name: str, page: int, last: bool, four: bytes, six: bytes
    ) -> dict[str, Any]:
        return {"known": self._dmz_end().put_networks(self, name, page, last, four, six)}

    @commands.Ban.responder
    def _ban(self, bans: list[dict[str, Any]]) -> dict[str, Any]:
        return {"full": self._dmz_end().ban(self, bans)}

    @commands.Report.responder
    async def _report(self, page: int) -> dict[str, Any]:
        self._work += REPORT_BOXES
        return {"software": self._software, **await self._dmz_end().report(self, page)}

    @commands.Draining.responder
    def _draining(self) -> dict[str, Any]:
        self._as(IInternalEnd).gateway_draining(self)
        return {}

    @commands.DeclareAgain.responder
    def _declare_again(self) -> dict[str, Any]:
        self._as(IInternalEnd).declare_again(self)
        return {}

    @commands.Probe.responder
    async def _probe(self, **question: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._dmz_end().probe(self, **question)
        return answer

    @commands.Ping.responder
    def _pong(self) -> dict[str, Any]:
        return {}

    @commands.Farewell.responder
    def _farewell(self, reason: str, superseded: bool) -> dict[str, Any]:
        self._role.farewell(self, reason, superseded)
        return {}

    def _dmz_end(self) -> Any:
        role = self._as(IDMZEnd)
        if not self.greeted:
            raise commands.OutOfOrder("hello comes first")
        return role

    def _as(self, interface: type[Interface]) -> Any:
        if not interface.providedBy(self._role):
            raise commands.OutOfOrder("not a command for this node")
        return self._role
