"""The door of an entry: who is let in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from relaygate.admission import Throttle
from relaygate.entries import Entry
from relaygate.legport import Accepted
from relaygate.legs import Leg


class EntryPort(Factory):
    """
    The factory of an entry's listening socket: lets programs in.

    *begin* starts the session of a leg, which is not read; at a port for *data* it is a connection
    of a session that there is already.
    """

    noisy = False
    log = Logger()

    def __init__(
        self, entry: Entry, reactor: Any, begin: Callable[[Leg], None], *, data: bool = False
    ) -> None:
        self._entry = entry
        self._data = data
        self._begin = begin
        self._dropped = Throttle(reactor.seconds)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        address = str(getattr(addr, "host", addr))
        entry = self._entry
        if not entry.admits(address):
            self._note_drop(address, "its address is not among those allowed")
        elif self._data:
            return Accepted(self._begin)
        elif not entry.sessions.has_room(address):
            self._note_drop(address, "too many sessions")
        elif not entry.has_room_for_pending(address):
            self._note_drop(address, "too many have not said what they want")
        else:
            return Accepted(self._begin)
        return None

    def _note_drop(self, address: str, reason: str) -> None:
        if self._dropped.passes():
            self.log.warn(
                "connection dropped: entry={entry} client={client} reason={reason!r}"
                " not_logged={not_logged}",
                entry=self._entry.name,
                client=address,
                reason=reason,
                not_logged=self._dropped.take_suppressed(),
            )
