"""
Where operators come in at an internal node: the admin socket, and the dashboard.

A reload changes the dashboard, or makes it, or takes it away. The socket stays as it was: the order
to reload may have come through it::

    prepare: the files are read, nothing is changed -->  use: the old one closes, and then the new
                                                              one opens, with the past of the old
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import maybeDeferred, succeed

from relaygate.admin import AdminCommands, AdminPort
from relaygate.changes import differing
from relaygate.config import DashboardConfig
from relaygate.keeper import DASHBOARD, Keeper
from relaygate.servicekeys import ServiceFiles

if TYPE_CHECKING:
    from relaygate.dashboard import Dashboard

Keepers = dict[str, Keeper[ServiceFiles]]


class OperatorPorts(MultiService):
    """
    The socket at *path* and the dashboard of *config*, as far as the file wants them.

    What keeps the dashboard's certificate is put among the *keepers*, which are told to reload.
    Raises :class:`relaygate.identity.IdentityError` where token or certificate cannot be used.
    """

    def __init__(
        self,
        path: Path | None,
        config: DashboardConfig | None,
        commands: AdminCommands,
        keepers: Keepers,
        reactor: Any,
    ) -> None:
        super().__init__()
        self._commands = commands
        self._keepers = keepers
        self._reactor = reactor
        self.dashboard: Dashboard | None = None
        if path is not None:
            AdminPort(path, commands, reactor).setServiceParent(self)
        board = self.prepare(config)
        if board is not None:
            self._open(board)

    def prepare(self, config: DashboardConfig | None) -> Dashboard | None:
        """The dashboard of *config*.  Raises :class:`relaygate.identity.IdentityError`."""
        if config is None:
            return None
        # With it comes Twisted's web server, and with that its Perspective Broker: a node without a
        # dashboard does not even have them in memory, and starts sooner.
        from relaygate.dashboard import Dashboard

        return Dashboard(config, self._commands, self._reactor)

    def use(self, board: Dashboard | None) -> list[str]:
        """*board* is the dashboard from now on; a line if it is another than the one before."""
        older = self.dashboard
        told = _difference(older, board)
        if not told:
            return []
        closed = succeed(None)
        if older is not None:
            if board is not None:
                board.succeed(older)
            self._forget_keeper()
            if older.parent is not None:
                closed = maybeDeferred(older.disownServiceParent)
        # An address is free again when its old port has closed, which takes a turn.
        self.dashboard = board
        if board is not None:
            closed.addBoth(lambda _: self._open(board) if self.dashboard is board else None)
        return told

    def _open(self, board: Dashboard) -> None:
        self.dashboard = board
        if board.keeper is not None:
            self._keepers[DASHBOARD] = board.keeper
            board.keeper.setServiceParent(self)
        board.setServiceParent(self)

    def _forget_keeper(self) -> None:
        keeper = self._keepers.pop(DASHBOARD, None)
        if keeper is not None and keeper.parent is not None:
            keeper.disownServiceParent()


def _difference(older: Dashboard | None, newer: Dashboard | None) -> list[str]:
    """What a reload tells of it."""
    if older is None or newer is None:
        if older is newer:
            return []
        return [f"dashboard: {'removed' if newer is None else 'added'}"]
    names = [*differing(older.config, newer.config)]
    if older.token != newer.token and "token_file" not in names:
        names.append("token")
    return [f"dashboard: changed ({', '.join(names)})"] if names else []
