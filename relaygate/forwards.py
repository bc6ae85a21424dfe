"""The way out of an internal node: builds its entries, and opens them."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from relaygate.addresses import HostPort
from relaygate.admission import Caps
from relaygate.config.forward import ForwardConfig, ForwardFTPConfig, UserConfig
from relaygate.destinations import Destinations
from relaygate.entries import Entry, EntryPort, EntrySession, Surroundings
from relaygate.entryfollow import Followers
from relaygate.entrytalk import FixedTalk, ProxyTalk, SocksTalk, Talk, User, Users
from relaygate.ftprelay import FTPSettings
from relaygate.identity import IdentityError, file_label, read_secret
from relaygate.keeper import Keeper
from relaygate.legport import LegPort, WaitingLeg
from relaygate.legs import Leg
from relaygate.outcome import Cause
from relaygate.pipes import PipeShelf
from relaygate.protocols.ftpeffects import BackendTLS, FTPPolicy, Use
from relaygate.servicekeys import ServiceFiles, load_service_files
from relaygate.sessionlog import ID_BYTES
from relaygate.wayout import ILink, WayOut

# Where a partner does not come back to us, no range is asked for.
_ANY_PORTS = (1024, 65535)
_STOPPING = "the internal node is shutting down"


class Forwards(MultiService):
    """The entries that *configs* describe, through the DMZ nodes that *links* lead to."""

    log = Logger()

    def __init__(
        self,
        configs: Sequence[ForwardConfig],
        links: Callable[[], Sequence[ILink]],
        shelf: PipeShelf,
        reactor: Any,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._around = Surroundings(
            reactor, shelf, WayOut(links), lambda: secrets.token_hex(ID_BYTES)
        )
        self._configs = configs
        self.entries = {config.name: _entry(config, reactor) for config in configs}
        # In the order in which they came.
        self.sessions: dict[EntrySession, Entry] = {}
        self._followers: list[Followers] = []
        self._ports: list[LegPort] = []
        self._keepers: list[Keeper[ServiceFiles]] = []
        for config in configs:
            self._keep_files(config)

    def _keep_files(self, config: ForwardConfig) -> None:
        """Read the files of an entry's TLS, now and whenever they change."""
        own = (config.tls.certificate, config.tls.key) if config.tls else ()
        ca = config.partner_tls.ca
        paths = tuple(path for path in (*own, ca) if path)
        if not paths:
            return

        def load(now: datetime) -> ServiceFiles:
            return load_service_files(config.name, own, ca, now=now)

        files = load(datetime.fromtimestamp(self._reactor.seconds(), UTC))
        use = self.entries[config.name].use_files
        use(files)
        keeper = Keeper("entry's TLS", files, load, use, paths, self._reactor)
        keeper.setServiceParent(self)
        self._keepers.append(keeper)

    def reload(self) -> None:
        """Read the files again."""
        for keeper in self._keepers:
            keeper.reload()

    def privilegedStartService(self) -> None:
        """Open the entries, which may be at low ports."""
        super().privilegedStartService()
        for config in self._configs:
            self._open(config)

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        super().startService()
        if not self._ports:
            self.privilegedStartService()

    def stopService(self) -> Any:
        """Close the entries, and end their sessions."""
        for port in self._ports:
            port.stopListening()
        self._ports.clear()
        for session in list(self.sessions):
            session.abort(Cause.SHUTDOWN, _STOPPING)
        for followers in self._followers:
            followers.stop(_STOPPING)
        return super().stopService()

    def _open(self, config: ForwardConfig) -> None:
        entry = self.entries[config.name]

        def begin(leg: Leg) -> None:
            session = EntrySession(entry, leg, self._around, self._forget)
            self.sessions[session] = entry
            session.start()

        self._listen(config, config.listen, EntryPort(entry, self._reactor, begin))
        if config.ftp is not None and config.ftp.data_ports is not None:
            followers = Followers(
                self._around, lambda: [each for each, of in self.sessions.items() if of is entry]
            )
            self._followers.append(followers)
            first, last = config.ftp.data_ports
            factory = EntryPort(entry, self._reactor, followers.begin)
            for number in range(first, last + 1):
                self._listen(config, HostPort(config.listen.host, number), factory)
        self.log.info(
            "entry open: entry={entry} protocol={protocol} listen={listen}",
            entry=config.name,
            protocol=config.protocol,
            listen=str(config.listen),
        )

    def _listen(self, config: ForwardConfig, at: HostPort, factory: EntryPort) -> None:
        port = LegPort(at.host, at.port, factory, self._reactor, transport=WaitingLeg)
        try:
            port.startListening()
        except CannotListenError as error:
            reason = error.socketError.strerror
            words = f'forward "{config.name}".listen: cannot listen on {at}: {reason}'
            self.log.critical("{reason}", reason=words)
            sys.stderr.write(words + "\n")
            raise SystemExit(2) from None
        self._ports.append(port)

    def state(self) -> list[dict[str, Any]]:
        """How each entry is, for operators; the bytes are those of running sessions as well."""
        moved = dict.fromkeys(self.entries, (0, 0))
        for session, entry in self.sessions.items():
            into, out = moved.get(entry.name, (0, 0))
            moved[entry.name] = into + session.bytes_in, out + session.bytes_out
        return [_state(config, self.entries[config.name], moved) for config in self._configs]

    def _forget(self, session: EntrySession) -> None:
        del self.sessions[session]


