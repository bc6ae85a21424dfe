"""What takes long and is mostly waiting: all of it side by side, each in networks of its own."""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING, Final, cast

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from relaygate.backends import CONNECT_LIMIT_S
from relaygate.declaring import DECLARE_AGAIN_S
from relaygate.errors import NoBackend
from relaygate.sshopening import IDENTIFICATION_LIMIT_S
from relaygate.test.gateway import (
    BACK_LIMIT_S,
    ECHO_PORT,
    REPEATS,
    SOAK,
    SSH_PORT,
    SSHD_PORT,
    TCP_PORT,
    Gateway,
    service,
    ssh_service,
    tcp_service,
    together,
)
from relaygate.test.openssh import Keys
from relaygate.test.peers import (
    LATE_S,
    PATIENCE_S,
    AtOnce,
    Conversation,
    echo,
    eventually,
    in_thread,
    make_socket,
    read_exactly,
    read_to_end,
    says,
)
from relaygate.test.programs import pause
from relaygate.test.test_e2e_faults import (
    HUNG_PORT,
    LISTENER,
    PRIVATE,
    SIDE_BY_SIDE,
    UNMARKED,
    echoing,
    served,
)
from relaygate.uplink import SILENCE_LIMIT_S

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorThreads

IDLE_S: Final = 600.0 if SOAK else 30.0
DRIP_S: Final = 0.5
SOME_S: Final = 5.0
# What drips would have if each byte began the limit anew.
DRIPPED_TO_LENGTHEN_S: Final = 2 * IDENTIFICATION_LIMIT_S - 2 * SOME_S
SHORT_CUT_S: Final = 2.0
# Twisted's own number, and one for all that block here.
TWISTEDS_THREADS: Final = 10
THREADS: Final = 2 * SIDE_BY_SIDE + TWISTEDS_THREADS
IDENTIFICATION: Final = b"SSH-2.0-" + b"slow" * 60


