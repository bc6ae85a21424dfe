"""
An FTP session, performed: the one file that does what :mod:`relaygate.protocols.ftpalg` asks.

Two control connections (:mod:`relaygate.ftpcontrol`) and transfers (:mod:`relaygate.ftptransfers`)
feed the session; the effects that it answers with are performed here, in their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from relaygate.dataway import DataWay
from relaygate.ftpcontrol import ControlEnd, Event
from relaygate.ftpsettings import FTPFacts
from relaygate.ftptransfers import FTPTransfers
from relaygate.legs import Leg
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.parting import part
from relaygate.pipes import PipeShelf
from relaygate.protocols.ftp import Reply
from relaygate.protocols.ftpalg import FTPSession
from relaygate.protocols.ftpeffects import (
    BounceRefused,
    CloseData,
    DialActive,
    DialBackendData,
    Effect,
    EndSession,
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
from relaygate.servicetls import SessionTLS
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
    # A server may write a file's tail down before it answers anything.
    Wait.PROBE: 30.0,
    Wait.DRAIN: 10.0,
}


# RFC 959 section 4.2.2; some servers say 430.
_LOGIN_REFUSED = (430, 530)


class FTPRelay:
    """
    Joins *outer*, the client's control leg, and *inner*, that of the backend, in the session that
    *facts* are about.

    *done* is called once with the outcome, when both control connections are closed.
    """

    log = Logger()

    def __init__(
        self,
        outer: Leg,
        inner: Leg,
        facts: FTPFacts,
        reactor: Any,
        shelf: PipeShelf,
        dataway: DataWay,
        done: Callable[[Outcome], None],
    ) -> None:
        # Called each time that the backend takes a login, or refuses it.
        self.login_taken: Callable[[], object] = lambda: None
        self.login_refused: Callable[[], object] = lambda: None
        # Seconds for which the next password waits before it is tried (Requirement 87).
        self.password_wait_s: Callable[[], float] = lambda: 0.0
        self._password: IDelayedCall | None = None
        self._reactor = reactor
        self._name = facts.backend
        self._done = done
        self._fields = facts.fields
        self._limits = LIMITS_S | {Wait.COMMAND: facts.idle_timeout_s or IDLE_LIMIT_S}
        self._client_tls = SessionTLS(facts.key) if facts.key else None
        self._backend_tls = facts.backend_tls
        self._client = ControlEnd(self, outer, facts.settings.telnet)
        self._backend = ControlEnd(self, inner, None)
        public = facts.public
        self._session = FTPSession(
            facts.settings.policy,
            facts.client,
            # Who is near knows the near network, and a partner's addresses are no secret of ours.
            hidden=() if facts.turned else {inner.getHost().host, inner.getPeer().host},
            shown=facts.reached if public is None else public,
        )
        self._transfers = FTPTransfers(
            facts,
            outer,
            inner,
            self._client_tls,
            reactor,
            shelf,
            dataway,
            self._session,
            self._feed,
        )
        self.seen = self._transfers.seen
        self._effects: deque[Effect] = deque()
        self._performing = False
        self._limit: IDelayedCall | None = None
        self._login_limit: IDelayedCall | None = None
        self._outcome: Outcome | None = None
        self._ended = False
        self._legs_left = 2

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
                effect = self._effects.popleft()
                _PERFORM[type(effect)](self, effect)
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
            self._feed(self._session.client_lost, end.broken)
        else:
            log_event(self.log, "backend lost", usual=True, **self._fields, reason=reason)
            self._feed(self._session.backend_lost)

    # -- performing -----------------------------------------------------------------------------

    def _send_reply(self, effect: SendReply) -> None:
        self._client.send(effect.reply)

    def _send_command(self, effect: SendCommand) -> None:
        wait_s = self.password_wait_s() if effect.command.verb == "PASS" else 0.0
        if wait_s:
            # Nothing else is sent meanwhile: the session has one command under way.
            self._password = self._reactor.callLater(wait_s, self._backend.send, effect.command)
        else:
            self._backend.send(effect.command)

    def _start_tls(self, effect: StartTLS) -> None:
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

    def _open_passive(self, effect: OpenPassive) -> None:
        self._transfers.of(effect.transfer).open_passive(effect.protected)

    def _dial_active(self, effect: DialActive) -> None:
        self._transfers.of(effect.transfer).dial_active(effect.port, effect.protected)

    def _dial_backend_data(self, effect: DialBackendData) -> None:
        self._transfers.of(effect.transfer).dial_backend(effect.port)

    def _listen_backend_data(self, effect: ListenBackendData) -> None:
        self._transfers.of(effect.transfer).listen_backend()

    def _start_data(self, effect: StartData) -> None:
        self._transfers.of(effect.transfer).start(
            effect.direction, effect.client_protected, effect.backend_protected
        )

    def _close_data(self, effect: CloseData) -> None:
        self._transfers.close(effect.transfer, abort=effect.abort)

    def _login_seen(self, effect: LoginSeen) -> None:
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
        if effect.ok:
            self.login_taken()
        elif effect.code in _LOGIN_REFUSED:
            self.login_refused()

    def _transfer_seen(self, effect: TransferSeen) -> None:
        data = self._transfers.told(effect.transfer)
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

    def _bounce_refused(self, effect: BounceRefused) -> None:
        log_event(
            self.log,
            "refused",
            usual=False,
            **self._fields,
            command=_text(bytes(effect.command).rstrip()),
            reason=effect.why,
        )

    def _end_session(self, effect: EndSession) -> None:
        self._ended = True
        self._disarm()
        for call in (self._login_limit, self._password):
            if call is not None and call.active():
                call.cancel()
        if self._outcome is None:
            self._outcome = Outcome(Cause(effect.end.value), Phase.RELAY, effect.detail)
        self._transfers.abort()
        for end in (self._client, self._backend):
            part(end.let_go(), b"", self._reactor, self._gone)

    def _gone(self) -> None:
        self._legs_left -= 1
        if self._legs_left == 0:
            assert self._outcome is not None
            self._done(self._outcome)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


# By type: a table costs less than a dispatcher that makes a function for each call.
_PERFORM: dict[type, Callable[[FTPRelay, Any], None]] = {
    SendReply: FTPRelay._send_reply,
    SendCommand: FTPRelay._send_command,
    StartTLS: FTPRelay._start_tls,
    OpenPassive: FTPRelay._open_passive,
    DialActive: FTPRelay._dial_active,
    DialBackendData: FTPRelay._dial_backend_data,
    ListenBackendData: FTPRelay._listen_backend_data,
    StartData: FTPRelay._start_data,
    CloseData: FTPRelay._close_data,
    LoginSeen: FTPRelay._login_seen,
    TransferSeen: FTPRelay._transfer_seen,
    BounceRefused: FTPRelay._bounce_refused,
    EndSession: FTPRelay._end_session,
}
