"""The entries of an internal node: what is known of each, and who may come to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from relaygate.addresses import HostPort
from relaygate.admission import Caps, Counted, Tally
from relaygate.destinations import Destinations
from relaygate.entrytalk import Talk, Users
from relaygate.ftpsettings import FTPSettings
from relaygate.networks import literal_of
from relaygate.outcome import Cause
from relaygate.servicekeys import ServiceFiles, ServiceKey
from relaygate.servicetls import BackendTLS

# Programs that have not said yet what they want: those of one address, and all of them.
MAX_PENDING = 512
MAX_ALL_PENDING = 2048


class IPending(Protocol):
    """Who has come to an entry, and has not said what it wants."""

    def abort(self, cause: Cause, detail: str) -> None:
        """End it now."""


@dataclass
class Entry:
    """
    One entry, as its sessions need it.

    *talk* makes a talk for one connection, with the users; *tls_channel* says which kind of channel
    carries a connection to a port.  *users* may go where they or the entry may; *allow* are the
    networks that may come, none for all.  *bind_ports* and *bind_address* (by gateway) are there
    where programs may have a port opened, *ftp* where FTP is understood.
    """

    name: str
    protocol: str
    talk: Callable[[Users], Talk]
    destinations: Destinations
    tls_channel: Callable[[int], bool]
    caps: Caps
    users: Users = field(default_factory=dict)
    allow: Sequence[IPv4Network | IPv6Network] = ()
    idle_timeout_s: float | None = None
    bind_ports: tuple[int, int] | None = None
    bind_address: Callable[[str], str | None] = lambda _: None
    may_have_data: bool = False
    ftp: FTPSettings | None = None
    partner_name: str | None = None
    key: ServiceKey | None = None
    partner_tls: BackendTLS | None = None

    def __post_init__(self) -> None:
        self.sessions = Counted(self.caps)
        self.pending = Counted(Caps(0, MAX_PENDING))
        # The same, as they came; they are no sessions that the caps are about.
        self.waiting: dict[IPending, None] = {}
        self.tally = Tally()

    def use_files(self, files: ServiceFiles) -> None:
        """New sessions use *files*.  Raises :class:`OpenSSL.SSL.Error`."""
        partner_tls = None
        if files.authorities:
            partner_tls = BackendTLS(files.authorities, self.partner_name)
        self.key, self.partner_tls = files.key, partner_tls

    def take_over(self, older: Entry) -> None:
        """Count on where *older*, whose place this one takes, has come to."""
        self.sessions, self.pending, self.tally = older.sessions, older.pending, older.tally
        self.waiting = older.waiting
        self.sessions.caps = self.caps

    def admits(self, address: str) -> bool:
        """Whether who comes from *address* may come at all."""
        if not self.allow:
            return True
        literal = literal_of(address)
        return any(literal in network for network in self.allow)

    def has_room_for_pending(self, address: str) -> bool:
        """
        Whether one more from *address* may take its time to say what it wants.

        Where there is no room for any, the one goes that has been there longest.
        """
        if not self.pending.has_room(address):
            return False
        if len(self.waiting) >= MAX_ALL_PENDING:
            oldest = next(iter(self.waiting))
            oldest.abort(Cause.POLICY, "has said nothing, and too many others have come")
        return True

    def allows(self, user: str, wanted: HostPort, *, binds: bool) -> bool:
        """Whether *user* ("" where nobody is named) may go to *wanted*."""
        found = self.users.get(user.encode())
        rules = self.destinations
        if found is not None and found.destinations is not None:
            rules = found.destinations
        return rules.name_host(wanted.host) if binds else rules.names(wanted)
