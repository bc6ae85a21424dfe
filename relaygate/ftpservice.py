"""What an FTP service's configuration means to its sessions."""

from __future__ import annotations

from typing import Any

from relaygate.config import FTPConfig, ServiceConfig
from relaygate.ftpsettings import FTPSettings, public_resolver
from relaygate.protocols.ftpeffects import FTPPolicy, TLSMode, Use


def ftp_settings(service: ServiceConfig, ftp: FTPConfig, reactor: Any) -> FTPSettings:
    """The settings of the *service* that is configured with *ftp*, and is opened."""
    return FTPSettings(
        policy=FTPPolicy(
            control=Use(ftp.tls),
            data=Use(ftp.data_tls),
            implicit=service.protocol == "ftps",
            backend=TLSMode(service.backend_tls.mode),
            backend_data=service.backend_tls.data,
            backend_active=ftp.backend_mode == "active",
        ),
        kind=lambda protected: service.transfer_channel(protected=protected),
        public=ftp.public_address,
        resolve=public_resolver(reactor),
        ports=ftp.passive_ports,
        peers=ftp.peers,
        source_port=ftp.active_source_port,
        resume=ftp.session_reuse,
        lenient=ftp.truncated == "accept",
        telnet=ftp.telnet,
    )
