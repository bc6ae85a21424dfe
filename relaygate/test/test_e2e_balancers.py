"""
Load balancers in front and web servers behind, real ones: everybody knows the client's address.

HAProxy stands in the DMZ before the DMZ node and says who the client is (version 2).  Behind the
internal node HAProxy and nginx demand a header of either version, and answer with what it said.
"""

from __future__ import annotations

import re
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test import netns
from relaygate.test.gateway import Gateway, service
from relaygate.test.netns import Network
from relaygate.test.peers import dial, eventually, in_thread, listening, make_socket, read_to_end
from relaygate.test.programs import Program, new_folder

OUTER: Final = Network.dmz_outer_address
PRIVATE: Final = Network.private_address
# By what stands behind and the version of the header: the listener, and the backend's port.
BEHIND: Final = {
    ("haproxy", "v1"): (7101, 6101),
    ("haproxy", "v2"): (7102, 6101),
    ("nginx", "v1"): (7103, 6102),
    ("nginx", "v2"): (7104, 6102),
}
# HAProxy's own listener before each of them is so much higher.
IN_FRONT: Final = 1000

_DEFAULTS: Final = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
"""
_ANSWER: Final = "%[src] %[src_port] %[fc_pp_unique_id]"


def haproxy(case: TestCase, where: tuple[Network, netns.Place], config: str) -> Program:
    """Run HAProxy with *config*."""
    file = new_folder(case) / "haproxy.cfg"
    file.write_text(_DEFAULTS + config)
    argv = [netns.require_program("haproxy"), "-db", "-f", str(file)]
    program = Program(case, "haproxy", argv, where=where)
    program.start()
    return program


def nginx(case: TestCase, where: tuple[Network, netns.Place], port: int) -> Program:
    """Run nginx, which answers with what the header said."""
    folder = new_folder(case)
    paths = " ".join(
        f"{kind}_temp_path {folder / kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; master_process off; pid {folder / 'pid'}; error_log stderr;\n"
        "events {}\n"
        f"http {{ access_log off; {paths}\n"
        f"  server {{ listen {PRIVATE}:{port} proxy_protocol; default_type text/plain;\n"
        '    location / { return 200 "$proxy_protocol_addr $proxy_protocol_port -"; } } }\n'
    )
    argv = [netns.require_program("nginx"), "-p", str(folder), "-c", str(file)]
    program = Program(case, "nginx", argv, where=where)
    program.start()
    return program


class BalancerTests(TestCase):
    """Addresses are right at every place (Requirements 72, 73, 75 and 76, Lesson 12)."""

    timeout = 240

    async def setUp(self) -> None:  # type: ignore[override]
        services = [
            service(f"{name}-{version}", "tcp", port, f"{PRIVATE}:{target}", proxy_protocol=version)
            for (name, version), (port, target) in BEHIND.items()
        ]
        self.gateway = gateway = Gateway(self, services, policy=f'trusted_proxies = ["{OUTER}"]\n')
        answer = f"http-request return status 200 content-type text/plain lf-string '{_ANSWER}'"
        behind = haproxy(
            self,
            gateway.private,
            f"frontend echo\n    mode http\n    bind {PRIVATE}:6101 accept-proxy\n    {answer}\n",
        )
        web = nginx(self, gateway.private, 6102)
        front = "".join(
            f"listen front-{port}\n    bind {OUTER}:{port + IN_FRONT}\n"
            f"    server dmz {OUTER}:{port} send-proxy-v2 check inter 500ms\n"
            for port, _ in BEHIND.values()
        )
        await gateway.start()
        self.front = haproxy(self, (gateway.network, "dmz"), front)
        for program, port in ((behind, 6101), (web, 6102), (self.front, 7101 + IN_FRONT)):
            await eventually(
                lambda: any(port == each for _, each in listening(program.pid)),  # noqa: B023
                f"{program.name} on port {port}",
                30,
            )

    async def asked(self, port: int) -> tuple[str, str, str]:
        """What the backend says of a client that comes to *port*: address, port, session."""
        client = dial(self.gateway.outside, OUTER, port)
        self.addCleanup(client.close)
        self.port = client.getsockname()[1]
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = (await in_thread(lambda: read_to_end(client))).decode()
        self.assertIn(" 200 ", answer)
        address, source, session = answer.rpartition("\r\n\r\n")[2].split(" ")
        return address, source, session

    async def test_addresses(self) -> None:
        """Straight, and through HAProxy, the client's own address and port reach both logs and
        every backend, and the session's id reaches those of version 2.
        """
        for (name, version), (port, _) in BEHIND.items():
            for way in (0, IN_FRONT):
                seen = [len(node.log()) for node in (self.gateway.dmz, self.gateway.node)]
                address, source, session = await self.asked(port + way)
                told = (name, version, way)
                self.assertEqual((address, source), (Network.outside_address, str(self.port)), told)
                line = rf"session ([0-9a-f]{{16}}) open: .*client={re.escape(address)}:{self.port} "
                found = [
                    (await node.logged(line, timeout=30, after=before))[1]
                    for node, before in zip(
                        (self.gateway.dmz, self.gateway.node), seen, strict=True
                    )
                ]
                self.assertEqual(found[0], found[1], told)
                if (name, version) == ("haproxy", "v2"):
                    self.assertEqual(session, found[0], told)
        # HAProxy's own looks, two a second at each listener, are nobody's sessions.
        self.assertNotIn(f"client={OUTER}:", self.gateway.dmz.log())

    async def test_forged(self) -> None:
        """A client that brings a header of its own is told apart by its real address: the header
        is payload, which no web server takes for a request (Requirements 72 and 76).
        """
        client = dial(self.gateway.outside, OUTER, 7104)
        self.addCleanup(client.close)
        port = client.getsockname()[1]
        client.sendall(b"PROXY TCP4 192.0.2.99 192.0.2.98 1 2\r\nGET / HTTP/1.0\r\n\r\n")
        answer = await in_thread(lambda: read_to_end(client))
        self.assertNotIn(b" 200 ", answer)
        await self.gateway.dmz.logged(f"client={Network.outside_address}:{port} ", timeout=30)
        self.assertNotIn("192.0.2.99", self.gateway.dmz.log() + self.gateway.node.log())

    async def test_headerless_from_the_balancer(self) -> None:
        """From the balancer's address nobody comes in without a header (Requirement 72)."""
        with make_socket((self.gateway.network, "dmz")) as skt:
            skt.settimeout(30)
            skt.bind((OUTER, 0))
            skt.connect((OUTER, 7101))
            skt.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with self.assertRaises(ConnectionResetError):
                await in_thread(lambda: skt.recv(1))
        await self.gateway.dmz.logged("connection without PROXY header reset: proxy=", timeout=30)