class PatienceTests(TestCase):
    """What is ended by a limit, what comes back after one, and what outlives it."""

    timeout = IDLE_S + 600

    def setUp(self) -> None:
        # Each of those that block has a thread.
        pool = cast("IReactorThreads", reactor)
        pool.suggestThreadPoolSize(THREADS)
        self.addCleanup(pool.suggestThreadPoolSize, TWISTEDS_THREADS)

    async def test_half_a_minute(self) -> None:
        """
        Half an identification ends a session; idleness does not; a freed port is opened; a short
        cut changes nothing, a long one closes the listener; a backend that hangs costs its limit.
        """
        await together(
            self.identification_is_due(),
            self.session_idles(),
            self.port_becomes_free(),
            self.uplinks_are_cut(),
            self.backend_hangs(),
        )

    async def identification_is_due(self) -> None:
        """Silence and slow drips, from client or backend, end at the limit (Requirement 86)."""
        gateway = Gateway(self, [ssh_service()])
        server = gateway.backend(None, SSHD_PORT)
        await gateway.start()

        def visit(greeting: bytes) -> socket.socket:
            client = gateway.client(SSH_PORT)
            self.addCleanup(client.close)
            client.sendall(greeting)
            return client

        began = time.monotonic()
        silent = [visit(b"") for _ in range(REPEATS)]
        dripping = [visit(b"") for _ in range(REPEATS)]
        # These do their part, and it is the backend that never speaks.
        waiting = [visit(b"SSH-2.0-Client\r\n") for _ in range(REPEATS)]
        everyone = silent + dripping + waiting
        await eventually(lambda: len(server.accepted) == len(everyone), "all have a backend")
        for byte in IDENTIFICATION:
            # Nobody is sent anything who may have been ended already, however late it is.
            if time.monotonic() - began > IDENTIFICATION_LIMIT_S - SOME_S:
                break
            for client in dripping:
                client.sendall(bytes([byte]))
            await pause(DRIP_S)
        for client in everyone:
            with self.assertRaises(ConnectionResetError):
                await in_thread(client.recv, 1)
        self.assertLess(time.monotonic() - began, DRIPPED_TO_LENGTHEN_S)
        ended = " end: .*seconds=([0-9.]+) outcome=timeout/open detail='the {} has not identified"
        for who, count in (("client", len(silent + dripping)), ("server", len(waiting))):
            found = re.findall(ended.format(who), gateway.node.log())
            self.assertEqual(len(found), count, who)
            for seconds in map(float, found):
                self.assertTrue(IDENTIFICATION_LIMIT_S <= seconds < DRIPPED_TO_LENGTHEN_S, seconds)

    async def session_idles(self) -> None:
        """A session in which nothing moves for long still works after it (Requirement 49)."""
        gateway = Gateway(self, [ssh_service()])
        keys = Keys(self)
        await gateway.sshd(keys)
        await gateway.start()
        client = Conversation(gateway.outside, keys.ssh(gateway.host, SSH_PORT, "cat"))
        client.say(b"before\n")
        await in_thread(client.hear, b"before\n")
        await pause(IDLE_S)
        client.say(b"after\n")
        await in_thread(client.hear, b"after\n")
        self.assertEqual(await in_thread(client.end), 0)

    async def port_becomes_free(self) -> None:
        """A listener whose port is taken is named in both logs, and opened when it is free."""
        gateway = Gateway(self, [tcp_service()])
        gateway.backend(echo)
        squatter = make_socket((gateway.network, "dmz"))
        self.addCleanup(squatter.close)
        squatter.bind(("0.0.0.0", TCP_PORT))
        squatter.listen()
        gateway.dmz.start()
        gateway.node.start()
        why = f"listener refused: .*service=echo reason=.*:{TCP_PORT}: .*Address already in use"
        await gateway.dmz.logged(why)
        await gateway.node.logged(why)
        squatter.close()
        await gateway.listens({("0.0.0.0", TCP_PORT)}, DECLARE_AGAIN_S + PATIENCE_S)
        self.assertTrue(await in_thread(says, gateway.client(), b"hello"))

    async def uplinks_are_cut(self) -> None:
        """A short cut changes nothing; a long one closes the listener; sessions outlive both."""

        async def cut_and_mend() -> None:
            gateway = await echoing(self)
            for _ in range(REPEATS // SIDE_BY_SIDE):
                client = await served(self, gateway)
                mark = len(gateway.dmz.log())
                gateway.network.cut("dmz", "private")
                client.sendall(b"during the short cut")
                await pause(SHORT_CUT_S)
                gateway.network.mend()
                self.assertEqual(await in_thread(read_exactly, client, 20), b"during the short cut")
                await served(self, gateway)
                self.assertNotRegex(gateway.dmz.log()[mark:], "uplink|listener")

                gateway.network.cut("dmz", "private")
                client.sendall(b"during the long cut")
                with noticed.timed():
                    await gateway.closes(TCP_PORT, SILENCE_LIMIT_S + LATE_S)
                self.assertRaises(ConnectionRefusedError, gateway.client)
                gateway.network.mend()
                await gateway.listens(LISTENER, BACK_LIMIT_S)
                await served(self, gateway)
                self.assertEqual(await in_thread(read_exactly, client, 19), b"during the long cut")

        noticed = AtOnce()
        await together(*(cut_and_mend() for _ in range(SIDE_BY_SIDE)))
        noticed.check(after_s=SILENCE_LIMIT_S)

    async def backend_hangs(self) -> None:
        """A backend that answers no SYN costs its limit, and then the client is told."""
        services = [
            service("alone", "ssh", SSH_PORT, f"{PRIVATE}:{HUNG_PORT}", health=UNMARKED),
            tcp_service(
                f"{PRIVATE}:{HUNG_PORT}",
                f"{PRIVATE}:{ECHO_PORT}",
                balance="failover",
                health=UNMARKED,
            ),
        ]
        gateway = Gateway(self, services)
        gateway.backend(echo)
        rules = (
            "table inet hang { chain arriving { type filter hook input priority 0;"
            f" tcp dport {HUNG_PORT} drop; }}; }}"
        )
        gateway.network.run("private", ["nft", "-f", "-"], stdin=rules)
        await gateway.start()

        async def refused() -> None:
            client = gateway.client(SSH_PORT)
            self.assertEqual(await in_thread(read_to_end, client), NoBackend.ssh)
            client.close()

        async def next_one() -> None:
            client = gateway.client()
            self.assertTrue(await in_thread(says, client, b"hello"))
            client.close()

        limit = AtOnce()
        for _ in range(REPEATS // 5):
            began = time.monotonic()
            with limit.timed():
                await together(*(work() for work in (refused, next_one) for _ in range(5)))
            self.assertGreater(time.monotonic() - began, CONNECT_LIMIT_S - 1)
        limit.check(after_s=CONNECT_LIMIT_S)
