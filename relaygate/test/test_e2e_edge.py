"""Real nodes whose edge is tried: one customer's whole network, several nodes' bans, a server that
comes and goes.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.gateway import (
    ECHO_PORT,
    SSH_PORT,
    TCP_PORT,
    Gateway,
    service,
    tcp_service,
)
from relaygate.test.netns import Network
from relaygate.test.peers import Server, announce, echo, eventually, in_thread, make_socket, says
from relaygate.test.test_admin import socket_path
from relaygate.test.test_cli import call

BACKEND: Final = f"{Network.private_address}:{ECHO_PORT}"
# Networks of customers; every address of them is the outside's own.
CUSTOMERS: Final = [f"2001:db8:0:{number}::" for number in range(1, 7)]
ADDRESSES: Final = 300
# Second and third look at a server that stays away: after 2 and 4 seconds more (docs).
PAUSES_S: Final = (2.0, 4.0)
# Seconds by which a busy machine may notice late that it is out; two equal pauses are less yet.
NOTICED_S: Final = 1.5


class CustomerTests(TestCase):
    """Caps and rates of IPv6, where one customer has as many addresses as she likes."""

    def served(self, gateway: Gateway, address: str) -> bool:
        """Tell whether a client from *address* is served; it stays until the test is over."""
        client = make_socket(gateway.outside, socket.AF_INET6)
        self.addCleanup(client.close)
        client.bind((address, 0))
        with contextlib.suppress(ConnectionError):
            client.connect((Network.dmz_outer_address_v6, TCP_PORT))
            return says(client, b"hello")
        return False

    async def test_one_network_is_one_client(self) -> None:
        """
        Hundreds of addresses of one /64 have the sessions and the rate of one client, which clients
        of other networks do not notice; all together are bounded as well (Requirements 86, 89).
        """
        caps = {"max_sessions": 8, "max_sessions_per_address": 5, "max_rate_per_address": 2}
        gateway = Gateway(
            self,
            [service("six", "tcp", TCP_PORT, BACKEND, host="[::]", **caps)],
            listen=["[::]:7000"],
        )
        gateway.backend(echo)
        freely = "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind"
        gateway.network.run("outside", ["sh", "-c", freely])
        for customer in CUSTOMERS:
            local = ["ip", "-6", "route", "add", "local", f"{customer}/64", "dev", "lo"]
            gateway.network.run("outside", local)
            there = ["via", Network.outside_address_v6]
            gateway.network.run("dmz", ["ip", "-6", "route", "add", f"{customer}/64", *there])
        gateway.dmz.start()
        gateway.node.start()
        await gateway.node.logged("services declared: .*refused=0")

        def flood() -> int:
            addresses = (f"{CUSTOMERS[0]}{number:x}" for number in range(1, ADDRESSES + 1))
            return sum(self.served(gateway, address) for address in addresses)

        self.assertEqual(await in_thread(flood), caps["max_sessions_per_address"])
        others = [
            await in_thread(self.served, gateway, f"{customer}1") for customer in CUSTOMERS[1:]
        ]
        self.assertEqual(others, [True, True, True, False, False])
        self.assertEqual(gateway.node.log().count(" open: service=six "), caps["max_sessions"])
        # Beyond its rate nobody is told why, and hardly anything is written of it.
        refused = gateway.dmz.log().count("outcome=policy/admit")
        self.assertLess(refused, ADDRESSES / 4)
        self.assertIn("reason='too many new sessions'", gateway.dmz.log())


class BanTests(TestCase):
    """Two internal nodes that offer different services and know nothing of each other."""

    async def test_a_ban_is_for_all_services(self) -> None:
        """
        A client that one node bans is turned away from the other's service as well, also when that
        one comes back with its own bans; who has set it has to lift it, too (Requirement 87).
        """
        services = [tcp_service(), service("other", "tcp", SSH_PORT, BACKEND)]
        gateway = Gateway(self, services, nodes=("node-a", "node-b"))
        sockets = [str(socket_path(self)) for _ in services]
        gateway.internals = [
            gateway.internal(name, [text, f'[admin]\nsocket = "{path}"\n'])
            for name, text, path in zip(("node-a", "node-b"), services, sockets, strict=True)
        ]
        gateway.backend(echo)
        await gateway.start()

        def served() -> list[bool]:
            answers = []
            for port in (TCP_PORT, SSH_PORT):
                with contextlib.suppress(ConnectionError), gateway.client(port) as client:
                    answers.append(says(client, b"hello"))
                    continue
                answers.append(False)
            return answers

        async def order(node: int, *words: str) -> str:
            status, said, _ = await in_thread(call, *words, "--socket", sockets[node])
            self.assertEqual(status, 0)
            return said

        self.assertEqual(await in_thread(served), [True, True])
        network = f"{Network.outside_address}/32"
        await order(0, "ban", network, "--for", "1h")
        self.assertEqual(await in_thread(served), [False, False])
        await order(1, "ban", network, "--for", "2s")
        await gateway.internals[1].restart()
        await gateway.up()
        self.assertEqual(await in_thread(served), [False, False])
        # In the DMZ any node lifts it; who has set it refuses its clients until it does so, too.
        self.assertIn("not set here: 1", await order(1, "unban", network))
        self.assertEqual(await in_thread(served), [False, True])
        self.assertNotIn("not set here", await order(0, "unban", network))
        self.assertEqual(await in_thread(served), [True, True])


class FlapTests(TestCase):
    """A server that comes and goes beside one that stays."""

    async def test_marks_grow(self) -> None:
        """
        Clients are served whatever one of two servers does; it is tried by three of them, and then
        left alone for longer and longer; once it is back it is used again (Requirement 83).
        """
        there, flaps = ECHO_PORT, ECHO_PORT + 1
        targets = [f"{Network.private_address}:{port}" for port in (there, flaps)]
        gateway = Gateway(self, [tcp_service(*targets)])
        gateway.backend(announce(b"there"), there)
        flapping = gateway.backend(announce(b"flaps"), flaps)
        gateway.network.run("private", ["nft", "-f", "-"], stdin=_COUNTER.format(port=flaps))
        await gateway.start()
        served: list[bytes] = []
        failed: list[str] = []
        over = threading.Event()

        def come_and_go() -> None:
            while not over.wait(0.02):
                try:
                    with gateway.client() as client, client.makefile("rb") as stream:
                        served.append(stream.readline().strip())
                except OSError as error:
                    failed.append(repr(error))

        def tries() -> int:
            text = gateway.network.run("private", ["nft", "list", "counter", "inet", "tries", "n"])
            return int(re.findall(r"packets (\d+)", text.stdout)[0])

        def again() -> Server:
            return gateway.backend(announce(b"flaps"), flaps)

        clients = threading.Thread(target=come_and_go)
        clients.start()
        self.addCleanup(clients.join)
        self.addCleanup(over.set)
        await eventually(lambda: {b"there", b"flaps"} <= set(served), "both serve")
        flapping.close()
        await gateway.node.logged("backend out: ")
        flapping = again()
        await gateway.node.logged("backend back: ")
        so_far = len(served)
        await eventually(lambda: b"flaps" in served[so_far:], "it serves again")
        # Now it stays away.
        seen = len(gateway.node.log())
        flapping.close()
        await gateway.node.logged("backend out: ", after=seen)
        out_since, before = time.monotonic(), tries()
        for number in range(1, len(PAUSES_S) + 1):
            await eventually(lambda number=number: tries() >= before + number, "a look")  # type: ignore[misc]
            waited = time.monotonic() - out_since
            self.assertGreater(waited, sum(PAUSES_S[:number]) - NOTICED_S)
            self.assertEqual(tries(), before + number)
        over.set()
        await in_thread(clients.join)
        self.assertEqual(failed, [])
        self.assertGreater(len(served), 100)
        self.assertEqual(gateway.node.log().count("backend out: "), 2)


_COUNTER: Final = """
table inet tries {{
  counter n {{ }}
  chain arriving {{
    type filter hook input priority filter; policy accept;
    tcp dport {port} tcp flags & (fin|syn|rst|ack) == syn counter name n
  }}
}}
"""
