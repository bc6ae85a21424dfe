"""
A session at an entry: from a program's connection to a destination.

::

    accepted --> it says its wish --> ours to allow? --> a DMZ node reaches it --> relayed
                 (entrytalk)          (destinations)     (wayout)

What a program has sent ahead waits in one buffer, no larger than a read, and goes with it if the
destination is not reached.  A fixed forward of FTP is not relayed but understood, by the same
:class:`relaygate.ftprelay.FTPRelay` that serves a published one, with its roles turned round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.addresses import AddressError, HostPort, host_name
from relaygate.admission import Throttle
from relaygate.dataway import TransferFailed, UplinkGone
from relaygate.departures import Departures
from relaygate.entries import Entry
from relaygate.entrytalk import NoWish, Wish, listen_to
from relaygate.errors import NobodyCame, NoGateway, NotAllowed, Refusal, Stopping, TooMany
from relaygate.ftprelay import FTPRelay
from relaygate.ftpsettings import FTPFacts
from relaygate.legs import Leg
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.parting import part
from relaygate.pipes import PipeShelf
from relaygate.relay import Relay
from relaygate.sessionlog import log_end, log_event, log_open
from relaygate.wayout import Found, WayOut


@dataclass(frozen=True)
class Surroundings:
    """
    What all sessions of all entries share; *new_id* makes a session's id, *departures* tells who
    leaves before it is served, *wordless* lets some ends of those through to the log that have not
    said what they want, and while *draining* says so no session begins.
    """

    reactor: Any
    shelf: PipeShelf
    way: WayOut
    new_id: Callable[[], str]
    departures: Departures
    wordless: Throttle
    draining: Callable[[], bool] = lambda: False


class EntrySession:
    """One program's session at *entry*; *ended* is called once, at the end."""

    log = Logger()

    def __init__(
        self,
        entry: Entry,
        leg: Leg,
        around: Surroundings,
        ended: Callable[[EntrySession], None],
    ) -> None:
        client = leg.getPeer()
        self.id = around.new_id()
        self.client: tuple[str, int] = (client.host, client.port)
        self.relay: Relay | FTPRelay | None = None
        self.found: Found | None = None
        self.gateway = ""
        self.destination = "-"
        self.user = ""
        self.began = around.reactor.seconds()
        self._entry = entry
        self._leg = leg
        self._around = around
        self._ended = ended
        self._talk = entry.talk(entry.users)
        self._pending = True
        self._counted = False
        self._over = False
        self._work: Deferred[None] | None = None
        entry.pending.add(self.client[0])
        entry.waiting[self] = None

    def start(self) -> None:
        """Begin."""
        self._work = Deferred.fromCoroutine(self._run())
        self._work.addErrback(self._broken)

    async def _run(self) -> None:
        try:
            wish = await listen_to(self._leg, self._talk, self._around.reactor)
        except NoWish as error:
            if error.refusal is not None:
                self._audit(error.refusal, f"the client {error}")
            cause = error.refusal.cause if error.refusal else Cause.CLIENT
            self._part(error.words, Outcome(cause, Phase.ADMIT, f"the client {error}"))
            return
        self._settled()
        self.user = wish.user
        departures = self._around.departures
        try:
            self._take_place()
            wanted = self._allowed(wish)
            if self._around.draining():
                raise Stopping
            ends = self._talk.awaits_answer and not self._talk.rest
            departures.watch(self._leg, self._left, by_end=ends)
            if wish.binds:
                inner = await self._await(wanted)
            else:
                inner = await self._connect(wanted)
        except Refusal as refusal:
            if isinstance(refusal, NotAllowed):
                self._audit(refusal, refusal.detail or refusal.meaning)
            outcome = Outcome(refusal.cause, Phase.OPEN, refusal.detail or refusal.meaning)
            self._part(self._talk.refused(refusal), outcome)
            return
        finally:
            departures.forget(self._leg)
        if not self._leg.connected:
            inner.abortConnection()
            self._end(Outcome(Cause.CLIENT, Phase.OPEN, "the client has left"))
            return
        self._join(wish, wanted, inner)

    def _take_place(self) -> None:
        """Be one of the sessions that the caps are about.  Raises :class:`TooMany`."""
        sessions, address = self._entry.sessions, self.client[0]
        if not sessions.has_room(address):
            raise TooMany
        sessions.add(address)
        self._counted = True

    def _left(self) -> None:
        self.abort(Cause.CLIENT, "the client has left")

    # -- what it wants --------------------------------------------------------------------------

    def _allowed(self, wish: Wish) -> HostPort:
        """Where the program may go, in the one form of it.  Raises :class:`NotAllowed`."""
        self.destination = f"{wish.host}:{wish.port}"
        bare = wish.host[1:-1] if wish.host.startswith("[") else wish.host
        try:
            wanted = HostPort(host_name(bare), wish.port)
        except AddressError as error:
            refusal = NotAllowed()
            refusal.detail = f"the destination is {error}"
            raise refusal from None
        self.destination = str(wanted)
        if not self._entry.allows(wish.user, wanted, binds=wish.binds):
            refusal = NotAllowed()
            refusal.detail = "it is not among the entry's destinations"
            raise refusal
        return wanted

    async def _connect(self, wanted: HostPort) -> Leg:
        entry = self._entry
        found, inner = await self._around.way.connect(
            self.id,
            entry.name,
            wanted,
            data=entry.may_have_data,
            tls=entry.tls_channel(wanted.port),
        )
        self._goes_by(found)
        return inner

    def _goes_by(self, found: Found) -> None:
        self.found = found
        self.gateway = found.link.gateway_name
        found.link.hold()

    async def _await(self, wanted: HostPort) -> Leg:
        """Have a port opened for *wanted*, tell it, and wait for who comes (RFC 1928, BIND)."""
        entry, around = self._entry, self._around
        assert entry.bind_ports is not None
        found = await around.way.await_peer(
            self.id, entry.name, wanted.host, entry.bind_ports, entry.tls_channel(0)
        )
        self._goes_by(found)
        transfer = found.transfer
        shown = entry.bind_address(self.gateway) or transfer.host
        self._leg.write(self._talk.granted(shown, transfer.port))
        try:
            return await transfer.arrived
        except TransferFailed as error:
            refusal = NoGateway() if isinstance(error, UplinkGone) else NobodyCame()
            refusal.detail = str(error)
            raise refusal from None

    # -- bytes ----------------------------------------------------------------------------------

    def _join(self, wish: Wish, wanted: HostPort, inner: Leg) -> None:
        around, entry = self._around, self._entry
        assert self.found is not None
        transfer = self.found.transfer
        log_open(self.log, **self._fields())
        entry.tally.opened += 1
        if entry.ftp is not None:
            facts = FTPFacts(
                session=self.id,
                client=self.client[0],
                reached=transfer.host,
                gateway=self.gateway,
                backend=wanted.host,
                settings=entry.ftp,
                key=entry.key,
                backend_tls=entry.partner_tls,
                idle_timeout_s=entry.idle_timeout_s,
                fields=self._fields(),
                turned=True,
            )
            dataway = self.found.link.dataway
            self.relay = FTPRelay(
                self._leg, inner, facts, around.reactor, around.shelf, dataway, self._end
            )
            self.relay.start()
            return
        host, port = transfer.peer or (transfer.host, transfer.port)
        self._leg.write(self._talk.granted(host, port))
        self.relay = Relay(
            self._leg,
            inner,
            around.reactor,
            around.shelf,
            self._end,
            idle_timeout_s=entry.idle_timeout_s,
        )
        self.relay.start(before_in=wish.head + self._talk.rest)

    # -- ends -----------------------------------------------------------------------------------

    def _part(self, words: bytes, outcome: Outcome) -> None:
        if words:
            part(self._leg, words, self._around.reactor, lambda: self._end(outcome))
        else:
            # Without words an orderly end would be an empty file that is complete.
            self._leg.abortConnection()
            self._end(outcome)

    def _settled(self) -> None:
        if self._pending:
            self._pending = False
            self._entry.pending.remove(self.client[0])
            del self._entry.waiting[self]

    def _end(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        self._settled()
        if self._counted:
            self._entry.sessions.remove(self.client[0])
        if self.found is not None:
            self.found.link.release()
        tally = self._entry.tally
        if self.relay is None:
            tally.refused += 1
        tally.bytes_in += self.bytes_in
        tally.bytes_out += self.bytes_out
        self._log_end(outcome)
        self._ended(self)

    def _log_end(self, outcome: Outcome) -> None:
        fields = self._fields()
        wordless = self._around.wordless
        if self._talk.wish is None:
            # A flood of them would be as many lines.
            if not wordless.passes():
                return
            fields["not_logged"] = wordless.take_suppressed()
        seconds = self._around.reactor.seconds() - self.began
        log_end(self.log, outcome, fields, self.relay, seconds)

    def _audit(self, refusal: Refusal, why: str) -> None:
        log_event(
            self.log,
            "refused",
            usual=False,
            **self._fields(),
            result=type(refusal).__name__,
            reason=why,
        )

    def _fields(self) -> dict[str, object]:
        named = {"user": self.user or "-"} if self._entry.users else {}
        return {
            "session": self.id,
            "entry": self._entry.name,
            "client": str(HostPort(*self.client)),
            **named,
            "gateway": self.gateway or "-",
            "destination": self.destination,
        }

    @property
    def bytes_in(self) -> int:
        """Bytes that have gone to the partner."""
        return self.relay.bytes_in if self.relay else 0

    @property
    def bytes_out(self) -> int:
        """Bytes that have come from the partner."""
        return self.relay.bytes_out if self.relay else 0

    def state(self) -> dict[str, Any]:
        """
        How the session is, for operators.

        It has the keys that a service's session has, and no service and no backend.
        """
        return {
            **self._fields(),
            "service": "",
            "backend": "",
            "state": "opening" if self.relay is None else "open",
            "seconds": round(self._around.reactor.seconds() - self.began, 1),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }

    def abort(self, cause: Cause, detail: str) -> None:
        """End the session now, whatever it does."""
        if self.relay is not None:
            self.relay.abort(cause, detail)
            return
        # First, since what is given up would say that it was a fault.
        self._end(Outcome(cause, Phase.ADMIT if self._talk.wish is None else Phase.OPEN, detail))
        if self._work is not None:
            self._work.cancel()
        self._leg.abortConnection()

    def _broken(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("session {session} failed", failure, session=self.id)
        self._leg.abortConnection()
        self._end(Outcome(Cause.FAULT, Phase.OPEN, "internal error"))
