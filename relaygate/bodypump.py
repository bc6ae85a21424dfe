"""
Pumps that move a part of a connection's bytes: a message's body, of a length that is known.

Behind the last byte the source is somebody else's again.  Of a TLS record that holds more than the
body's end the rest lies in OpenSSL then, where the reactor does not see it: who goes on with the
source has to look there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from relaygate.pump import CopyPump, IPumpOwner, Pump, SplicePump, can_splice

if TYPE_CHECKING:
    from relaygate.legs import Leg
    from relaygate.pipes import PipeShelf


class IBodyOwner(IPumpOwner, Protocol):
    """What a body's pump tells who has started it."""

    def all_moved(self, source: Leg) -> None:
        """The sink has the body's last byte; the pump is still in the midst of its work."""


class _Part(Pump):
    """What both kinds share: *count* bytes and no more, or all until the end if it is None."""

    _owner: IBodyOwner

    def __init__(self, *args: object, count: int | None) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._count = count
        self._taken = 0

    @property
    def done(self) -> bool:
        """Whether all has been moved."""
        return self.moved == self._count

    def room(self, size: int) -> int:
        """See :class:`relaygate.pump.Pump`."""
        return size if self._count is None else min(size, self._count - self._taken)

    def load(self) -> int:
        """See :class:`relaygate.pump.Pump`."""
        if self._taken == self._count:
            raise BlockingIOError
        count = super().load()  # type: ignore[safe-super]
        self._taken += count
        return count

    def _deliver(self) -> bool:
        done = super()._deliver()
        if done and self.done:
            self.source.stopReading()
            self._owner.all_moved(self.source)
        return done


class _PartCopyPump(_Part, CopyPump):
    """Through user space."""


class _PartSplicePump(_Part, SplicePump):
    """In a kernel pipe."""


BodyPump = _PartCopyPump | _PartSplicePump


def make_body_pump(
    source: Leg, sink: Leg, owner: IBodyOwner, shelf: PipeShelf, count: int | None
) -> BodyPump:
    """The best pump for *count* bytes (None: until the end) between these two legs."""
    if can_splice(source, sink):
        return _PartSplicePump(source, sink, owner, shelf, count=count)
    return _PartCopyPump(source, sink, owner, count=count)
