"""
The transfers of one FTP session: those that are under way, by their numbers, and what they share.

Each has a way to either side (:mod:`relaygate.ftpways`): one goes through the DMZ node, the other
straight over the own network, and which is whose depends on where the client is.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

from relaygate.dataway import DataWay
from relaygate.ftpdata import DataPaths, Feed, FTPData, Seen
from relaygate.ftpsettings import FTPFacts
from relaygate.ftpways import Direct, ThroughGateway
from relaygate.legs import Leg
from relaygate.pipes import PipeShelf
from relaygate.protocols.ftpalg import FTPSession
from relaygate.protocols.ftpeffects import TLSMode
from relaygate.servicetls import SessionTLS


class FTPTransfers:
    """
    The transfers of the session that *facts* are about, whose control legs are *outer* and *inner*.

    They are fed to *session* by *feed*; *client_tls* is what the client's data connections are
    secured with.  :attr:`seen` has what operators see of them.
    """

    def __init__(
        self,
        facts: FTPFacts,
        outer: Leg,
        inner: Leg,
        client_tls: SessionTLS | None,
        reactor: Any,
        shelf: PipeShelf,
        dataway: DataWay,
        session: FTPSession,
        feed: Feed,
    ) -> None:
        settings, policy = facts.settings, facts.settings.policy
        far = ThroughGateway(
            dataway,
            facts.session,
            settings.kind,
            facts.shown,
            settings.ports,
            settings.peers,
            settings.source_port,
        )
        self.seen = Seen()
        self._paths = DataPaths(
            reactor=reactor,
            shelf=shelf,
            session=facts.session,
            client=Direct(reactor, outer) if facts.turned else far,
            backend=far if facts.turned else Direct(reactor, inner),
            backend_protected=policy.backend_data and policy.backend is not TLSMode.OFF,
            control=inner,
            client_tls=client_tls,
            resume=settings.resume,
            lenient=settings.lenient,
            backend_tls=facts.backend_tls,
            backend_name=facts.backend,
            control_session=self._control_session,
            seen=self.seen,
        )
        self._session = session
        self._feed = feed
        self._running: dict[int, FTPData] = {}
        # The one that was given back last: its figures are still to be told.
        self._given_back: FTPData | None = None
        self._resumable: SSL.Session | None = None

    def __len__(self) -> int:
        return len(self._running)

    def of(self, number: int) -> FTPData:
        """Transfer *number*, which begins if it has not."""
        data = self._running.get(number)
        if data is None:
            data = FTPData(self._paths, number, self._session, self._feed)
            self._running[number] = data
        return data

    def close(self, number: int, *, abort: bool) -> None:
        """Give back what transfer *number* holds, if there is one."""
        self._given_back = self._running.pop(number, None)
        if self._given_back is not None:
            self._given_back.close(abort=abort)

    def told(self, number: int) -> FTPData | None:
        """Transfer *number*, of which the audit is told now, and nothing later."""
        return self._running.pop(number, None) or self._given_back

    def abort(self) -> None:
        """Break off all."""
        for data in self._running.values():
            data.close(abort=True)
        self._running.clear()

    def _control_session(self) -> SSL.Session | None:
        """
        The session of the backend's control connection.

        Under TLS 1.3 it comes in a ticket behind the handshake; the replies to the login were read
        behind that, so it is there when the first transfer begins (RFC 8446, section 4.6.1).
        """
        control = self._paths.control
        if self._resumable is None and control.tls is not None:
            self._resumable = control.tls.get_session()
        return self._resumable
