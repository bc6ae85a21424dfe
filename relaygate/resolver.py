"""Names to addresses, once for each connection that is made."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from zope.interface import implementer

# Addresses of one name that are looked at; a name with more is an attempt to keep us busy.
MAX_ADDRESSES = 16
# linux/netlink.h and linux/rtnetlink.h
_HEAD_BYTES = 16
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_RTM_GETROUTE = 26
_RTA_DST = 1
_RTN_UNICAST = 1


class NotResolved(Exception):
    """There is no address of that name, or none was found in time."""


@implementer(IResolutionReceiver)
class _Receiver:
    """Collects what the reactor's resolver finds."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self.done: Deferred[list[str]] = Deferred()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """See :class:`twisted.internet.interfaces.IResolutionReceiver`."""

    def addressResolved(self, address: IAddress) -> None:
        """See :class:`twisted.internet.interfaces.IResolutionReceiver`."""
        if len(self.found) < MAX_ADDRESSES:
            self.found[str(getattr(address, "host", ""))] = None

    def resolutionComplete(self) -> None:
        """See :class:`twisted.internet.interfaces.IResolutionReceiver`."""
        if not self.done.called:
            self.done.callback(list(self.found))


async def resolve(reactor: Any, name: str, timeout_s: float) -> Sequence[str]:
    """
    The addresses (literals, of both families) of *name*, which is a DNS name.

    Raises :class:`NotResolved` after *timeout_s* seconds at most.
    """
    receiver = _Receiver()
    reactor.nameResolver.resolveHostName(receiver, name, transportSemantics="TCP")
    try:
        found = await receiver.done.addTimeout(timeout_s, reactor)
    except TimeoutError:
        raise NotResolved(f"{name!r} was not resolved in {timeout_s:g} s") from None
    except CancelledError:
        raise
    if not found:
        raise NotResolved(f"there is no address of {name!r}")
    return found


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


class Routes:
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
        packed = ip_address(address).packed
        family = socket.AF_INET6 if len(packed) == 16 else socket.AF_INET
        attribute = struct.pack("=HH", 4 + len(packed), _RTA_DST) + packed
        body = struct.pack("=8BI", family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + attribute
        try:
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
