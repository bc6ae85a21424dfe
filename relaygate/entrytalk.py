"""
How a program says where it wants to go: in SOCKS, in HTTP, or by the port that it came to.

A talk takes the program's bytes up to its wish, and has the words of the answers; it does no I/O.
:func:`listen_to` has the leg, and the time.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol as Interface
from typing import cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from relaygate.destinations import Destinations
from relaygate.errors import NotGranted, Refusal
from relaygate.legs import Leg
from relaygate.protocols import proxyhead, socks

# Seconds for all that comes before the answer, however slowly it drips.
WISH_LIMIT_S = 30.0


@dataclass(frozen=True)
class User:
    """A user: the password, and where that user may go, if not where the entry may."""

    password: bytes
    destinations: Destinations | None


Users = Mapping[bytes, User]


@dataclass(frozen=True)
class Wish:
    """
    What a program wants: to reach *host*, as it is written, on *port*; or with *binds* to be
    reached from there.  *user* is who it says it is, and *head* goes before its own bytes.
    """

    host: str
    port: int
    user: str = ""
    binds: bool = False
    head: bytes = b""


class NoWish(Exception):
    """
    The program is not served; the text completes "the client …".

    *words* are what it is told, and *refusal* what it is for the audit, if it is something.
    """

    def __init__(self, what: str, words: bytes = b"", refusal: Refusal | None = None) -> None:
        super().__init__(what)
        self.words = words
        self.refusal = refusal


class Talk(Interface):
    """
    One program's talk.

    With :attr:`awaits_answer` a program that has said its wish waits for the answer to it: whose
    stream ends before has left, and is not just one that has no more to say.
    """

    wish: Wish | None

    @property
    def awaits_answer(self) -> bool:
        """See above."""

    @property
    def rest(self) -> bytes:
        """What has come behind the wish."""

    def receive(self, data: bytes) -> bytes:
        """Take the next piece; the answer goes out.  Raises :class:`NoWish`."""

    def granted(self, host: str, port: int) -> bytes:
        """The words for what has come about, with the address and port that it is seen from."""

    def refused(self, refusal: Refusal) -> bytes:
        """The words for what has not."""


class SocksTalk:
    """SOCKS 5 and 4A; with *users* one of them has to be named, by SOCKS 5."""

    awaits_answer = True

    def __init__(self, users: Users, *, may_bind: bool) -> None:
        self.wish: Wish | None = None
        self._users = users
        self._may_bind = may_bind
        self._reader = socks.SocksReader(demands_user=bool(users))
        self._user = b""

    @property
    def rest(self) -> bytes:
        """See :class:`Talk`."""
        return self._reader.rest

    def receive(self, data: bytes) -> bytes:
        """See :class:`Talk`."""
        answer = b""
        try:
            for event in self._reader.receive(data):
                answer += self._take(event)
        except socks.Version4Refused as error:
            request = socks.Request(4, 1, "", 0)
            raise NoWish(str(error), request.answer(socks.Reply.FAILURE), NotGranted()) from None
        except socks.SocksViolation as error:
            raise NoWish(str(error)) from None
        except NoWish as error:
            # What was answered to the messages before it has not gone out yet.
            error.words = answer + error.words
            raise
        return answer

    def _take(self, event: socks.Event) -> bytes:
        if isinstance(event, socks.Greeting):
            if event.method is socks.Method.UNACCEPTABLE:
                what = "offers no way of showing who it is that would do"
                raise NoWish(what, event.answer(), NotGranted())
            return event.answer()
        if isinstance(event, socks.Credentials):
            self._user = event.user
            good = is_user(self._users, event.user, event.password)
            if not good:
                raise NoWish(_wrong(event.user), event.answer(False), NotGranted())
            return event.answer(True)
        self._wish_for(event)
        return b""

    def _wish_for(self, request: socks.Request) -> None:
        binds = request.command == socks.Command.BIND
        if request.command != socks.Command.CONNECT and not (binds and self._may_bind):
            words = request.answer(socks.Reply.COMMAND_UNKNOWN)
            raise NoWish(f"asks for command {request.command}, which is not offered", words)
        if not (binds or request.port):
            words = request.answer(socks.Reply.FAILURE)
            raise NoWish("asks for port 0", words)
        self.wish = Wish(request.host, request.port, shown(self._user), binds)

    @property
    def _request(self) -> socks.Request:
        assert self._reader.found is not None
        return self._reader.found

    def granted(self, host: str, port: int) -> bytes:
        """See :class:`Talk`."""
        return self._request.answer(socks.Reply.GRANTED, host, port)

    def refused(self, refusal: Refusal) -> bytes:
        """See :class:`Talk`."""
        return self._request.answer(socks.Reply(refusal.socks))


_AUTHORITY = re.compile(r"(\[[^\[\]]+\]|[^\[\]:]+):([0-9]{1,5})")


class ProxyTalk:
    """HTTP: CONNECT, and requests with an absolute URL."""

    def __init__(self, users: Users) -> None:
        self.wish: Wish | None = None
        self._users = users
        self._reader = proxyhead.ProxyReader()

    @property
    def awaits_answer(self) -> bool:
        """See :class:`Talk`."""
        return self._reader.found is not None and self._reader.found.tunnel

    @property
    def rest(self) -> bytes:
        """See :class:`Talk`."""
        return self._reader.rest

    def receive(self, data: bytes) -> bytes:
        """See :class:`Talk`."""
        try:
            for request in self._reader.receive(data):
                self._take(request)
        except proxyhead.ProxyViolation as error:
            words = proxyhead.answer(error.status, f"relaygate: the client {error}.")
            raise NoWish(str(error), words) from None
        return b""

    def _take(self, request: proxyhead.ProxyRequest) -> None:
        user = b""
        if self._users:
            user, password = request.credentials or (b"", b"")
            if not is_user(self._users, user, password):
                refusal = NotGranted()
                words = proxyhead.answer(
                    refusal.proxy, f"relaygate: {refusal.meaning}", proxyhead.CHALLENGE
                )
                # Who has said nothing yet is only asked.
                audited = refusal if request.credentials else None
                raise NoWish(_wrong(user), words, audited)
        match = _AUTHORITY.fullmatch(request.authority)
        if match is None or not 0 < int(match[2]) < 65536:
            raise proxyhead.ProxyViolation("names no host with a port")
        self.wish = Wish(match[1], int(match[2]), shown(user), head=request.head)

    def granted(self, host: str, port: int) -> bytes:
        """See :class:`Talk`."""
        assert self._reader.found is not None
        return proxyhead.ESTABLISHED if self._reader.found.tunnel else b""

    def refused(self, refusal: Refusal) -> bytes:
        """See :class:`Talk`."""
        return proxyhead.answer(refusal.proxy, f"relaygate: {refusal.meaning}")


class FixedTalk:
    """A fixed forward, where the port says it all; *protocol* is what its refusals speak."""

    rest = b""

    def __init__(self, host: str, port: int, protocol: str) -> None:
        self.wish: Wish | None = Wish(host, port)
        # In FTP the server speaks first.
        self.awaits_answer = protocol == "ftp"
        self._protocol = protocol

    def receive(self, data: bytes) -> bytes:
        """See :class:`Talk`; it is never asked."""
        return b""

    def granted(self, host: str, port: int) -> bytes:
        """See :class:`Talk`."""
        return b""

    def refused(self, refusal: Refusal) -> bytes:
        """See :class:`Talk`."""
        return refusal.words(self._protocol)


def is_user(users: Users, name: bytes, password: bytes) -> bool:
    """Whether *name* is one of *users*, and *password* that user's."""
    user = users.get(name)
    # An unknown name takes as long as a wrong password.
    return hmac.compare_digest(user.password if user else b"", password) and user is not None


