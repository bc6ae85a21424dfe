"""
The far ends of legs: sockets of the test's own that do what a test says and nothing else.

They are real sockets, run by trial's reactor, since what the kernel does to unread bytes is half of
what there is to test.
"""

from __future__ import annotations

import enum
import functools
import os
import random
import socket
import struct
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

reactor: Final = cast(Any, _reactor)
"""Trial's reactor; Any, since which one it is shows at run time only."""

LOOPBACK: Final = "127.0.0.1"
MB: Final = 1_000_000
PATIENCE_S: Final = 45.0
"""Seconds after which a test that waits has failed."""

_READ_BYTES: Final = 256 * 1024
_CALLS_A_TURN: Final = 16
_RESET: Final = struct.pack("ii", 1, 0)
# tcp_states.h: what a reset leaves; an end leaves CLOSE_WAIT or LAST_ACK.
_TCP_CLOSE: Final = 7


@functools.lru_cache(maxsize=16)
def payload(size: int, seed: int = 0) -> bytes:
    """Bytes in which a lost, doubled or misplaced part shows; the same for the same arguments."""
    return random.Random(seed).randbytes(size)


async def until(condition: Callable[[], object], what: str) -> None:
    """
    Let the reactor work until *condition* is true.

    Raises :class:`AssertionError` that names *what* was awaited after :data:`PATIENCE_S`.
    """
    deadline = reactor.seconds() + PATIENCE_S
    while not condition():
        if reactor.seconds() > deadline:
            raise AssertionError(f"in {PATIENCE_S:.0f} s it did not come to this: {what}")
        await deferLater(reactor, 0)


async def unchanged(value: Callable[[], int], seconds: float = 0.25) -> int:
    """Let the reactor work until *value* has stayed the same for some seconds; returns it."""
    deadline = reactor.seconds() + PATIENCE_S
    last = value()
    since = reactor.seconds()
    while reactor.seconds() - since < seconds:
        if reactor.seconds() > deadline:
            raise AssertionError("it never came to rest")
        await deferLater(reactor, 0.01)
        if value() != last:
            last = value()
            since = reactor.seconds()
    return last


async def fails(awaitable: Awaitable[object], kind: type[Exception]) -> Exception:
    """Await what must raise a *kind* of exception, and return that."""
    try:
        result = await awaitable
    except kind as error:
        return error
    raise AssertionError(f"{result!r} came where {kind.__name__} was due")


def open_descriptors() -> dict[str, str]:
    """This process's descriptors and what each of them is."""
    found = {}
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found[descriptor] = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            # The one that listed them.
            continue
    return found


class Ending(enum.Enum):
    """How a peer saw its incoming stream end."""

    END = "an orderly end: FIN, or close_notify under TLS"
    CUT = "a TLS stream without close_notify"
    RESET = "a reset"


