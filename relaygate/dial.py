"""Dialling: an address in, a leg out, within a time."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as NotInTime
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import DNSLookupError, TimeoutError, UserError
from twisted.internet.interfaces import (
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from relaygate.legs import ClientLeg, Leg

if TYPE_CHECKING:
    from twisted.internet.protocol import ClientFactory

    from relaygate.addresses import HostPort


class DialFailed(Exception):
    """The address was not reached; the text says why, in a few words."""


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


def leg_endpoint(reactor: Any, address: HostPort, timeout_s: float) -> IStreamClientEndpoint:
    """An endpoint for *address* whose transports are legs; *timeout_s* is for each try."""
    legs = LegReactor(reactor)
    try:
        version = ip_address(address.host).version
    except ValueError:
        return HostnameEndpoint(legs, address.host, address.port, timeout=timeout_s)
    # Literals need no resolver, which would cost a thread's turn.
    endpoint = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
    return endpoint(legs, address.host, address.port, timeout=timeout_s)


class _Waiting(Protocol):
    """Leaves all that comes in the kernel until somebody takes the leg over."""

    @property
    def leg(self) -> Leg:
        """The connection."""
        return cast(Leg, self.transport)

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self.leg.stopReading()


async def dial(reactor: Any, address: HostPort, timeout_s: float) -> Leg:
    """
    A leg to *address*, not yet reading, within *timeout_s* seconds.

    Raises :class:`DialFailed`; cancelling gives the try up.
    """
    factory = Factory.forProtocol(_Waiting)
    factory.noisy = False
    connecting = leg_endpoint(reactor, address, timeout_s).connect(factory)
    # Endpoints report being cancelled as a failure of their own, each kind as another one.
    waiting: Deferred[Any] = Deferred()
    connecting.chainDeferred(waiting)
    waiting.addTimeout(timeout_s, reactor)
    try:
        protocol = await waiting
    except CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - the resolver and the kernel raise what they like
        raise DialFailed(error_words(error)) from None
    finally:
        connecting.cancel()
    leg = cast(_Waiting, protocol).leg
    # A process that is killed from here on must not look like one that had nothing to say.
    leg.abort_by_default()
    return leg


def error_words(error: BaseException | None) -> str:
    """Why a connection was not made, in a few words and without addresses."""
    number = getattr(error, "osError", None)
    if isinstance(number, int) and number:
        return os.strerror(number)
    if isinstance(error, DNSLookupError):
        return "name not found"
    if isinstance(error, (TimeoutError, NotInTime, UserError, CancelledError)):
        return "timed out"
    return str(error) or type(error).__name__
