"""Dialling: an address in, a leg out, within a time."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from itertools import zip_longest
from typing import Any, cast

from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as NotInTime
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import DNSLookupError, TimeoutError, UserError
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.addresses import HostPort
from relaygate.dialleg import ClientLeg, DialledLeg, Unread
from relaygate.legs import Leg

# RFC 8305, section 5: how long one try is alone.
NEXT_TRY_S = 0.25


class DialFailed(Exception):
    """
    The address was not reached; the text says why, in a few words.

    *number* is the kernel's word for it (errno), 0 where it has none.
    """

    def __init__(self, words: str, number: int = 0) -> None:
        super().__init__(words)
        self.number = number

    @property
    def late(self) -> bool:
        """Whether it was silence that it failed by, and not an answer."""
        return self.number == errno.ETIMEDOUT


class _LegConnector(tcp.Connector):
    def _makeTransport(self) -> ClientLeg:
        return ClientLeg(self.host, self.port, self.bindAddress, self, self.reactor)


@implementer(IReactorTCP, IReactorTime, IReactorPluggableNameResolver)
class LegReactor:
    """
    A reactor for Twisted's client endpoints, that makes them connect by legs.

    All but ``connectTCP`` is the real reactor's; so its endpoints keep what they are good at:
    names, both address families at once (RFC 8305), time-outs, cancelling.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory[Any],
        timeout: float = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> tcp.Connector:
        """See :class:`twisted.internet.interfaces.IReactorTCP`."""
        connector = _LegConnector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.connect()
        return connector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


@lru_cache(maxsize=1024)
def _version(host: str) -> int | None:
    """The IP version of the literal *host*; None for a name."""
    try:
        return ip_address(host).version
    except ValueError:
        return None


def leg_endpoint(reactor: Any, address: HostPort, timeout_s: float) -> IStreamClientEndpoint:
    """An endpoint for *address* whose transports are legs; *timeout_s* is for each try."""
    legs = LegReactor(reactor)
    version = _version(address.host)
    if version is None:
        return HostnameEndpoint(legs, address.host, address.port, timeout=timeout_s)
    # Literals need no resolver, which would cost a thread's turn.
    endpoint = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
    return endpoint(legs, address.host, address.port, timeout=timeout_s)


async def _connect_by_name(reactor: Any, address: HostPort, timeout_s: float) -> Protocol:
    factory = Factory.forProtocol(Unread)
    factory.noisy = False
    connecting = leg_endpoint(reactor, address, timeout_s).connect(factory)
    # Endpoints report being cancelled as a failure of their own, each kind as another one.
    waiting: Deferred[Any] = Deferred()
    connecting.chainDeferred(waiting)
    try:
        # The endpoint's own time begins when the name is known.
        return cast(Protocol, await waiting.addTimeout(timeout_s, reactor))
    finally:
        connecting.cancel()


async def dial(
    reactor: Any, address: HostPort, timeout_s: float, source: tuple[str, int] | None = None
) -> Leg:
    """
    A leg to *address*, not yet reading, within *timeout_s* seconds.

    A literal may be dialled from a *source*: one of this machine's addresses, and a port or 0.
    Raises :class:`DialFailed`; cancelling gives the try up.
    """
    version = _version(address.host)
    try:
        if version is not None:
            host, port = address.host, address.port
            return await DialledLeg(reactor, version, host, port, timeout_s, source).reached
        leg = cast(Leg, (await _connect_by_name(reactor, address, timeout_s)).transport)
    except CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - the resolver and the kernel raise what they like
        raise DialFailed(error_words(error), _number(error)) from None
    # A process that is killed from here on must not look like one that had nothing to say.
    leg.abort_by_default()
    return leg


async def dial_first(
    reactor: Any,
    addresses: Sequence[str],
    port: int,
    timeout_s: float,
    sources: Mapping[int, str],
) -> Leg:
    """
    A leg to *port* of the first of *addresses* (literals) that answers, within *timeout_s* seconds.

    They are tried one after the other, the families in turn, each beside those that have not
    answered for a moment (RFC 8305).  *sources* has the address to dial from, by IP version.
    Raises :class:`DialFailed` as the first one has failed; cancelling gives all tries up.
    """
    if len(addresses) == 1:
        (host,) = addresses
        source = _source(sources, host)
        return await dial(reactor, HostPort(host, port), timeout_s, source)
    return await _race(reactor, addresses, port, timeout_s, sources)


async def _race(
    reactor: Any,
    addresses: Sequence[str],
    port: int,
    timeout_s: float,
    sources: Mapping[int, str],
) -> Leg:
    end = reactor.seconds() + timeout_s
    left = deque(_in_turn(addresses))
    failures: list[DialFailed] = []
    tries: set[Deferred[Leg]] = set()
    won: Deferred[Leg] = Deferred()
    pause: IDelayedCall | None = None

    def begin() -> None:
        nonlocal pause
        pause = reactor.callLater(NEXT_TRY_S, begin) if len(left) > 1 else None
        host = left.popleft()
        source = _source(sources, host)
        one = dial(reactor, HostPort(host, port), end - reactor.seconds(), source)
        trying = Deferred.fromCoroutine(one)
        tries.add(trying)
        trying.addBoth(ended, trying)

    def ended(result: Any, trying: Deferred[Leg]) -> None:
        tries.discard(trying)
        if won.called:
            if isinstance(result, Leg):
                result.abortConnection()
        elif isinstance(result, Leg):
            won.callback(result)
        elif result.check(DialFailed):
            failures.append(result.value)
            if left:
                if pause is not None and pause.active():
                    pause.cancel()
                begin()
            elif not tries:
                won.errback(failures[0])
        else:
            won.errback(result)

    begin()
    try:
        return await won
    finally:
        if pause is not None and pause.active():
            pause.cancel()
        for trying in list(tries):
            trying.cancel()


def _source(sources: Mapping[int, str], host: str) -> tuple[str, int] | None:
    source = sources.get(_version(host) or 0)
    return (source, 0) if source else None


def _in_turn(addresses: Sequence[str]) -> list[str]:
    """The addresses with their families in turn, IPv6 first (RFC 8305, section 4)."""
    six = [host for host in addresses if _version(host) == 6]
    four = [host for host in addresses if _version(host) == 4]
    return [host for pair in zip_longest(six, four) for host in pair if host is not None]


def _number(error: BaseException) -> int:
    number = getattr(error, "osError", None) or getattr(error, "errno", None)
    if isinstance(number, int) and number:
        return number
    return errno.ETIMEDOUT if isinstance(error, (TimeoutError, NotInTime, UserError)) else 0


def error_words(error: BaseException | None) -> str:
    """Why a connection was not made, in a few words and without addresses."""
    number = getattr(error, "osError", None) or getattr(error, "errno", None)
    if isinstance(number, int) and number:
        return os.strerror(number)
    if isinstance(error, DNSLookupError):
        return "name not found"
    if isinstance(error, (TimeoutError, NotInTime, UserError, CancelledError)):
        return "timed out"
    return str(error) or type(error).__name__


@implementer(IStreamClientEndpoint)
class Noting:
    """An endpoint that tells why it could not connect, which ClientService keeps to itself."""

    def __init__(self, endpoint: IStreamClientEndpoint, note: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._note = note

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """See :class:`twisted.internet.interfaces.IStreamClientEndpoint`."""
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting.addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        self._note(error_words(failure.value))
        return failure
