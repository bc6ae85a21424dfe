"""Nodes of different versions, each a real program that was made to speak another one."""

from __future__ import annotations

from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.gateway import TCP_PORT, Gateway, ssh_service, tcp_service, together
from relaygate.test.nodes import Node
from relaygate.test.peers import echo, in_thread, says

# Has "change" be applied to all that a node says: questions, answers, and the records in lists.
CHANGED: Final = """
import relaygate.commands as c
from twisted.protocols.amp import AmpBox, AmpList, parseString
send, write = AmpBox._sendTo, AmpList.toStringProto
AmpBox._sendTo = lambda box, protocol: send(AmpBox(change(box)), protocol)
AmpList.toStringProto = lambda *given: b"".join(
    AmpBox(change(box)).serialize() for box in parseString(write(*given))
)
"""

# Everything says more than a node of today knows.
NEWER: Final = (
    CHANGED
    + """
c.MINOR = 999
def change(box): return {**box, b"from-the-future": b"yes"}
"""
)

# The commands of version 1.1, which is the first, and what may stand in their boxes. What came
# later is neither understood nor said; this list never grows.
OLDEST: Final = (
    CHANGED
    + """
c.MINOR = 1
said = b"Hello Declare OpenChannels OpenPassive DialActive CloseTransfer Ping Farewell".split()
for name in set(c.ALL) - set(said):
    del c.ALL[name]
keys = set(
    b"_command _ask _answer _error _error_code _error_description major minor software generation"
    b" page last services name protocol host port tls-channel max-sessions"
    b" max-sessions-per-address refused reason tls count session transfer first peers network"
    b" source-port superseded".split()
)
def change(box): return {key: value for key, value in box.items() if key in keys}
"""
)

OTHER_MAJOR: Final = """
import relaygate.commands as c
c.MAJOR, c.MINOR = 2, 0
c.ALPN_UPLINK, c.ALPN_CHANNEL = b"relaygate/2", b"relaygate-channel/2"
"""

OTHER_MAJOR_IN_HELLO: Final = """
import relaygate.commands as c
c.MAJOR, c.MINOR = 2, 0
"""


class VersionTests(TestCase):
    """What is served, and what is refused with a reason in both logs (Lesson 31)."""

    timeout = 180

    def gateway(self) -> Gateway:
        """A gateway that is not started."""
        gateway = Gateway(self, [tcp_service(), ssh_service()])
        gateway.backend(echo)
        return gateway

    async def works(self, gateway: Gateway) -> None:
        """Start both nodes, and have sessions."""
        await gateway.start()
        for _ in range(20):
            client = gateway.client()
            self.assertTrue(await in_thread(says, client, b"hello"))
            client.close()
        for node in (gateway.dmz, gateway.node):
            self.assertNotIn("Traceback", node.log())
            self.assertNotIn("uplink lost", node.log())

    async def test_newer_internal_node(self) -> None:
        """An internal node of a newer minor version is served."""
        gateway = self.gateway()
        gateway.node.begin_with(NEWER)
        await self.works(gateway)

    async def test_newer_dmz_node(self) -> None:
        """An internal node works with a DMZ node of a newer minor version."""
        gateway = self.gateway()
        gateway.dmz.begin_with(NEWER)
        await self.works(gateway)

    async def test_oldest_internal_node(self) -> None:
        """An internal node of the first version is served, as if nothing had been added since."""
        gateway = self.gateway()
        gateway.node.begin_with(OLDEST)
        await self.works(gateway)

    async def test_oldest_dmz_node(self) -> None:
        """An internal node works with a DMZ node of the first version."""
        gateway = self.gateway()
        gateway.dmz.begin_with(OLDEST)
        await self.works(gateway)

    async def refused(self, gateway: Gateway, other: Node, code: str) -> None:
        """Start both nodes, of which *other* is of another version, and find them apart."""
        other.begin_with(code)
        gateway.dmz.start()
        gateway.node.start()

    async def test_other_major_version(self) -> None:
        """Another major version, on either side, is refused; each log has both versions' names."""

        async def apart(newer: str) -> None:
            gateway = self.gateway()
            other = gateway.node if newer == "internal" else gateway.dmz
            await self.refused(gateway, other, OTHER_MAJOR)
            names = ("relaygate/2", "relaygate/1")
            offered, spoken = names if newer == "internal" else reversed(names)
            await gateway.dmz.logged(rf"uplink refused: .*offers \['{offered}'\].*'{spoken}'")
            await gateway.node.logged("no uplink to dmz at .*no application protocol")
            self.assertRaises(ConnectionRefusedError, gateway.client, TCP_PORT)
            self.assertNotIn("uplink open", gateway.dmz.log() + gateway.node.log())

        await together(apart("internal"), apart("dmz"))

    async def test_other_major_version_in_hello(self) -> None:
        """One that only shows in the hello is refused as well, with the reason in both logs."""
        gateway = self.gateway()
        await self.refused(gateway, gateway.node, OTHER_MAJOR_IN_HELLO)
        why = "protocol 2.0 of relaygate .* is refused: this node speaks 1."
        await gateway.dmz.logged(f"uplink refused: {why}")
        await gateway.node.logged(f"no uplink to dmz at .*{why}")
        self.assertRaises(ConnectionRefusedError, gateway.client, TCP_PORT)
        self.assertNotIn("uplink open", gateway.dmz.log() + gateway.node.log())
