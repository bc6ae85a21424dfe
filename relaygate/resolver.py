"""
Names to addresses, once for each connection that is made.

The system's resolver blocks, so each name has a thread; and a name whose servers are silent holds
its thread for as long as the system tries, whoever has stopped waiting.  So threads are shared out:
nobody may hold more than are left, and of one zone's names no node more than half as many.  Then a
node that asks for names that nobody answers (or a partner whose servers do not) keeps half of the
threads or a third of them, the next one half of the rest, and there is always one for a newcomer.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError

# Addresses of one name that are looked at; a name with more is an attempt to keep us busy.
MAX_ADDRESSES = 16
# Names that are looked up at once.
MAX_LOOKUPS = 64
# linux/netlink.h and linux/rtnetlink.h
_HEAD_BYTES = 16
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_RTM_GETROUTE = 26
_RTA_DST = 1
_RTN_UNICAST = 1


class NotResolved(Exception):
    """There is no address of that name, or none was found in time."""


def look_up(name: str) -> list[str]:
    """The addresses (literals, of both families) of *name*; blocks.  Raises :class:`OSError`."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class _Lookup:
    """One name that *node* wants to know, and those who wait for it."""

    def __init__(self, node: str, name: str) -> None:
        self.node = node
        self.name = name
        # Who has one domain has all names below it: what they hold counts together.
        self.zone = ".".join(name.split(".")[-2:])
        self.running = False
        self.waiters: list[Deferred[Sequence[str]]] = []


class Lookups:
    """All names that are looked up now; *look* does it, in a thread."""

    def __init__(self, reactor: Any, look: Callable[[str], Sequence[str]] = look_up) -> None:
        self._reactor = reactor
        self._look = look
        self._all: dict[tuple[str, str], _Lookup] = {}
        self._running = 0
        self._held: Counter[tuple[str, ...]] = Counter()

    def __len__(self) -> int:
        return len(self._all)

    async def resolve(self, name: str, limit_s: float, node: str) -> Sequence[str]:
        """
        The addresses (literals, of both families) of *name*, which is a DNS name, for *node*.

        Raises :class:`NotResolved` after *limit_s* seconds at most.
        """
        lookup = self._all.get((node, name))
        if lookup is None:
            lookup = self._all[node, name] = _Lookup(node, name)
        waiter: Deferred[Sequence[str]] = Deferred()
        lookup.waiters.append(waiter)
        self._begin()
        try:
            found = await waiter.addTimeout(limit_s, self._reactor)
        except TimeoutError:
            raise NotResolved(f"{name!r} was not resolved in {limit_s:g} s") from None
        finally:
            lookup.waiters.remove(waiter)
            # Another one may have its place already.
            unwanted = not (lookup.running or lookup.waiters)
            if unwanted and self._all.get((node, name)) is lookup:
                del self._all[node, name]
        if not found:
            raise NotResolved(f"there is no address of {name!r}")
        return found

    def _begin(self) -> None:
        """Begin with those that wait for a thread and may have one."""
        for lookup in [each for each in self._all.values() if not each.running]:
            left = MAX_LOOKUPS - self._running
            of_zone = self._held[lookup.node, lookup.zone]
            if self._held[lookup.node,] < left and 2 * of_zone < left:
                self._run(lookup)

    def _run(self, lookup: _Lookup) -> None:
        self._count(lookup, 1)

        def work() -> None:
            try:
                found = list(dict.fromkeys(self._look(lookup.name)))[:MAX_ADDRESSES]
            except Exception:  # noqa: BLE001 - whatever it says, there is no address
                found = []
            self._reactor.callFromThread(self._done, lookup, found)

        # The end of the process waits for none of them.
        thread = threading.Thread(target=work, name="relaygate-name", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The system has no more threads for us.
            self._reactor.callLater(0, self._done, lookup, [])

    def _done(self, lookup: _Lookup, found: list[str]) -> None:
        self._count(lookup, -1)
        del self._all[lookup.node, lookup.name]
        for waiter in list(lookup.waiters):
            if not waiter.called:
                waiter.callback(found)
        self._begin()

    def _count(self, lookup: _Lookup, change: int) -> None:
        lookup.running = change > 0
        self._running += change
        for key in ((lookup.node,), (lookup.node, lookup.zone)):
            self._held[key] += change
            if not self._held[key]:
                del self._held[key]


def source_towards(address: str) -> str | None:
    """
    The address of this machine from which it would reach *address* (a literal); None without a way.

    No packet goes out.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as skt:
        try:
            skt.connect((address, 9))
            return str(skt.getsockname()[0])
        except OSError:
            return None


class RoutingTable:
    """
    The kernel's own table of routes, which is asked by netlink (rtnetlink(7)).

    One socket serves all questions: to open one for each costs more than the question.  Nothing of
    what it answers is kept, since a machine's addresses change.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._number = 0

    def is_own(self, address: str) -> bool:
        """
        Whether *address*, a literal, is one of this machine's, as the kernel would route to it.

        Its other answers differ with a machine's second addresses.  What it does not answer counts
        as an own one.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            packed = socket.inet_pton(family, address)
            attribute = struct.pack("=HH", 4 + len(packed), _RTA_DST) + packed
            body = struct.pack("=8BI", family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + attribute
            answer = self._ask(_RTM_GETROUTE, body)
        except OSError:
            # Whatever is wrong with it, the next one asks by another.
            self.close()
            return True
        (kind,) = struct.unpack_from("=H", answer, 4)
        if kind == _NLMSG_ERROR:
            # There is no way to it: nor is it here.
            return False
        return answer[_HEAD_BYTES + 7] != _RTN_UNICAST

    def _ask(self, question: int, body: bytes) -> bytes:
        """The kernel's answer, which is there when the question has gone out."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._socket.setblocking(False)
        self._number = self._number % 0xFFFF_FFFF + 1
        size = _HEAD_BYTES + len(body)
        self._socket.send(
            struct.pack("=IHHII", size, question, _NLM_F_REQUEST, self._number, 0) + body
        )
        while True:
            answer = self._socket.recv(65536)
            # One that came too late for another question is none to this one.
            if struct.unpack_from("=I", answer, 8) == (self._number,):
                return answer

    def close(self) -> None:
        """Close the socket; a later question opens another one."""
        skt, self._socket = self._socket, None
        if skt is not None:
            skt.close()
