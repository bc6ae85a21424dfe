"""What a service may be told: protocols, listeners, caps, limits, and what the logs say of them."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from twisted.trial.unittest import TestCase

from relaygate import pki
from relaygate.errors import NoBackend, TooMany
from relaygate.identity import Role
from relaygate.test.gateway import (
    ECHO_PORT,
    SSH_PORT,
    SSHD_PORT,
    TCP_PORT,
    UPLINK_PORT,
    Gateway,
    service,
    ssh_service,
    tcp_service,
)
from relaygate.test.netns import Network
from relaygate.test.peers import (
    announce,
    dial,
    echo,
    eventually,
    in_thread,
    make_socket,
    read_exactly,
    read_to_end,
    says,
)
from relaygate.test.programs import new_folder, pause

PRIVATE: Final = Network.private_address
OUTER: Final = Network.dmz_outer_address
SECOND_OUTER: Final = "203.0.113.9"
SECOND_CLIENT: Final = "203.0.113.3"
TLS_NAME: Final = "portal.partner.example"
# RFC 4253 section 4.2: a server may send lines before its identification.
BANNER: Final = b"Property of nobody.\r\n\tNo entry.\n\xff\xfe bytes\r\nSSH-2.0-Strange_1.0 a b\r\n"


def pour(peer: socket.socket) -> NoReturn:
    """Send without an end; raises ``OSError`` when the peer has had enough."""
    while True:
        peer.sendall(b"A" * 4096)


class OpeningTests(TestCase):
    """What begins an SSH session, and what may not."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.gateway = Gateway(self, [ssh_service()])
        self.backend = self.gateway.backend(None, SSHD_PORT)
        await self.gateway.start()

    async def joined(self) -> tuple[socket.socket, socket.socket]:
        """Return a client and the connection of the backend that it was led to."""
        client = self.gateway.client(SSH_PORT)
        self.addCleanup(client.close)
        await eventually(lambda: bool(self.backend.accepted), "the backend has accepted")
        return client, self.backend.accepted.pop()

    async def test_not_ssh(self) -> None:
        """A client that speaks HTTP is cut off, the log says so, and the backend saw nothing."""
        client, server = await self.joined()
        client.sendall(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")
        self.assertRaises(ConnectionResetError, client.recv, 1)
        self.assertRaises(ConnectionResetError, server.recv, 1)
        line = await self.gateway.node.logged(r".* end: service=sftp.*")
        self.assertIn("outcome=client/open", line[0])
        self.assertIn("the client sent b'G' where its SSH identification must begin", line[0])

    async def test_endless_version(self) -> None:
        """A version string that never ends is cut off at the RFC's 255 bytes (CVE-2022-21716)."""
        client, server = await self.joined()
        client.sendall(b"SSH-2.0-")
        self.assertRaises(ConnectionError, pour, client)
        self.assertRaises(ConnectionResetError, read_to_end, server)
        line = await self.gateway.node.logged(r".* end: service=sftp.*")
        self.assertIn("sent an SSH identification of more than 255 bytes", line[0])

    async def test_server_speaks_first(self) -> None:
        """Lines before the server's identification pass byte by byte, unasked (Requirement 45)."""
        client, server = await self.joined()
        for number in range(len(BANNER)):
            server.sendall(BANNER[number : number + 1])
            self.assertEqual(client.recv(100), BANNER[number : number + 1])
        client.sendall(b"SSH-2.0-Client\r\nthen more")
        expected = b"SSH-2.0-Client\r\nthen more"
        self.assertEqual(await in_thread(read_exactly, server, len(expected)), expected)
        line = await self.gateway.node.logged(r".* open: service=sftp.*")
        self.assertIn("server_ident='SSH-2.0-Strange_1.0 a b'", line[0])

    async def test_both_speak_at_once(self) -> None:
        """What follows an identification in the same segment arrives behind it, and once."""
        client, server = await self.joined()
        there = b"SSH-2.0-Client\r\n" + bytes(range(256)) * 40
        back = BANNER + bytes(reversed(range(256))) * 40
        client.sendall(there)
        server.sendall(back)
        self.assertEqual(await in_thread(read_exactly, server, len(there)), there)
        self.assertEqual(await in_thread(read_exactly, client, len(back)), back)


class ProtocolTests(TestCase):
    """The services that are passed through unopened."""

    async def test_tcp_over_either_channel(self) -> None:
        """A TCP service works on encrypted channels and on clear ones."""
        backend = f"{PRIVATE}:{ECHO_PORT}"
        services = [tcp_service(), service("clear", "tcp", 7001, backend, channel="never")]
        gateway = Gateway(self, services)
        gateway.backend(echo)
        await gateway.start()
        for port in (TCP_PORT, 7001):
            client = gateway.client(port)
            self.assertTrue(await in_thread(says, client, bytes(range(256)) * 4000))
            client.close()

    async def test_tls_passes_through(self) -> None:
        """The certificate that a TLS client sees and verifies is the backend's own."""
        folder = new_folder(self)
        now = datetime.now(UTC)
        ca = pki.make_ca("partner test", now, 2)
        made = pki.issue(ca, TLS_NAME, Role.DMZ, now, 2)
        (folder / "ca.pem").write_bytes(ca.certificate_pem)
        (folder / "certificate.pem").write_bytes(made.certificate_pem)
        (folder / "key.pem").write_bytes(made.key_pem)
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_side.load_cert_chain(folder / "certificate.pem", folder / "key.pem")

        def serve(peer: socket.socket) -> None:
            with server_side.wrap_socket(peer, server_side=True) as connection:
                echo(connection)

        gateway = Gateway(self, [service("portal", "tls", 8443, f"{PRIVATE}:443")])
        gateway.backend(serve, 443)
        await gateway.start()
        client_side = ssl.create_default_context(cafile=str(folder / "ca.pem"))

        def visit() -> bytes | None:
            plain = gateway.client(8443)
            with client_side.wrap_socket(plain, server_hostname=TLS_NAME) as connection:
                self.assertTrue(says(connection, b"inside TLS"))
                return connection.getpeercert(binary_form=True)

        seen = await in_thread(visit)
        self.assertEqual(seen, ssl.PEM_cert_to_DER_cert(made.certificate_pem.decode()))


class CapTests(TestCase):
    """Caps and limits of services and of the DMZ node."""

    def visitor(self, gateway: Gateway, port: int, source: str) -> socket.socket:
        """Connect from one of two addresses outside."""
        client = make_socket(gateway.outside)
        self.addCleanup(client.close)
        client.bind((source, 0))
        client.connect((gateway.host, port))
        return client

    def two_clients(self, gateway: Gateway) -> tuple[str, str]:
        """Give the outside a second address; return both."""
        add = ["ip", "address", "add", f"{SECOND_CLIENT}/24", "dev", "dmz"]
        gateway.network.run("outside", add)
        return Network.outside_address, SECOND_CLIENT

    async def test_service_caps(self) -> None:
        """A service's caps, in all and for each address, refuse in words what is beyond them."""
        gateway = Gateway(self, [ssh_service(max_sessions=3, max_sessions_per_address=2)])
        gateway.backend(announce(b"SSH-2.0-x\r"), SSHD_PORT)
        await gateway.start()
        one, two = self.two_clients(gateway)
        guests = []
        for source in (one, one, two):
            guests.append(self.visitor(gateway, SSH_PORT, source))
            self.assertEqual(await in_thread(read_exactly, guests[-1], 11), b"SSH-2.0-x\r\n")
        for source in (one, two):
            beyond = self.visitor(gateway, SSH_PORT, source)
            self.assertEqual(await in_thread(read_to_end, beyond), TooMany.ssh)
        guests[0].close()
        await gateway.dmz.logged(" end: .*bytes_out=11 ")
        again = self.visitor(gateway, SSH_PORT, one)
        self.assertEqual(await in_thread(read_exactly, again, 11), b"SSH-2.0-x\r\n")
        lines = re.findall(r" end: .*outcome=policy/admit.*", gateway.dmz.log())
        self.assertEqual(len(lines), 2)
        self.assertNotIn("policy", gateway.node.log(), "the inside was not touched")

    async def test_policy_caps(self) -> None:
        """The DMZ's own cap for an address holds over all services together (Lesson 25)."""
        services = [tcp_service(), ssh_service()]
        gateway = Gateway(self, services, policy="max_sessions_per_address = 1")
        gateway.backend(echo)
        await gateway.start()
        one, two = self.two_clients(gateway)
        first = self.visitor(gateway, TCP_PORT, one)
        self.assertTrue(await in_thread(says, first, b"hello"))
        beyond = self.visitor(gateway, SSH_PORT, one)
        self.assertEqual(await in_thread(read_to_end, beyond), TooMany.ssh)
        other = self.visitor(gateway, SSH_PORT, two)
        self.assertEqual(await in_thread(read_to_end, other), NoBackend.ssh)

    async def test_idle_timeout(self) -> None:
        """A service's idle limit ends a session in which nothing moves, and no other."""
        gateway = Gateway(self, [tcp_service(idle_timeout=3)])
        gateway.backend(echo)
        await gateway.start()
        idle, busy = gateway.client(), gateway.client()
        for client in (idle, busy):
            self.addCleanup(client.close)
            self.assertTrue(await in_thread(says, client, b"hello"))
        while not gateway.node.log().count(" end: "):
            await pause(0.2)
            self.assertTrue(await in_thread(says, busy, b"still here"))
        self.assertTrue(await in_thread(says, busy, b"still here"))
        self.assertRaises(ConnectionResetError, idle.recv, 1)
        (ended,) = re.findall(r" end: .*", gateway.node.log())
        self.assertRegex(ended, "bytes_in=5 .*outcome=timeout/relay detail='idle for too long'")


class ListenerTests(TestCase):
    """Which listeners stand, and which are refused."""

    async def test_explicit_wins_over_wildcard(self) -> None:
        """An address of its own leads to its own service, the others to the wildcard's."""
        services = [
            service("any", "tcp", TCP_PORT, f"{PRIVATE}:6001"),
            service("one", "tcp", TCP_PORT, f"{PRIVATE}:6002", host=SECOND_OUTER),
        ]
        gateway = Gateway(self, services)
        add = ["ip", "address", "add", f"{SECOND_OUTER}/24", "dev", "outside"]
        gateway.network.run("dmz", add)
        gateway.backend(announce(b"any"), 6001)
        gateway.backend(announce(b"one"), 6002)
        await gateway.start()
        for address, name in ((OUTER, b"any\n"), (SECOND_OUTER, b"one\n")) * 5:
            client = dial(gateway.outside, address, TCP_PORT)
            self.assertEqual(await in_thread(read_exactly, client, 4), name)
            client.close()

    async def test_refused_by_policy(self) -> None:
        """A listener that the DMZ's policy does not permit is named in both logs, with why."""
        services = [
            tcp_service(host=OUTER),
            service("sly", "tcp", 9999, f"{PRIVATE}:{ECHO_PORT}", host=OUTER),
        ]
        gateway = Gateway(self, services, listen=[f"{OUTER}:{TCP_PORT}"])
        gateway.backend(echo)
        gateway.dmz.start()
        gateway.node.start()
        why = rf"listener refused: .*service=sly reason=.*policy\.listen.* {OUTER}:9999"
        await gateway.dmz.logged(why)
        await gateway.node.logged(why)
        self.assertRaises(ConnectionRefusedError, gateway.client, 9999)
        self.assertTrue(await in_thread(says, gateway.client(), b"hello"))


class WireTests(TestCase):
    """What a firewall between the DMZ and the private network sees."""

    async def test_one_port_and_one_connection_a_session(self) -> None:
        """All goes to one port, a session being one connection of its own (Lessons 18 and 24)."""
        gateway = Gateway(self, [tcp_service(), ssh_service()], pool=4)
        gateway.backend(echo)
        gateway.backend(announce(b"SSH-2.0-x\r"), SSHD_PORT)
        await gateway.start()
        # An uplink, and a pool for each of the two kinds of channels.
        idle = 1 + 2 * 4
        await eventually(lambda: len(self.to_the_dmz(gateway)) == idle, "the pools are full")
        for number in range(1, 6):
            client = gateway.client()
            self.addCleanup(client.close)
            self.assertTrue(await in_thread(says, client, b"hello"))
            await eventually(
                lambda number=number: len(self.to_the_dmz(gateway)) == idle + number,  # type: ignore[misc]
                f"{number} sessions are as many connections more",
            )
        self.assertEqual(set(self.to_the_dmz(gateway)), {UPLINK_PORT})

    def to_the_dmz(self, gateway: Gateway) -> list[int]:
        """The ports of all that the private network has connected to in the DMZ."""
        dmz = socket.inet_aton(Network.dmz_inner_address)
        found = []
        for line in Path(f"/proc/{gateway.node.pid}/net/tcp").read_text().splitlines()[1:]:
            _, _, remote, state, *_ = line.split()
            host, port = remote.split(":")
            if struct.pack("=I", int(host, 16)) == dmz and state == "01":
                found.append(int(port, 16))
        return found


class SessionLineTests(TestCase):
    """The two lines that a session leaves in the log of each node."""

    FIELDS: Final = ("service", "client", "bytes_in", "bytes_out", "seconds", "outcome")

    async def test_session_lines(self) -> None:
        """Both nodes log a session's start and end under one id; only the inside names backends."""
        gateway = Gateway(self, [tcp_service()])
        gateway.backend(echo)
        await gateway.start()
        client = gateway.client()
        host, port = client.getsockname()
        self.assertTrue(await in_thread(says, client, b"x" * 1000))
        await pause(0.3)
        client.close()
        for node in (gateway.dmz, gateway.node):
            await node.logged(" end: ")
        outer, inner = self.lines(gateway.dmz.log()), self.lines(gateway.node.log())
        self.assertEqual([which for _, which, _ in outer], ["open", "end"])
        self.assertEqual([which for _, which, _ in inner], ["open", "end"])
        self.assertEqual(len({identity for identity, _, _ in outer + inner}), 1)
        for _, which, fields in outer + inner:
            self.assertEqual(fields["service"], "echo")
            self.assertEqual(fields["client"], f"{host}:{port}")
            if which == "end":
                self.assertEqual((fields["bytes_in"], fields["bytes_out"]), ("1000", "1000"))
                self.assertTrue(0.25 < float(fields["seconds"]) < 60)
                self.assertEqual(fields["outcome"], "done/relay")
        self.assertEqual({fields["node"] for _, _, fields in outer}, {"node-a"})
        self.assertEqual({fields["backend"] for _, _, fields in inner}, {f"{PRIVATE}:{ECHO_PORT}"})
        self.assertNotIn("backend", gateway.dmz.log())
        self.assertNotIn(str(ECHO_PORT), gateway.dmz.log())

    def lines(self, log: str) -> list[tuple[str, str, dict[str, str]]]:
        """Return id, kind and fields of each session line."""
        found = re.findall(r"session (\w+) (open|end): (.*)", log)
        return [
            (identity, which, dict(re.findall(r"(\w+)=(\S+)", rest)))
            for identity, which, rest in found
        ]