@implementer(IReadWriteDescriptor)
class Peer:
    """
    The far end of a leg: a socket of the test's own, in clear or under TLS.

    It reads all the time unless it is paused.  What came is kept in ``received``, or, with ``keep``
    False, only counted and summed up (``count``, ``crc``).
    """

    def __init__(self, skt: socket.socket, connection: SSL.Connection | None = None) -> None:
        skt.setblocking(False)
        self.socket = skt
        self.keep = True
        self.received = bytearray()
        self.count = 0
        self.crc = 0
        self.sent = 0
        self.ending: Ending | None = None
        self.closed = False
        self._tls = connection
        self._queue: deque[memoryview] = deque()
        self._finishing = False
        self._shaking = connection is not None
        reactor.addReader(self)
        if self._shaking:
            reactor.addWriter(self)

    # -- what a test says -----------------------------------------------------------------------

    def send(self, data: bytes, times: int = 1) -> None:
        """Send *data*, *times* over, as fast as it is taken."""
        self._queue.extend([memoryview(data)] * times)
        reactor.addWriter(self)

    def finish(self) -> None:
        """End the outgoing stream, in order, behind what is still to be sent."""
        self._finishing = True
        reactor.addWriter(self)

    def cut(self) -> None:
        """Send FIN, and nothing of TLS before it."""
        self.socket.shutdown(socket.SHUT_WR)

    def pause(self) -> None:
        """Read nothing for now."""
        reactor.removeReader(self)

    def resume(self) -> None:
        """Read again."""
        reactor.addReader(self)

    def reset(self) -> None:
        """Throw the connection away, so that the kernel sends a reset."""
        if not self.closed:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """Close the socket."""
        if not self.closed:
            self.closed = True
            self._queue.clear()
            reactor.removeReader(self)
            reactor.removeWriter(self)
            self._tls = None
            self.socket.close()

    async def has(self, count: int) -> None:
        """Wait until *count* bytes have come in all."""
        await until(lambda: self.count >= count or self.ending, f"{count} bytes at a peer")
        if self.count < count:
            raise AssertionError(f"{self.ending} after {self.count} bytes of {count}")

    async def ended(self) -> Ending:
        """Wait for the end of the incoming stream."""
        await until(lambda: self.ending, "the end of a peer's incoming stream")
        assert self.ending is not None
        return self.ending

    async def is_reset(self) -> None:
        """Wait for a reset, though the incoming stream may have ended in order before it."""
        await until(lambda: self.ending is Ending.RESET, "a reset")

    async def has_more(self) -> None:
        """Wait until more has come than now, or the end."""
        before = self.count
        await until(lambda: self.count > before or self.ending, "more bytes at a peer")

    async def emptied(self) -> None:
        """Wait until the kernel has taken all that was to be sent, and the end if there is one."""
        await until(lambda: not (self._queue or self._finishing), "a peer's bytes all sent")

    async def got(self, expected: bytes) -> None:
        """Wait for the end, which must be an orderly one after exactly the *expected* bytes."""
        ending = await self.ended()
        if self.received != expected:
            size = min(len(expected), len(self.received))
            same = next((i for i in range(size) if self.received[i] != expected[i]), size)
            raise AssertionError(
                f"{self.count} bytes came, {len(expected)} were due, the first {same} are right;"
                f" then {ending}"
            )
        if ending is not Ending.END:
            raise AssertionError(f"all bytes came, and then {ending}")

    # -- what the reactor calls -----------------------------------------------------------------

    def fileno(self) -> int:
        return self.socket.fileno()

    def logPrefix(self) -> str:
        return "peer"

    def doRead(self) -> None:
        if self._shaking:
            self._shake()
        for _ in range(_CALLS_A_TURN):
            if self.closed or self.ending or self._shaking:
                return
            try:
                data = self._tls.recv(_READ_BYTES) if self._tls else self.socket.recv(_READ_BYTES)
            except (BlockingIOError, SSL.WantReadError, SSL.WantWriteError):
                return
            except SSL.ZeroReturnError:
                data = b""
            except (OSError, SSL.Error):
                self._broken()
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        if not data:
            self.ending = Ending.END
            reactor.removeReader(self)
            return
        self.count += len(data)
        self.crc = zlib.crc32(data, self.crc)
        if self.keep:
            self.received += data

    def doWrite(self) -> None:
        if self._shaking:
            self._shake()
        if self.closed or self._shaking:
            return
        try:
            for _ in range(_CALLS_A_TURN):
                if not self._queue:
                    break
                self._send_some()
            if not self._queue:
                if self._finishing:
                    self._end()
                reactor.removeWriter(self)
        except (BlockingIOError, SSL.WantReadError, SSL.WantWriteError):
            return
        except (OSError, SSL.Error):
            self._broken()

    def _send_some(self) -> None:
        chunk = self._queue[0]
        if not chunk:
            self._queue.popleft()
            return
        count = self._tls.send(chunk[:_READ_BYTES]) if self._tls else self.socket.send(chunk)
        self.sent += count
        if count == len(chunk):
            self._queue.popleft()
        else:
            self._queue[0] = chunk[count:]

    def _end(self) -> None:
        if self._tls:
            self._tls.shutdown()
        else:
            self.socket.shutdown(socket.SHUT_WR)
        self._finishing = False

    def _shake(self) -> None:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except (SSL.WantReadError, SSL.WantWriteError):
            reactor.removeWriter(self)
        except (OSError, SSL.Error):
            self._broken()
        else:
            self._shaking = False
            reactor.addWriter(self)

    def _broken(self) -> None:
        # A reset is told once, by whichever call comes first: nothing after it is believed.  And
        # OpenSSL now and then takes one for an end, so that the kernel is asked.
        state = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        self.ending = Ending.RESET if state == _TCP_CLOSE else Ending.CUT
        self._queue.clear()
        self._finishing = False
        reactor.removeReader(self)
        reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        if not self.closed:
            self._broken()
