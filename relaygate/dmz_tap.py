"""``twistd relaygate-dmz``."""

from __future__ import annotations

from relaygate.clocks import steady
from relaygate.config import load_dmz
from relaygate.dmz import DMZNode
from relaygate.identity import Role
from relaygate.tap import NodeOptions, Program, make_program

Options = NodeOptions


def makeService(options: NodeOptions) -> Program:
    """See :class:`twisted.application.service.IServiceMaker`."""
    from twisted.internet import reactor

    steady(reactor)
    return make_program(options, reactor, Role.DMZ, load_dmz, DMZNode)
