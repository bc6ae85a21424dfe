"""
The data connections of an FTP session, performed: what the session asks for as effects.

A transfer has two legs, the client's and the backend's, each with a way of its own
(:mod:`relaygate.ftpways`).  They are found independently of each other, wait unread, are secured
where they are to be, and joined by a :class:`relaygate.relay.Relay`; no byte of a file passes
through FTP's code.

When is a transfer over?  The backend's word for it (226) travels another way than the bytes do,
and clients that hear it early stop reading.  So the session is told

* of an upload, when the client's last byte and its end have gone to the backend;
* of a download, when the client has closed, or has had a moment to do so since the kernel's last
  byte for it was taken.

A connection that ends without an end (a reset, TLS without ``close_notify``) is broken, and so is
then the other one: an end would say that the file is complete.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.dataway import TransferFailed
from relaygate.dial import DialFailed
from relaygate.ftpways import Arrival, Way
from relaygate.handshake import HandshakeFailed, shake_hands
from relaygate.legs import Leg
from relaygate.outcome import Cause, Outcome
from relaygate.pipes import PipeShelf
from relaygate.protocols.ftp import Reply
from relaygate.protocols.ftpalg import FTPSession
from relaygate.protocols.ftpeffects import DataEnd, Direction, Effect
from relaygate.relay import Relay
from relaygate.servicetls import BackendTLS, SessionTLS, demand_same_peer
from relaygate.tls import PeerNotAllowed

# Seconds for the client to close a download that it has, since its kernel had the last byte.
CLOSE_LIMIT_S = 1.0
DRAIN_LOOK_S = 0.05
# Seconds for the rest of a connection whose file is through: a backend's close_notify, mostly.
FINISH_LIMIT_S = 5.0
# Seconds without a byte in a transfer that runs.
STALL_LIMIT_S = 900.0

_BAD_PROTECTION = Reply.of(425, "Cannot protect the data connection.")
_NOT_RESUMED = Reply.of(522, "The data connection must resume the control connection's session.")
# The control connection's answer to an unexpected state of ours.
_FAULT = Reply.of(425, "Cannot open data connection.")

Feed = Callable[..., None]


class Seen:
    """What operators see of a session while it runs: who it is, and what its files have moved."""

    def __init__(self) -> None:
        self.user = ""
        self._ended_in = 0
        self._ended_out = 0
        self._running: dict[Relay, Direction] = {}

    def began(self, relay: Relay, direction: Direction) -> None:
        """A file moves by *relay*."""
        self._running[relay] = direction

    def over(self, relay: Relay) -> None:
        """It does no longer."""
        if self._running.pop(relay, None) is not None:
            self._ended_in += relay.bytes_in
            self._ended_out += relay.bytes_out

    @property
    def bytes_in(self) -> int:
        """Bytes of files from the client, so far."""
        return self._ended_in + sum(relay.bytes_in for relay in self._running)

    @property
    def bytes_out(self) -> int:
        """Bytes of files and listings to the client, so far."""
        return self._ended_out + sum(relay.bytes_out for relay in self._running)

    def shown(self) -> dict[str, str]:
        """The user that has logged in, and where files move just now."""
        ways = sorted({direction.value for direction in self._running.values()})
        return {"user": self.user, "direction": ", ".join(ways)}


@dataclass(frozen=True)
class DataPaths:
    """
    What the transfers of one session share.

    *client* and *backend* are the ways of their data connections.  *control* is the backend's
    control leg, and *control_session* the TLS session of it that data connections resume;
    *backend_protected* says whether they are protected at all.  What moves is told to *seen*.
    """

    reactor: Any
    shelf: PipeShelf
    session: str
    client: Way
    backend: Way
    backend_protected: bool
    control: Leg
    client_tls: SessionTLS | None
    resume: str
    lenient: bool
    backend_tls: BackendTLS | None
    backend_name: str
    control_session: Callable[[], SSL.Session | None]
    seen: Seen


class FTPData:
    """Transfer *number* of a session: performs what *session* asks, and feeds it what comes."""

    log = Logger()

    def __init__(self, paths: DataPaths, number: int, session: FTPSession, feed: Feed) -> None:
        self.number = number
        self.relay: Relay | None = None
        self.began = paths.reactor.seconds()
        self._paths = paths
        self._session = session
        self._feed = feed
        self._arrivals: list[Arrival] = []
        self._client: Deferred[Leg] = Deferred()
        self._backend: Deferred[Leg] = Deferred()
        self._legs: list[Leg] = []
        self._client_leg: Leg | None = None
        self._works: set[Deferred[None]] = set()
        self._timer: IDelayedCall | None = None
        self._direction = Direction.UNKNOWN
        self._served = False
        self._told = False
        self._closed = False

    @property
    def bytes(self) -> int:
        """How many bytes of the file have moved."""
        if self.relay is None:
            return 0
        return self.relay.bytes_in + self.relay.bytes_out

    # -- the session asks -----------------------------------------------------------------------

    def open_passive(self, protected: bool) -> None:
        """See :class:`relaygate.protocols.ftpeffects.OpenPassive`."""
        opened = self._session.passive_opened
        self._work(self._listen(self._paths.client, self._client, protected, opened))

    def dial_active(self, port: int, protected: bool) -> None:
        """See :class:`relaygate.protocols.ftpeffects.DialActive`."""
        dialled = self._session.active_dialled
        self._work(self._dial(self._paths.client, self._client, port, protected, dialled))

    def dial_backend(self, port: int) -> None:
        """See :class:`relaygate.protocols.ftpeffects.DialBackendData`."""
        paths, ready = self._paths, self._session.backend_data_ready
        protected = paths.backend_protected
        self._work(self._dial(paths.backend, self._backend, port, protected, ready))

    def listen_backend(self) -> None:
        """See :class:`relaygate.protocols.ftpeffects.ListenBackendData`."""
        paths, listening = self._paths, self._session.backend_listening
        protected = paths.backend_protected
        self._work(self._listen(paths.backend, self._backend, protected, listening))

    def start(self, direction: Direction, client_protected: bool, backend_protected: bool) -> None:
        """See :class:`relaygate.protocols.ftpeffects.StartData`."""
        self._direction = direction
        self.began = self._paths.reactor.seconds()
        self._work(self._start(client_protected, backend_protected))

    def close(self, *, abort: bool) -> None:
        """See :class:`relaygate.protocols.ftpeffects.CloseData`."""
        if self._closed:
            return
        self._closed = True
        for work in list(self._works):
            work.cancel()
        for arrival in self._arrivals:
            arrival.withdraw()
        if self.relay is None:
            self._stop_timer()
            for leg in self._legs:
                leg.abortConnection()
        elif not self._told or abort:
            self.relay.abort(Cause.CLIENT, "the transfer was broken off")

    # -- work -----------------------------------------------------------------------------------

    def _work(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        work = Deferred.fromCoroutine(coroutine)
        work.addErrback(self._broken)
        if not work.called:
            self._works.add(work)
            work.addBoth(lambda _: self._works.discard(work))

    def _broken(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if not failure.check(TransferFailed, DialFailed):
            session = self._paths.session
            self.log.failure("transfer of session {session} failed", failure, session=session)
        self._fail(_FAULT, failure.getErrorMessage())

    def _tell(self, say: Callable[..., list[Effect]], *words: object) -> None:
        if not self._closed:
            self._feed(say, self.number, *words)

    def _fail(self, reply: Reply, reason: str) -> None:
        if self._closed:
            return
        # The client hears next to nothing of it, and an operator may have to mend it.
        self.log.warn(
            "session {session} data connection failed: {reason}",
            session=self._paths.session,
            reason=reason,
        )
        self._tell(self._session.data_failed, reply)

    async def _listen(
        self, way: Way, side: Deferred[Leg], protected: bool, say: Callable[..., list[Effect]]
    ) -> None:
        opened = await way.listen(protected)
        self._expect(opened.arrival, side)
        self._tell(say, opened.host, opened.port)

    async def _dial(
        self,
        way: Way,
        side: Deferred[Leg],
        port: int,
        protected: bool,
        say: Callable[..., list[Effect]],
    ) -> None:
        self._expect(await way.dial(port, protected), side)
        self._tell(say)

    def _expect(self, arrival: Arrival, side: Deferred[Leg]) -> None:
        arrival.arrived.addCallbacks(partial(self._came, side), self._broken)
        if self._closed:
            arrival.withdraw()
        else:
            self._arrivals.append(arrival)

    def _came(self, side: Deferred[Leg], leg: Leg) -> None:
        leg.abort_by_default()
        if self._closed:
            leg.abortConnection()
            return
        self._legs.append(leg)
        side.callback(leg)

    # -- bytes ----------------------------------------------------------------------------------

    async def _start(self, client_protected: bool, backend_protected: bool) -> None:
        self._client_leg = client = await self._client
        backend = await self._backend
        try:
            if backend_protected:
                await self._secure_backend(backend)
            if client_protected:
                await self._secure_client(client)
        except HandshakeFailed as error:
            reply = _NOT_RESUMED if isinstance(error, _NotResumed) else _BAD_PROTECTION
            self._fail(reply, f"TLS: {error}")
            return
        self.relay = Relay(
            client,
            backend,
            self._paths.reactor,
            self._paths.shelf,
            self._over,
            idle_timeout_s=STALL_LIMIT_S,
            passed=self._passed,
        )
        self._paths.seen.began(self.relay, self._direction)
        self.relay.start()

    async def _secure_client(self, leg: Leg) -> None:
        tls = self._paths.client_tls
        assert tls is not None

        def start() -> None:
            if self._direction is Direction.UPLOAD:
                leg.start_upload_tls(tls.context, lenient=self._paths.lenient)
            else:
                leg.start_tls(tls.context, server=True)

        await shake_hands(leg, start, self._paths.reactor)
        if self._paths.resume == "require" and not tls.resumed(cast(SSL.Connection, leg.tls)):
            raise _NotResumed("the client's data connection does not resume its session")

    async def _secure_backend(self, leg: Leg) -> None:
        paths = self._paths
        tls, control = paths.backend_tls, paths.control.tls
        if tls is None or control is None:
            raise HandshakeFailed("the backend's control connection is not protected")
        name = paths.backend_name

        def start() -> None:
            session = paths.control_session()
            leg.start_tls(tls.context, server=False, sni=tls.sni(name), session=session)

        await shake_hands(leg, start, paths.reactor)
        try:
            demand_same_peer(control, cast(SSL.Connection, leg.tls))
        except PeerNotAllowed as error:
            raise HandshakeFailed(str(error)) from None

    def _passed(self, source: Cause) -> None:
        """One leg's bytes and its end have gone out on the other one."""
        if source is Cause.CLIENT and self._direction is not Direction.DOWNLOAD:
            self._whole()
        elif source is Cause.CLIENT and self._served:
            # Both ends have gone through: what is left is to close.
            self._stop_timer()
            self._ended(DataEnd.WHOLE)
        elif source is not Cause.CLIENT and self._direction is not Direction.UPLOAD:
            self._served = True
            self._drain(CLOSE_LIMIT_S)

    def _drain(self, left_s: float) -> None:
        """Wait for the client to close, *left_s* seconds longer than its kernel has bytes."""
        self._timer = None
        if left_s <= 0:
            self._whole()
            return
        client = self._client_leg
        if client is None or not client.connected:
            return
        left_s = CLOSE_LIMIT_S if _queued(client) else left_s - DRAIN_LOOK_S
        self._timer = self._paths.reactor.callLater(DRAIN_LOOK_S, self._drain, left_s)

    def _whole(self) -> None:
        self._stop_timer()
        self._timer = self._paths.reactor.callLater(FINISH_LIMIT_S, self._finish)
        self._ended(DataEnd.WHOLE)

    def _finish(self) -> None:
        self._timer = None
        assert self.relay is not None
        self.relay.close()

    def _over(self, outcome: Outcome) -> None:
        self._stop_timer()
        if self.relay is not None:
            self._paths.seen.over(self.relay)
        # Who has a download's end may close as it likes: some clients close without close_notify.
        served = self._served and self._direction is Direction.DOWNLOAD
        if outcome.cause is Cause.DONE or (served and outcome.cause is Cause.CLIENT):
            self._ended(DataEnd.WHOLE)
        elif outcome.cause is Cause.BACKEND:
            self._ended(DataEnd.BACKEND_BROKE)
        else:
            self._ended(DataEnd.CLIENT_BROKE)

    def _ended(self, end: DataEnd) -> None:
        if not self._told:
            self._told = True
            self._tell(self._session.data_ended, end)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


class _NotResumed(HandshakeFailed):
    """The client's data connection might be anybody's."""


def _queued(leg: Leg) -> int:
    """How many bytes the kernel has of what was sent on *leg*, until the peer's kernel has them."""
    answer = fcntl.ioctl(leg.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    count: int = struct.unpack("i", answer)[0]
    return count
