"""Twisted's own port forwarder, as a peer: ``python portforward.py PORT TARGET``."""

from __future__ import annotations

import sys
from typing import Any, Final, cast

from twisted.internet import reactor as installed
from twisted.protocols.portforward import ProxyFactory

_HOST: Final = "127.0.0.1"
_BACKLOG: Final = 4096


def main(port: int, target: int) -> None:
    """Forward each connection to *port* to *target*, until the process is ended."""
    reactor = cast(Any, installed)
    factory = ProxyFactory(_HOST, target)
    factory.noisy = False
    reactor.listenTCP(port, factory, _BACKLOG, _HOST)
    reactor.run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
