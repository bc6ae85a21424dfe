"""
The way out of an internal node: its entries, what opens them, and what a reload changes.

A listening socket belongs to an address and not to an entry, so that a changed entry keeps the
socket that it has, and one may have what another gives up, without a moment in which nobody listens
there::

    prepare: files are read, nothing is changed -->  use: sockets are opened
                                                          |           |
                                            one cannot be: the      all can: the new
                                            old entry stays         entry has them

A session keeps the entry that it came to, with the settings of that time, until it ends.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from relaygate.addresses import HostPort
from relaygate.admission import Throttle
from relaygate.changes import Changes, compare
from relaygate.clocks import time_of_day
from relaygate.config.forward import ForwardConfig
from relaygate.departures import Departures
from relaygate.entries import Entry
from relaygate.entryfollow import Followers
from relaygate.entrymaking import make_entry, make_users
from relaygate.entryport import EntryPort
from relaygate.entrysession import EntrySession, Surroundings
from relaygate.entrytalk import Users
from relaygate.keeper import Keeper
from relaygate.legport import LegPort, WaitingLeg
from relaygate.legs import Leg
from relaygate.outcome import Cause
from relaygate.piecemeal import piecemeal
from relaygate.pipes import PipeShelf
from relaygate.servicekeys import ServiceFiles, load_service_files
from relaygate.sessionlog import ID_BYTES
from relaygate.wayout import ILink, WayOut

_STOPPING = "the internal node is shutting down"

Made = tuple[Entry, Keeper[ServiceFiles] | None]


@dataclass(frozen=True)
class Prepared:
    """What a reload will do: *made* has what is new, *users* the passwords of what stays."""

    changes: Changes[ForwardConfig]
    made: Mapping[str, Made]
    users: Mapping[str, Users]


class Forwards(MultiService):
    """
    The entries that *configs* describe, through the DMZ nodes that *links* lead to.

    While *draining* says so they take no new sessions.
    """

    log = Logger()

    def __init__(
        self,
        configs: Sequence[ForwardConfig],
        links: Callable[[], Sequence[ILink]],
        shelf: PipeShelf,
        reactor: Any,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._around = Surroundings(
            reactor,
            shelf,
            WayOut(links, reactor.seconds),
            lambda: secrets.token_hex(ID_BYTES),
            Departures(reactor),
            Throttle(reactor.seconds),
            draining,
        )
        self.configs = {config.name: config for config in configs}
        self.entries: dict[str, Entry] = {}
        # In the order in which they came.
        self.sessions: dict[EntrySession, Entry] = {}
        # By name; those of entries that are gone stay, and have transfers that run on.
        self._followers: dict[str, Followers] = {}
        self._ports: dict[HostPort, LegPort] = {}
        self._keepers: dict[str, Keeper[ServiceFiles]] = {}
        # Entries that are gone, or have become others, whose data ports their sessions still use.
        self._leaving: list[tuple[Entry, ForwardConfig]] = []
        for config in configs:
            self._use(config, *self._make(config))

    @property
    def channel_kinds(self) -> set[bool]:
        """The kinds of data channels that sessions may need, clear (False) and TLS (True)."""
        return {kind for config in self.configs.values() for kind in config.channel_kinds}

    # -- entries --------------------------------------------------------------------------------

    def _make(self, config: ForwardConfig) -> Made:
        """The entry of *config*, and what keeps its files.  Raises as :meth:`prepare`."""
        entry = make_entry(config, self._reactor)
        own = (config.tls.certificate, config.tls.key) if config.tls else ()
        ca = config.partner_tls.ca
        paths = tuple(path for path in (*own, ca) if path)
        if not paths:
            return entry, None

        def load(now: datetime) -> ServiceFiles:
            return load_service_files(config.name, own, ca, now=now)

        files = load(datetime.fromtimestamp(time_of_day(self._reactor), UTC))
        entry.use_files(files)
        return entry, Keeper("entry's TLS", files, load, entry.use_files, paths, self._reactor)

    def _use(
        self, config: ForwardConfig, entry: Entry, keeper: Keeper[ServiceFiles] | None
    ) -> None:
        """*entry* is the one of its name from now on."""
        self._drop_keeper(config.name)
        older = self.entries.get(config.name)
        if older is not None:
            entry.take_over(older)
        self.configs[config.name] = config
        self.entries[config.name] = entry
        if keeper is not None:
            self._keepers[config.name] = keeper
            keeper.setServiceParent(self)

    def _drop_keeper(self, name: str) -> None:
        keeper = self._keepers.pop(name, None)
        if keeper is not None:
            keeper.disownServiceParent()

    # -- sockets --------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Open the entries, which may be at low ports."""
        super().privilegedStartService()
        for config in self.configs.values():
            try:
                opened = self._listen(config, _addresses(config))
            except _NotOpened as error:
                words = f'forward "{config.name}".listen: {error}'
                self.log.critical("{reason}", reason=words)
                sys.stderr.write(words + "\n")
                raise SystemExit(2) from None
            self._ports |= opened
            self._join(config)

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        super().startService()
        if not self._ports:
            self.privilegedStartService()

    def stopService(self) -> Any:
        """Close the entries, and end their sessions."""
        for port in self._ports.values():
            port.stopListening()
        self._ports.clear()
        for session in list(self.sessions):
            session.abort(Cause.SHUTDOWN, _STOPPING)
        for followers in self._followers.values():
            followers.stop(_STOPPING)
        return super().stopService()

    def _listen(
        self, config: ForwardConfig, addresses: Sequence[HostPort]
    ) -> dict[HostPort, LegPort]:
        """Open *addresses*, all or none.  Raises :class:`_NotOpened`."""
        opened: dict[HostPort, LegPort] = {}
        # In this turn of the reactor nobody comes, and after it they are somebody's (_join).
        nobody = Factory()
        for at in addresses:
            port = LegPort(at.host, at.port, nobody, self._reactor, transport=WaitingLeg)
            try:
                port.startListening()
            except CannotListenError as error:
                for each in opened.values():
                    each.stopListening()
                reason = error.socketError.strerror
                raise _NotOpened(f"cannot listen on {at}: {reason}") from None
            opened[at] = port
        return opened

    def _join(self, config: ForwardConfig) -> None:
        """What comes to the addresses of *config* is its entry's from now on."""
        entry = self.entries[config.name]

        def begin(leg: Leg) -> None:
            session = EntrySession(entry, leg, self._around, self._forget)
            self.sessions[session] = entry
            session.start()

        control, *data = _addresses(config)
        self._ports[control].factory = EntryPort(entry, self._reactor, begin)
        if data:
            followers = self._followers.setdefault(
                config.name,
                Followers(
                    self._around,
                    lambda: [each for each, of in self.sessions.items() if of.name == config.name],
                ),
            )
            factory = EntryPort(entry, self._reactor, followers.begin, data=True)
            for at in data:
                self._ports[at].factory = factory
        self.log.info(
            "entry open: entry={entry} protocol={protocol} listen={listen}",
            entry=config.name,
            protocol=config.protocol,
            listen=str(config.listen),
        )

    # -- changes --------------------------------------------------------------------------------

    def prepare(self, configs: Sequence[ForwardConfig]) -> Prepared:
        """
        Read what *configs* need from files; nothing is changed yet.

        Raises :class:`relaygate.identity.IdentityError` or :class:`OpenSSL.SSL.Error`.
        """
        changes = compare(self.configs.values(), configs)
        new = {each.name: each for each in (*changes.added, *changes.changed)}
        made = {name: self._make(each) for name, each in new.items()}
        users = {each.name: make_users(each) for each in configs if each.name not in new}
        return Prepared(changes, made, users)

    def use(self, prepared: Prepared) -> list[str]:
        """Make the difference; the answer has a line for each thing that changed, or could not."""
        changes = prepared.changes
        wanted = {each.name: each for each in (*changes.added, *changes.changed)}
        failed: dict[str, str] = {}
        opened: dict[HostPort, LegPort] = {}
        for name, config in wanted.items():
            missing = [at for at in _addresses(config) if at not in self._ports | opened]
            try:
                opened |= self._listen(config, missing)
            except _NotOpened as error:
                failed[name] = str(error)
        gone = {each.name for each in changes.removed}
        self._yield_to_those_that_stay(wanted, gone, failed)
        self._ports |= opened
        for name in gone:
            self._drop_keeper(name)
            self._leaving.append((self.entries.pop(name), self.configs.pop(name)))
        for name, users in prepared.users.items():
            self.entries[name].users = users
        for keeper in self._keepers.values():
            keeper.reload()
        for name, config in wanted.items():
            if name not in failed:
                if name in self.entries:
                    self._leaving.append((self.entries[name], self.configs[name]))
                self._use(config, *prepared.made[name])
                self._join(config)
        self._close_unused()
        for name, reason in failed.items():
            self.log.error("forward {name} stays as it was: {reason}", name=name, reason=reason)
        return changes.lines("forward", failed) + [
            f"forward {name}: stays as it was: {reason}" for name, reason in failed.items()
        ]

    def _yield_to_those_that_stay(
        self, wanted: Mapping[str, ForwardConfig], gone: set[str], failed: dict[str, str]
    ) -> None:
        """What is open belongs to whoever keeps it; who wanted it has failed, and stays as well."""
        while True:
            kept = {
                at: name
                for name, config in self.configs.items()
                if name not in gone and (name not in wanted or name in failed)
                for at in _addresses(config)
            }
            clashes = {
                name: f"{at} is open for forward {kept[at]}"
                for name, config in wanted.items()
                if name not in failed
                for at in _addresses(config)
                if at in kept
            }
            if not clashes:
                return
            failed |= clashes

    def _close_unused(self) -> None:
        """Close what no entry has; data ports not before the last session that may use them."""
        running = list(self.sessions.values())
        self._leaving = [each for each in self._leaving if any(of is each[0] for of in running)]
        used = {at for config in self.configs.values() for at in _addresses(config)}
        used |= {at for _, config in self._leaving for at in _addresses(config)[1:]}
        for at in [each for each in self._ports if each not in used]:
            self._ports.pop(at).stopListening()

    # -- sessions -------------------------------------------------------------------------------

    async def state(self) -> list[dict[str, Any]]:
        """How each entry is, for operators; the bytes are those of running sessions as well."""
        # Of one moment, as the sessions are: one that ends meanwhile is not counted twice.
        moved = {
            name: (entry.tally.bytes_in, entry.tally.bytes_out)
            for name, entry in self.entries.items()
        }
        async for session, entry in piecemeal(self.sessions.items(), self._reactor):
            if entry.name in moved:
                into, out = moved[entry.name]
                moved[entry.name] = into + session.bytes_in, out + session.bytes_out
        return [_state(config, self.entries[name], moved) for name, config in self.configs.items()]

    def _forget(self, session: EntrySession) -> None:
        del self.sessions[session]
        if self._leaving:
            self._close_unused()


class _NotOpened(Exception):
    """A port cannot be opened; the text says which, and why."""


def _addresses(config: ForwardConfig) -> list[HostPort]:
    """Where an entry listens: for programs, and then for their data."""
    addresses = [config.listen]
    if config.ftp is not None and config.ftp.data_ports is not None:
        first, last = config.ftp.data_ports
        addresses += [HostPort(config.listen.host, number) for number in range(first, last + 1)]
    return addresses


def _state(
    config: ForwardConfig, entry: Entry, moved: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    into, out = moved.get(entry.name, (entry.tally.bytes_in, entry.tally.bytes_out))
    return {
        "name": entry.name,
        "protocol": entry.protocol,
        "listen": str(config.listen),
        "target": str(config.target or "-"),
        "sessions": entry.sessions.total,
        "opened": entry.tally.opened,
        "refused": entry.tally.refused,
        "bytes_in": into,
        "bytes_out": out,
    }
