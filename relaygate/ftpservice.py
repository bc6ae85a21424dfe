"""What an FTP service's configuration means to its sessions."""

from __future__ import annotations

from typing import Any, NoReturn

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from relaygate.addresses import HostPort
from relaygate.config import FTPConfig, ServiceConfig
from relaygate.dataway import TransferFailed
from relaygate.dial import error_words
from relaygate.ftprelay import FTPSettings
from relaygate.protocols.ftpeffects import BackendTLS, FTPPolicy, Use


def ftp_settings(service: ServiceConfig, ftp: FTPConfig, reactor: Any) -> FTPSettings:
    """The settings of the *service* that is configured with *ftp*, and is opened."""

    def resolve(host: str) -> Deferred[str]:
        if HostPort(host, 0).literal is not None:
            return succeed(host)
        found: Deferred[str] = reactor.resolve(host)
        return found.addErrback(unknown, host)

    def unknown(failure: Failure, host: str) -> NoReturn:
        words = error_words(failure.value)
        raise TransferFailed(f"public_address {host} cannot be resolved: {words}") from None

    return FTPSettings(
        policy=FTPPolicy(
            control=Use(ftp.tls),
            data=Use(ftp.data_tls),
            implicit=service.protocol == "ftps",
            backend=BackendTLS(service.backend_tls.mode),
            backend_data=service.backend_tls.data,
            backend_active=ftp.backend_mode == "active",
        ),
        kind=lambda protected: service.transfer_channel(protected=protected),
        public=ftp.public_address,
        resolve=resolve,
        ports=ftp.passive_ports,
        peers=ftp.peers,
        source_port=ftp.active_source_port,
        resume=ftp.session_reuse,
        lenient=ftp.truncated == "accept",
        telnet=ftp.telnet,
    )