def shown(user: bytes) -> str:
    """*user*, as it may stand in a log."""
    return user.decode("utf-8", "backslashreplace")


def _wrong(user: bytes) -> str:
    return f"is not the user {shown(user)!r}" if user else "does not say who it is"


class _Listening(Protocol):
    """Feeds a talk, until it has its wish."""

    def __init__(self, talk: Talk) -> None:
        self.done: Deferred[None] = Deferred()
        self._talk = talk

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self.done.called:
            return
        leg = cast(Leg, self.transport)
        try:
            leg.write(self._talk.receive(data))
        except NoWish as error:
            leg.stopReading()
            self.done.errback(error)
            return
        if self._talk.wish is not None:
            # What comes now waits in the kernel.
            leg.stopReading()
            self.done.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if not self.done.called:
            self.done.errback(NoWish("left without a word"))


async def listen_to(leg: Leg, talk: Talk, clock: IReactorTime) -> Wish:
    """
    What the program at the other end of *leg* wants, by *talk*; nobody reads it afterwards.

    Raises :class:`NoWish`.
    """
    if talk.wish is None:
        listening = _Listening(talk)
        leg.protocol = listening
        listening.makeConnection(leg)
        leg.startReading()
        limit = clock.callLater(WISH_LIMIT_S, listening.done.cancel)
        try:
            await listening.done
        except CancelledError:
            leg.stopReading()
            raise NoWish(f"has not said in {WISH_LIMIT_S:g} s what it wants") from None
        finally:
            if limit.active():
                limit.cancel()
    assert talk.wish is not None
    return talk.wish
