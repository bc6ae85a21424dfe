"""An entry, as its configuration has it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from relaygate.addresses import HostPort
from relaygate.admission import Caps
from relaygate.config.forward import ForwardConfig, ForwardFTPConfig, UserConfig
from relaygate.destinations import Destinations
from relaygate.entries import Entry
from relaygate.entrytalk import FixedTalk, ProxyTalk, SocksTalk, Talk, User, Users
from relaygate.ftpsettings import FTPSettings, public_resolver
from relaygate.identity import IdentityError, file_label, read_secret
from relaygate.protocols.ftpeffects import FTPPolicy, TLSMode, Use

# Where a partner does not come back to us, no range is asked for.
_ANY_PORTS = (1024, 65535)


def make_users(config: ForwardConfig) -> Users:
    """The users of an entry, with their passwords.  Raises :class:`IdentityError`."""
    return {user.name.encode(): _user(config.name, user) for user in config.users}


def make_entry(config: ForwardConfig, reactor: Any) -> Entry:
    """The entry that *config* describes.  Raises :class:`IdentityError`."""
    target = config.target
    rules = Destinations(config.destinations)
    if target is not None:
        rules = _OnlyTarget(target)
    protected = config.opens_ftp and config.partner_tls.mode != "off"
    return Entry(
        name=config.name,
        protocol=config.protocol,
        talk=_talk(config),
        destinations=rules,
        tls_channel=lambda port: config.tls_channel(port, protected=protected),
        caps=Caps(config.max_sessions, config.max_sessions_per_address),
        users=make_users(config),
        allow=[ip_network(each) for each in config.allow],
        idle_timeout_s=config.idle_timeout_s,
        bind_ports=config.bind_ports,
        bind_address=config.bind_address,
        may_have_data=config.protocol == "ftp",
        ftp=_ftp(config, config.ftp, reactor) if config.ftp and config.opens_ftp else None,
        partner_name=config.partner_tls.name,
    )


class _OnlyTarget(Destinations):
    """A fixed forward may reach its target and nothing else, whatever address that has."""

    def __init__(self, target: HostPort) -> None:
        super().__init__()
        self._target = target

    def names(self, wanted: HostPort) -> bool:
        """See :class:`Destinations`."""
        return wanted == self._target


def _talk(config: ForwardConfig) -> Callable[[Users], Talk]:
    if config.protocol == "socks5":
        return lambda users: SocksTalk(users, may_bind=config.bind_ports is not None)
    if config.protocol == "http-connect":
        return ProxyTalk
    target = config.target
    assert target is not None
    speaks: str = config.protocol
    if config.ftp is not None and (config.ftp.implicit or not config.opens_ftp):
        speaks = "ftps"
    return lambda _: FixedTalk(target.host, target.port, speaks)


def _user(entry: str, config: UserConfig) -> User:
    label = file_label("password", config.password_file)
    try:
        password = read_secret(label, config.password_file).rstrip(b"\r\n")
        if not 0 < len(password) <= 255 or b"\n" in password:
            raise IdentityError(f"{label}: expected one line of 1 to 255 bytes")
    except IdentityError as error:
        raise IdentityError(f'forward "{entry}": {error}') from None
    rules = config.destinations
    return User(password, None if rules is None else Destinations(rules))


def _ftp(config: ForwardConfig, ftp: ForwardFTPConfig, reactor: Any) -> FTPSettings:
    partner = config.partner_tls
    return FTPSettings(
        policy=FTPPolicy(
            control=Use(ftp.tls),
            data=Use(ftp.data_tls),
            implicit=ftp.implicit,
            backend=TLSMode(partner.mode),
            backend_data=partner.data,
            backend_active=ftp.mode == "active",
            backend_as_client=ftp.mode == "as-client",
            hides_host=True,
        ),
        kind=lambda protected: config.tls_channel(0, protected=protected),
        public=ftp.public_address,
        resolve=public_resolver(reactor),
        ports=ftp.active_ports or _ANY_PORTS,
        peers=(),
        source_port=0,
        resume="prefer",
        lenient=False,
        telnet=ftp.telnet,
    )
