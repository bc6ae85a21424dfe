"""
A pump moves bytes one way, from its source leg to its sink leg.

It is driven by the reactor through the legs.  In its one loop it takes a load from the source and
hands it to the sink at once, until the source has no more or a turn's share is used up.  When the
sink takes only a part, the pump holds the rest, stops reading the source (so TCP slows its sender
down) and waits for the sink: it never holds more than one load, whatever the sender does::

                        the sink took all of it
                 +------------------------------------+
                 v                                    |
    source ---> FLOWING --- the sink took a part ---> HOLDING ---> sink
                 |
                 +--- end of the source: the relay is told, nothing is held

There are two ways to carry a load: in a kernel pipe (``splice``, both legs clear, Linux), or
through one buffer that all pumps of the process share, which is enough because a load never
outlives the call unless it is held.  A pipe saves nothing for a few kilobytes, and has to be lent
and given back, so a pump takes one only while its loads are big.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from twisted.internet import main
from twisted.python.failure import Failure

from relaygate.pipes import Pipe, PipeShelf

if TYPE_CHECKING:
    from relaygate.legs import Leg

# After this much a pump lets the reactor serve the others: more gains nothing, and an exchange
# of small messages beside a bulk flow waits for it (4 MiB under TLS: 50 to 90 ms a round trip).
TURN_BYTES = 512 * 1024
# A load of fewer bytes was all that the source had.
SMALL_LOAD = 4096
# A pipe carries the next load if the last one had this many bytes.
SPLICE_FROM = 16 * 1024
# A load that may yet have to be carried on in user space, held for as long as its sink is full.
COPY_BYTES = 64 * 1024
# A flow is a big one after this many bytes.
SUSTAINED_BYTES = 1024 * 1024

_SPLICE = getattr(os, "splice", None)
_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 0) | getattr(os, "SPLICE_F_MOVE", 0)


class IPumpOwner(Protocol):
    """What a pump tells the relay that it belongs to."""

    def sink_broken(self, sink: Leg) -> None:
        """*sink* takes no more bytes: its connection is broken."""

    def load_held(self) -> None:
        """A sink is full, and bytes wait for it."""


class Pump(ABC):
    """
    What both kinds share: when to read, when to hold, and how to say that an end was reached.

    The owner is told of a broken sink and of a load that is held.  The end of the source is told by
    the source itself, through Twisted's ``readConnectionLost`` and ``connectionLost``.
    """

    def __init__(self, source: Leg, sink: Leg, owner: IPumpOwner) -> None:
        self.source = source
        self.sink = sink
        self.moved = 0
        self.holding = False
        self._owner = owner

    def start(self) -> None:
        """Begin; what a protocol has written to the sink before goes out first."""
        self.source.inbound = self
        self.sink.outbound = self
        if self.sink.unsent:
            self._hold()
        else:
            self.source.startReading()

    def stop(self) -> None:
        """Let go of both legs, and of what is held."""
        self.source.inbound = None
        self.sink.outbound = None
        self.drop()

    def readable(self) -> Exception | None:
        """The source has bytes, or has ended."""
        if self.holding:
            # The reactor had seen that in the same turn in which the sink was found to be full.
            return None
        turn = self.moved + TURN_BYTES
        while self.moved < turn:
            try:
                count = self.load()
            except BlockingIOError:
                return None
            except OSError:
                return main.CONNECTION_LOST
            if count == 0:
                return main.CONNECTION_DONE
            if not self._deliver():
                return None
            if count < SMALL_LOAD and not self.source.end_behind:
                # That was all, most likely; if not, the reactor will say so.
                return None
        return main.CONNECTION_DONE if self.source.end_behind else None

    def writable(self) -> Exception | None:
        """The sink has room again."""
        if self._deliver():
            self.sink.stopWriting()
            if self.holding:
                self.holding = False
                if self.source.end_behind:
                    # The reactor sees nothing of it: this is what it would have done.
                    self.source.readConnectionLost(Failure(main.CONNECTION_DONE))
                else:
                    self.source.startReading()
        return None

    def _hold(self) -> None:
        self.holding = True
        self.source.stopReading()
        self.sink.startWriting()
        self._owner.load_held()

    def _deliver(self) -> bool:
        """Hand the load to the sink; whether that took all of it."""
        try:
            done = self.unload()
        except OSError:
            self._owner.sink_broken(self.sink)
            return False
        if not done and not self.holding:
            self._hold()
        return done

    def room(self, size: int) -> int:
        """How many bytes the next load may have where there is room for *size*."""
        return size

    @abstractmethod
    def load(self) -> int:
        """Take a load (bytes) from the source: as :meth:`Leg.receive_into`."""

    @abstractmethod
    def unload(self) -> bool:
        """Give the sink what it takes; whether nothing is left.  Raises :class:`OSError`."""

    @abstractmethod
    def drop(self) -> None:
        """Forget the load."""


class CopyPump(Pump):
    """Carries loads through user space: for TLS, and where there is no ``splice(2)``."""

    # One turn's load, a whole number of TLS records.
    _buffer = memoryview(bytearray(256 * 1024))

    def __init__(self, source: Leg, sink: Leg, owner: IPumpOwner) -> None:
        super().__init__(source, sink, owner)
        self._load: memoryview = self._buffer[:0]

    def load(self) -> int:
        """See :class:`Pump`."""
        count = self.source.receive_into(self._buffer[: self.room(len(self._buffer))])
        self._load = self._buffer[:count]
        return count

    def unload(self) -> bool:
        """See :class:`Pump`."""
        while self._load:
            try:
                count = self.sink.send_some(self._load)
            except BlockingIOError:
                if self._load.obj is self._buffer.obj:
                    # Other pumps use the shared buffer next: what is held is copied out of it.
                    self._load = memoryview(bytes(self._load))
                return False
            self._load = self._load[count:]
            self.moved += count
        return True

    def drop(self) -> None:
        """See :class:`Pump`."""
        self._load = self._buffer[:0]


class SplicePump(CopyPump):
    """
    Carries big loads in a kernel pipe: both legs are clear, and the kernel has ``splice(2)``.

    Small loads are copied, and so are all where no pipe is to be had because the process has no
    descriptors left.
    """

    _buffer = CopyPump._buffer[:COPY_BYTES]

    def __init__(self, source: Leg, sink: Leg, owner: IPumpOwner, shelf: PipeShelf) -> None:
        super().__init__(source, sink, owner)
        self._shelf = shelf
        self._pipe: Pipe | None = None
        self._loaded = 0
        self._last_load = 0

    def load(self) -> int:
        """See :class:`Pump`."""
        self._last_load = self._load_pipe() if self._last_load >= SPLICE_FROM else super().load()
        return self._last_load

    def _load_pipe(self) -> int:
        try:
            self._pipe = self._shelf.lend(big=self.moved > SUSTAINED_BYTES)
        except OSError:
            return super().load()
        try:
            most = self.room(self._pipe.capacity)
            self._loaded = _splice(self.source.fileno(), self._pipe.writer, most)
        except BlockingIOError:
            pass
        finally:
            if not self._loaded:
                self._give_back()
        # At a mark of urgent data (RFC 6093) splice says that there is nothing, and even that the
        # stream has ended: only a receive knows.
        return self._loaded or super().load()

    def unload(self) -> bool:
        """See :class:`Pump`."""
        if self._pipe is None:
            return super().unload()
        while self._loaded:
            try:
                count = _splice(self._pipe.reader, self.sink.fileno(), self._loaded)
            except BlockingIOError:
                return False
            self._loaded -= count
            self.moved += count
        self._give_back()
        return True

    def drop(self) -> None:
        """See :class:`Pump`."""
        super().drop()
        self._give_back()

    def _give_back(self) -> None:
        if self._pipe is not None:
            self._shelf.take_back(self._pipe, empty=not self._loaded)
            self._pipe = None
            self._loaded = 0


def _splice(source: int, sink: int, count: int) -> int:
    assert _SPLICE is not None
    moved: int = _SPLICE(source, sink, count, flags=_FLAGS)
    return moved


def make_pump(source: Leg, sink: Leg, owner: IPumpOwner, shelf: PipeShelf) -> Pump:
    """The best pump for these two legs."""
    if can_splice(source, sink):
        return SplicePump(source, sink, owner, shelf)
    return CopyPump(source, sink, owner)


def can_splice(source: Leg, sink: Leg) -> bool:
    """Whether bytes between these legs may stay in the kernel."""
    return _SPLICE is not None and source.tls is None and sink.tls is None
