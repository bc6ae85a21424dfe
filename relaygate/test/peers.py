"""
Plain TCP peers for end-to-end tests: sockets of the test's own process, in any of the places.

A socket stays in the network namespace that it was made in. So a test enters a namespace for the
moment of making one, and holds clients and servers of different places in its own hands. They
block: every one has a time limit, and what takes long runs in a thread (:func:`in_thread`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import ssl
import struct
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, ParamSpec, TypeVar

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relaygate.test.programs import Where, pause

T = TypeVar("T")
P = ParamSpec("P")
Handler = Callable[[socket.socket], object]

# What is waited for comes in milliseconds; a machine that is busy may take long to notice.
PATIENCE_S: Final = 60.0
# See AtOnce. No limit of a node's that a test waits for by mistake is as short as the first.
AT_ONCE_S: Final = 2.0
LATE_S: Final = 12.0
# What a handler may meet when its client has gone, in whatever way.
GONE: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT})
_CLONE_NEWNET: Final = 0x40000000
_POLL_S: Final = 0.02
_libc = ctypes.CDLL(None, use_errno=True)


def make_socket(where: Where, family: int = socket.AF_INET) -> socket.socket:
    """Make a TCP socket in a place; its waits end after :data:`PATIENCE_S` seconds."""
    network, place = where
    name = network.ns_argv(place, [])[-1]
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        enter(there)
        try:
            made = socket.socket(family, socket.SOCK_STREAM)
        finally:
            enter(home)
    finally:
        os.close(home)
        os.close(there)
    made.settimeout(PATIENCE_S)
    return made


def enter(namespace: int) -> None:
    """Let this thread make its sockets in the network namespace of an open file from now on."""
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def dial(where: Where, host: str, port: int) -> socket.socket:
    """Connect from a place; raises ``OSError``."""
    client = make_socket(where)
    try:
        client.connect((host, port))
    except OSError:
        client.close()
        raise
    return client


def read_to_end(peer: socket.socket) -> bytes:
    """Return all that comes until the stream ends; raises ``OSError`` if it breaks instead."""
    pieces = []
    while piece := peer.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def read_exactly(peer: socket.socket, count: int) -> bytes:
    """Return the next *count* bytes; fewer only if the stream ends."""
    data = bytearray()
    while len(data) < count and (piece := peer.recv(count - len(data))):
        data += piece
    return bytes(data)


def reset(peer: socket.socket) -> None:
    """Close with a reset in place of an orderly end."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def says(peer: socket.socket, data: bytes) -> bool:
    """Send *data* to an echo and tell whether the very same bytes came back."""
    peer.sendall(data)
    return read_exactly(peer, len(data)) == data


def tcp_state(peer: socket.socket) -> str:
    """
    What the kernel says of a connection that has ended, for a test that fails by it: whether its
    other end has closed (CLOSE_WAIT) or this process itself (FIN_WAIT); see tcp(7), TCP_INFO.
    """
    number = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    names = {1: "ESTABLISHED", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 7: "CLOSE", 8: "CLOSE_WAIT"}
    return names.get(number, str(number))


def echo(peer: socket.socket) -> None:
    """Serve a connection: everything comes back, and the end as well."""
    while data := peer.recv(1 << 16):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)


