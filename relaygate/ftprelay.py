"""
An FTP session, performed: the one file that does what :mod:`relaygate.protocols.ftpalg` asks.

Two control connections (:mod:`relaygate.ftpcontrol`) and transfers (:mod:`relaygate.ftpdata`) feed
the session; the effects that it answers with are performed here, in their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from relaygate.dataway import DataWay
from relaygate.ftpcontrol import ControlEnd, Event
from relaygate.ftpdata import DataPaths, FTPData, Seen
from relaygate.ftpways import Direct, ThroughGateway
from relaygate.legs import Leg
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.parting import part
from relaygate.performers import Performers
from relaygate.pipes import PipeShelf
from relaygate.protocols.ftp import Reply
from relaygate.protocols.ftpalg import FTPSession
from relaygate.protocols.ftpeffects import BackendTLS as PolicyTLS
from relaygate.protocols.ftpeffects import (
    BounceRefused,
    CloseData,
    DialActive,
    DialBackendData,
    Effect,
    EndSession,
    FTPPolicy,
    ListenBackendData,
    LoginSeen,
    OpenPassive,
    SendCommand,
    SendReply,
    Side,
    StartData,
    StartTLS,
    TransferSeen,
    Wait,
)
from relaygate.servicekeys import ServiceKey
from relaygate.servicetls import BackendTLS, SessionTLS
from relaygate.sessionlog import log_event
from relaygate.tls import PeerNotAllowed

# RFC 1123, section 4.1.3.2, has five minutes as the least.
IDLE_LIMIT_S = 900.0
# Seconds to log in, whatever comes meanwhile: commands that drip do not prolong them.
LOGIN_LIMIT_S = 300.0
# Seconds for each thing that a session can wait for; what is not here has limits of its own.
LIMITS_S = {
    Wait.OPENING: 30.0,
    Wait.SECURING: 20.0,
    # Some servers hash or archive whole trees before they answer.
    Wait.REPLY: 1800.0,
    Wait.QUIT: 1.0,
    Wait.ABORT: 10.0,
    Wait.DRAIN: 10.0,
}


# RFC 959 section 4.2.2; some servers say 430.
_LOGIN_REFUSED = (430, 530)


@dataclass(frozen=True)
class FTPSettings:
    """
    What a service says about its FTP sessions.

    *kind* says which kind of channel carries a client's data connection, protected or not; *public*
    gives the address or name to advertise to who came through a gateway, or None for the address
    that the client reached; *resolve* turns a name into an IPv4 address.
    """

    policy: FTPPolicy
    kind: Callable[[bool], bool]
    public: Callable[[str], str | None]
    resolve: Callable[[str], Deferred[str]]
    ports: tuple[int, int]
    peers: Sequence[str]
    source_port: int
    resume: str
    lenient: bool
    telnet: bool


_EFFECTS = Performers()


class FTPRelay:
    """
    Joins *outer*, the client's control leg, and *inner*, that of the backend called *name*.

    *key* is what the client is shown, and *backend_tls* how the backend is spoken to, where TLS is
    used at all; *client* and *reached* are the addresses of the client and of
    what it reached, as the gateway has them; *done* is called once with the outcome, when both
    control connections are closed; *fields* stand in every line of the log.

    With *turned* the client is near and the backend beyond the DMZ: *reached* is then the address
    from which the DMZ node has dialled it.
    """

    log = Logger()

    def __init__(
        self,
        outer: Leg,
        inner: Leg,
        name: str,
        settings: FTPSettings,
        key: ServiceKey | None,
        backend_tls: BackendTLS | None,
        reactor: Any,
        shelf: PipeShelf,
        dataway: DataWay,
        session: str,
        client: str,
        reached: str,
        gateway: str,
        idle_timeout_s: float | None,
        done: Callable[[Outcome], None],
        fields: dict[str, object],
        *,
        turned: bool = False,
    ) -> None:
        # Called each time that the backend refuses a login.
        self.login_refused: Callable[[], object] = lambda: None
        self._reactor = reactor
        self._settings = settings
        self._reached = reached
        self._gateway = gateway
        self._name = name
        self._done = done
        self._fields = fields
        self._limits = LIMITS_S | {Wait.COMMAND: idle_timeout_s or IDLE_LIMIT_S}
        self._client_tls = SessionTLS(key) if key else None
        self._backend_tls = backend_tls
        self._client = ControlEnd(self, outer, settings.telnet)
        self._backend = ControlEnd(self, inner, None)
        public = settings.public(gateway)
        self._session = FTPSession(
            settings.policy,
            client,
            # Who is near knows the near network, and a partner's addresses are no secret of ours.
            hidden=() if turned else {inner.getHost().host, inner.getPeer().host},
            shown=reached if public is None else public,
        )
        far = ThroughGateway(
            dataway,
            session,
            settings.kind,
            self._shown,
            settings.ports,
            settings.peers,
            settings.source_port,
        )
        policy = settings.policy
        self.seen = Seen()
        self._paths = DataPaths(
            reactor=reactor,
            shelf=shelf,
            session=session,
            client=Direct(reactor, outer) if turned else far,
            backend=far if turned else Direct(reactor, inner),
            backend_protected=policy.backend_data and policy.backend is not PolicyTLS.OFF,
            control=inner,
            client_tls=self._client_tls,
            resume=settings.resume,
            lenient=settings.lenient,
            backend_tls=self._backend_tls,
            backend_name=name,
            control_session=self._control_session,
            seen=self.seen,
        )
        self._transfers: dict[int, FTPData] = {}
        # The one that was given back last: its figures are still to be told.
        self._given_back: FTPData | None = None
        self._effects: deque[Effect] = deque()
        self._performing = False
        self._limit: IDelayedCall | None = None
        self._login_limit: IDelayedCall | None = None
        self._outcome: Outcome | None = None
        self._ended = False
        self._legs_left = 2
        self._resumable: SSL.Session | None = None

    @property
    def bytes_in(self) -> int:
        """Bytes that the client has sent so far, on its control connection and of files."""
        return self._client.bytes + self.seen.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes that the backend has sent so far, on its control connection and of files."""
        return self._backend.bytes + self.seen.bytes_out

    @property
    def failed_logins(self) -> int:
        """How many logins the backend has refused."""
        return self._session.failed_logins

    def start(self) -> None:
        """Begin."""
        self._client.begin(self._backend, self._client)
        self._backend.begin(self._client)
        self._login_limit = self._reactor.callLater(LOGIN_LIMIT_S, self._login_due)
        self._feed(self._session.begin)

    def _login_due(self) -> None:
        if not self._session.logged_in:
            self.abort(Cause.TIMEOUT, "no login in time")

    def abort(self, cause: Cause, detail: str) -> None:
        """End the session now; the client hears 421."""
        if self._outcome is None:
            self._outcome = Outcome(cause, Phase.RELAY, detail)
            self._feed(self._session.stop)

    # -- feeding --------------------------------------------------------------------------------

    def _feed(self, say: Callable[..., list[Effect]], *words: object) -> None:
        self._effects += say(*words)
        if self._performing:
            # What an effect brought about comes behind the effects that stand before it.
            return
        self._performing = True
        try:
            while self._effects:
                _EFFECTS.perform(self, self._effects.popleft())
        finally:
            self._performing = False
        if not self._ended:
            if self._session.takes_commands:
                self._client.release(self)
            else:
                self._client.hold(self)
            self._arm()

    def _arm(self) -> None:
        # Anew with each input.
        limit_s = self._limits.get(self._session.waits_for)
        if limit_s is None:
            self._disarm()
        elif self._limit is not None and self._limit.active():
            self._limit.reset(limit_s)
        else:
            self._limit = self._reactor.callLater(limit_s, self._timed_out)

    def _disarm(self) -> None:
        if self._limit is not None and self._limit.active():
            self._limit.cancel()
        self._limit = None

    def _timed_out(self) -> None:
        self._feed(self._session.timed_out)

    # -- what comes on the control connections --------------------------------------------------

    def received(self, end: ControlEnd, event: Event) -> None:
        """See :class:`relaygate.ftpcontrol.IControlOwner`."""
        if isinstance(event, Reply):
            self._feed(self._session.reply_received, event)
        else:
            self._feed(self._session.command_received, event)

    def violated(self, end: ControlEnd, what: str) -> None:
        """See :class:`relaygate.ftpcontrol.IControlOwner`."""
        if end is self._client:
            self._feed(self._session.client_violated, what)
        else:
            self._feed(self._session.backend_violated, what)

    def secured(self, end: ControlEnd) -> None:
        """See :class:`relaygate.ftpcontrol.IControlOwner`."""
        tls = end.leg.tls
        assert tls is not None
        if end is self._client:
            name = tls.get_servername()
            self._feed(self._session.client_secured, name.decode("latin-1") if name else None)
            return
        assert self._backend_tls is not None
        try:
            self._backend_tls.demand(tls, self._name)
        except PeerNotAllowed as error:
            self._feed(self._session.backend_violated, f"is not who it should be: {error}")
            return
        self._feed(self._session.backend_secured)

    def lost(self, end: ControlEnd, reason: str) -> None:
        """See :class:`relaygate.ftpcontrol.IControlOwner`."""
        if end is self._client:
            self._feed(self._session.client_lost)
        else:
            log_event(self.log, "backend lost", usual=True, **self._fields, reason=reason)
            self._feed(self._session.backend_lost)

    # -- performing -----------------------------------------------------------------------------

    @_EFFECTS.of(SendReply)
    def _(self, effect: SendReply) -> None:
        self._client.send(effect.reply)

    @_EFFECTS.of(SendCommand)
    def _(self, effect: SendCommand) -> None:
        self._backend.send(effect.command)

    @_EFFECTS.of(StartTLS)
    def _(self, effect: StartTLS) -> None:
        if effect.side is Side.CLIENT:
            tls = self._client_tls
            assert tls is not None
            leg = self._client.leg
            self._client.secure(lambda: leg.start_tls(tls.context, server=True))
        else:
            backend = self._backend_tls
            assert backend is not None
            inner, sni = self._backend.leg, backend.sni(self._name)
            self._backend.secure(lambda: inner.start_tls(backend.context, server=False, sni=sni))

    @_EFFECTS.of(OpenPassive)
    def _(self, effect: OpenPassive) -> None:
        self._data(effect.transfer).open_passive(effect.protected)

    @_EFFECTS.of(DialActive)
    def _(self, effect: DialActive) -> None:
        self._data(effect.transfer).dial_active(effect.port, effect.protected)

    @_EFFECTS.of(DialBackendData)
    def _(self, effect: DialBackendData) -> None:
        self._data(effect.transfer).dial_backend(effect.port)

    @_EFFECTS.of(ListenBackendData)
    def _(self, effect: ListenBackendData) -> None:
        self._data(effect.transfer).listen_backend()

    @_EFFECTS.of(StartData)
    def _(self, effect: StartData) -> None:
        self._data(effect.transfer).start(
            effect.direction, effect.client_protected, effect.backend_protected
        )

    @_EFFECTS.of(CloseData)
    def _(self, effect: CloseData) -> None:
        self._given_back = self._transfers.pop(effect.transfer, None)
        if self._given_back is not None:
            self._given_back.close(abort=effect.abort)

    @_EFFECTS.of(LoginSeen)
    def _(self, effect: LoginSeen) -> None:
        self.seen.user = _text(effect.user) if effect.ok else self.seen.user
        log_event(
            self.log,
            "login",
            usual=effect.ok,
            **self._fields,
            user=_text(effect.user),
            result="ok" if effect.ok else "refused",
            code=effect.code,
        )
        if effect.code in _LOGIN_REFUSED:
            self.login_refused()

    @_EFFECTS.of(TransferSeen)
    def _(self, effect: TransferSeen) -> None:
        data = self._transfers.pop(effect.transfer, None) or self._given_back
        log_event(
            self.log,
            "transfer",
            usual=effect.code < 400,
            **self._fields,
            verb=effect.verb,
            path=_text(effect.path),
            direction=effect.direction.value,
            bytes=data.bytes if data else 0,
            seconds=round(self._reactor.seconds() - data.began, 3) if data else 0,
            result=effect.code,
            mode="passive" if effect.passive else "active",
            client_tls=effect.client_protected,
            backend_tls=effect.backend_protected,
        )

    @_EFFECTS.of(BounceRefused)
    def _(self, effect: BounceRefused) -> None:
        log_event(
            self.log,
            "refused",
            usual=False,
            **self._fields,
            command=_text(bytes(effect.command).rstrip()),
            reason=effect.why,
        )

    @_EFFECTS.of(EndSession)
    def _(self, effect: EndSession) -> None:
        self._ended = True
        self._disarm()
        if self._login_limit is not None and self._login_limit.active():
            self._login_limit.cancel()
        if self._outcome is None:
            self._outcome = Outcome(Cause(effect.end.value), Phase.RELAY, effect.detail)
        for data in self._transfers.values():
            data.close(abort=True)
        self._transfers.clear()
        for end in (self._client, self._backend):
            part(end.let_go(), b"", self._reactor, self._gone)

    def _gone(self) -> None:
        self._legs_left -= 1
        if self._legs_left == 0:
            assert self._outcome is not None
            self._done(self._outcome)

    # -- transfers ------------------------------------------------------------------------------

    def _data(self, number: int) -> FTPData:
        data = self._transfers.get(number)
        if data is None:
            data = FTPData(self._paths, number, self._session, self._feed)
            self._transfers[number] = data
        return data

    def _shown(self) -> Deferred[str]:
        public = self._settings.public(self._gateway)
        return self._settings.resolve(self._reached if public is None else public)

    def _control_session(self) -> SSL.Session | None:
        """
        The session of the backend's control connection.

        Under TLS 1.3 it comes in a ticket behind the handshake; the replies to the login were read
        behind that, so it is there when the first transfer begins (RFC 8446, section 4.6.1).
        """
        if self._resumable is None and self._backend.leg.tls is not None:
            self._resumable = self._backend.leg.tls.get_session()
        return self._resumable


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
