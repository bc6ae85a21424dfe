"""Limits of half a minute: they are waited for side by side, each in a network of its own."""

from __future__ import annotations

import re
import socket
import time
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.declaring import DECLARE_AGAIN_S
from relaygate.sshopening import IDENTIFICATION_LIMIT_S
from relaygate.test.gateway import (
    REPEATS,
    SOAK,
    SSH_PORT,
    SSHD_PORT,
    TCP_PORT,
    Gateway,
    ssh_service,
    tcp_service,
    together,
)
from relaygate.test.openssh import Keys
from relaygate.test.peers import (
    PATIENCE_S,
    Conversation,
    echo,
    eventually,
    in_thread,
    make_socket,
    says,
)
from relaygate.test.programs import pause

IDLE_S: Final = 600.0 if SOAK else 30.0
DRIP_S: Final = 0.5
SOME_S: Final = 5.0
# What drips would have if each byte began the limit anew.
DRIPPED_TO_LENGTHEN_S: Final = 2 * IDENTIFICATION_LIMIT_S - 2 * SOME_S
IDENTIFICATION: Final = b"SSH-2.0-" + b"slow" * 60


class PatienceTests(TestCase):
    """What is ended after half a minute, what begins after it, and what outlives it."""

    timeout = IDLE_S + 210

    async def test_half_a_minute(self) -> None:
        """Half an identification ends a session; idleness does not; a freed port is opened."""
        await together(self.identification_is_due(), self.session_idles(), self.port_becomes_free())

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