def join(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes between two sockets, both ways, until one of them ends; then end both."""

    def carry(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass  # the other direction says how it ended
        for peer in (source, sink):
            try:
                peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended already

    back = threading.Thread(target=carry, args=[other, one], daemon=True)
    back.start()
    carry(one, other)
    back.join()
    other.close()


def announce(name: bytes) -> Handler:
    """Return a handler that says which server it is, on a line of its own, and then echoes."""

    def handler(peer: socket.socket) -> None:
        peer.sendall(name + b"\n")
        echo(peer)

    return handler


class Server:
    """
    Listens on *address* and *port* in a place, and serves each connection in a thread.

    The connection is closed after the *handler*, which may find that its client has gone
    (:data:`GONE`): *gone* has how. Whatever else it raises fails the test: a server that closes for
    a reason of its own looks like one that was told to. Without a handler connections are accepted
    and kept, in silence. All ends with the test, or by :meth:`close`.
    """

    def __init__(
        self,
        case: TestCase,
        where: Where,
        address: str,
        port: int,
        handler: Handler | None,
    ) -> None:
        self.accepted: list[socket.socket] = []
        self.troubles: list[str] = []
        self.gone: list[str] = []
        self._handler = handler
        self._closing = False
        self._listener = make_socket(where)
        self._listener.settimeout(None)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((address, port))
        self._listener.listen(1024)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        case.addCleanup(self.close)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                if not self._closing:
                    self._note("accepting")
                return
            self.accepted.append(peer)
            if self._handler is not None:
                threading.Thread(target=self._serve, args=[peer], daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        assert self._handler is not None
        try:
            with peer:
                self._handler(peer)
        except OSError as error:
            # How a session ended is told by its other end, and how TLS did, too.
            if error.errno in GONE or isinstance(error, ssl.SSLError):
                self.gone.append(str(error))
            else:
                self._note("a handler")
        except Exception:  # noqa: BLE001 - told when the test is over
            self._note("a handler")

    def _note(self, where: str) -> None:
        self.troubles.append(f"{where}: {traceback.format_exc()}")

    def close(self) -> None:
        """
        Listen no more, and end every connection with a reset.

        Raises ``AssertionError`` with what handlers have raised, if it was not that a client had
        gone.
        """
        troubles, self.troubles = self.troubles, []
        self._closing = True
        if self._thread.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join(PATIENCE_S)
        self._listener.close()
        for peer in self.accepted:
            if peer.fileno() >= 0:
                try:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    peer.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it ended in this very moment
                if self._handler is None:
                    peer.close()
        self.accepted.clear()
        if troubles:
            raise AssertionError("\n".join(["a test's own server failed:", *troubles]))


class Conversation:
    """A process in a place that is spoken with through pipes, within time limits."""

    def __init__(self, where: Where, argv: Sequence[str]) -> None:
        network, place = where
        self._process: subprocess.Popen[bytes] = network.popen(place, argv)
        self._unread = b""

    def say(self, words: bytes) -> None:
        """Send *words* now."""
        assert self._process.stdin is not None
        self._process.stdin.write(words)
        self._process.stdin.flush()

    def hear(self, words: bytes, within_s: float = PATIENCE_S) -> None:
        """Wait until *words* have come; raises ``AssertionError``."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + within_s
        while words not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise AssertionError(f"{words!r} is not in {self._unread!r}")
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                raise AssertionError(f"ended after {self._unread!r}, without {words!r}")
            self._unread += piece
        self._unread = self._unread.partition(words)[2]

    def end(self, within_s: float = PATIENCE_S) -> int:
        """End its input, and wait for its status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(within_s)


class AtOnce:
    """
    Times what is to happen at once, again and again::

        with at_once.timed():
            ...

    One time may fall into a moment in which the machine does something else, so each may take
    :data:`LATE_S`; but a limit that is waited for by mistake is so each time: the median tells.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time the block, if it does not raise."""
        began = time.monotonic()
        yield
        self.seconds.append(time.monotonic() - began)

    def check(self, *, after_s: float = 0.0) -> None:
        """Raise ``AssertionError`` if it was not at once, or at once after a limit of *after_s*."""
        assert self.seconds, "nothing was timed"
        if max(self.seconds) > after_s + LATE_S or median(self.seconds) > after_s + AT_ONCE_S:
            told = ", ".join(f"{took:.1f}" for took in self.seconds)
            raise AssertionError(f"not at once, but after so many seconds: {told}")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run *work*, which blocks, beside the reactor, and return what it returns."""
    result: Any = await deferToThread(work, *args, **kwargs)
    answer: T = result
    return answer


async def eventually(
    condition: Callable[[], bool], what: str, within_s: float = PATIENCE_S
) -> float:
    """
    Wait until *condition* holds and return how many seconds that took.

    Raises ``AssertionError`` that says *what* did not come true in *within_s* seconds.
    """
    began = os.times().elapsed
    while not condition():
        if os.times().elapsed - began > within_s:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await pause(_POLL_S)
    return os.times().elapsed - began


def listening(pid: int) -> set[tuple[str, int]]:
    """Return address and port of every TCP socket that listens in the namespace of a process."""
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == "0A":
            host, port = local.split(":")
            packed = struct.pack("=I", int(host, 16))
            found.add((socket.inet_ntoa(packed), int(port, 16)))
    return found
