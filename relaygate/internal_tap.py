"""``twistd relaygate-internal``."""

from __future__ import annotations

from relaygate.clocks import steady
from relaygate.config import load_internal
from relaygate.identity import Role
from relaygate.internal import InternalNode
from relaygate.tap import NodeOptions, Program, make_program

Options = NodeOptions


def makeService(options: NodeOptions) -> Program:
    """See :class:`twisted.application.service.IServiceMaker`."""
    from twisted.internet import reactor

    steady(reactor)
    return make_program(options, reactor, Role.INTERNAL, load_internal, InternalNode)