def _state(
    config: ForwardConfig, entry: Entry, moved: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    into, out = moved[entry.name]
    return {
        "name": entry.name,
        "protocol": entry.protocol,
        "listen": str(config.listen),
        "target": str(config.target or "-"),
        "sessions": entry.sessions.total,
        "opened": entry.tally.opened,
        "refused": entry.tally.refused,
        "bytes_in": entry.tally.bytes_in + into,
        "bytes_out": entry.tally.bytes_out + out,
    }


def _entry(config: ForwardConfig, reactor: Any) -> Entry:
    users = {user.name.encode(): _user(config.name, user) for user in config.users}
    target = config.target
    rules = Destinations(config.destinations)
    if target is not None:
        rules = _OnlyTarget(target)
    protected = config.opens_ftp and config.partner_tls.mode != "off"
    return Entry(
        name=config.name,
        protocol=config.protocol,
        talk=_talk(config, users),
        destinations=rules,
        tls_channel=lambda port: config.tls_channel(port, protected=protected),
        caps=Caps(config.max_sessions, config.max_sessions_per_address),
        users=users,
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


def _talk(config: ForwardConfig, users: Users) -> Callable[[], Talk]:
    if config.protocol == "socks5":
        return lambda: SocksTalk(users, may_bind=config.bind_ports is not None)
    if config.protocol == "http-connect":
        return lambda: ProxyTalk(users)
    target = config.target
    assert target is not None
    speaks: str = config.protocol
    if config.ftp is not None and (config.ftp.implicit or not config.opens_ftp):
        speaks = "ftps"
    return lambda: FixedTalk(target.host, target.port, speaks)


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
    def resolve(host: str) -> Deferred[str]:
        if HostPort(host, 0).literal is not None:
            return succeed(host)
        found: Deferred[str] = reactor.resolve(host)
        return found

    partner = config.partner_tls
    return FTPSettings(
        policy=FTPPolicy(
            control=Use(ftp.tls),
            data=Use(ftp.data_tls),
            implicit=ftp.implicit,
            backend=BackendTLS(partner.mode),
            backend_data=partner.data,
            backend_active=ftp.mode == "active",
            backend_as_client=ftp.mode == "as-client",
            hides_host=True,
        ),
        kind=lambda protected: config.tls_channel(0, protected=protected),
        public=ftp.public_address,
        resolve=resolve,
        ports=ftp.active_ports or _ANY_PORTS,
        peers=(),
        source_port=0,
        resume="prefer",
        lenient=False,
        telnet=ftp.telnet,
    )
