"""The end-to-end harness itself: what the tests of the gateway stand on has to be proved first."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate.test import netns
from relaygate.test.netns import Network, Place
from relaygate.test.openssh import Keys, SSHServer
from relaygate.test.peers import Handler, Server, dial, echo, eventually, in_thread, reset
from relaygate.test.ports import free_port
from relaygate.test.programs import Program, Where, completed, new_folder, pause

PORT = 4022

# Answers each line with the same line, and says so when it listens.
ECHO_SERVER = """
import socket, sys, threading
def serve(connection):
    with connection, connection.makefile("rwb", buffering=0) as stream:
        for line in stream:
            stream.write(line)
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
"""

# Sends a line on one connection for each line on its standard input, and tells what came of it.
ECHO_CLIENT = """
import socket, sys
try:
    address, patience = (sys.argv[1], int(sys.argv[2])), float(sys.argv[3])
    connection = socket.create_connection(address, timeout=patience)
    with connection.makefile("rwb", buffering=0) as stream:
        for line in sys.stdin.buffer:
            stream.write(line)
            print("answered" if stream.readline() == line else "closed", flush=True)
except TimeoutError:
    print("silence", flush=True)
except OSError as error:
    print("refused:", error.strerror, flush=True)
"""


class NetworkTests(SynchronousTestCase):
    """Three places, and which of them can talk to which."""

    def setUp(self) -> None:
        netns.require()
        self.network = Network()
        self.addCleanup(self.network.destroy)
        self.network.create()

    def serve(self, place: Place, address: str) -> None:
        """Run an echo server in *place*."""
        argv = [sys.executable, "-c", ECHO_SERVER, address, str(PORT)]
        server = self.network.popen(place, argv)
        assert server.stdout is not None
        self.assertEqual(server.stdout.readline(), b"listening\n")

    def call(self, place: Place, address: str) -> str:
        """Say one line to a server from *place*, and return what came of it."""
        argv = [sys.executable, "-c", ECHO_CLIENT, address, str(PORT), "1"]
        return self.network.run(place, argv, stdin="hello\n").stdout.strip()

    def connect(
        self, place: Place, address: str, *, patience_s: int = 1
    ) -> subprocess.Popen[bytes]:
        """Open a connection from *place* for :meth:`say`; its waits are *patience_s* long."""
        argv = [sys.executable, "-c", ECHO_CLIENT, address, str(PORT), str(patience_s)]
        return self.network.popen(place, argv)

    def say(self, client: subprocess.Popen[bytes]) -> bytes:
        """Say one line on a connection, and return what came of it."""
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        return client.stdout.readline().strip()

    def test_neighbours_reach_each_other(self) -> None:
        """Outside and DMZ reach each other, and private reaches the DMZ, on IPv4 and IPv6."""
        network = self.network
        servers: list[tuple[Place, str]] = [
            ("dmz", network.dmz_outer_address),
            ("dmz", network.dmz_outer_address_v6),
            ("outside", network.outside_address),
            ("outside", network.outside_address_v6),
            ("dmz", network.dmz_inner_address),
            ("dmz", network.dmz_inner_address_v6),
        ]
        for place, address in servers:
            self.serve(place, address)
        self.assertEqual(self.call("outside", network.dmz_outer_address), "answered")
        self.assertEqual(self.call("outside", network.dmz_outer_address_v6), "answered")
        self.assertEqual(self.call("dmz", network.outside_address), "answered")
        self.assertEqual(self.call("dmz", network.outside_address_v6), "answered")
        self.assertEqual(self.call("private", network.dmz_inner_address), "answered")
        self.assertEqual(self.call("private", network.dmz_inner_address_v6), "answered")
        self.assertEqual(network.inbound_attempts(), 0)

    def test_loopback_is_up_everywhere(self) -> None:
        """A process in each place reaches another one in the same place on loopback."""
        for place in netns.PLACES:
            self.serve(place, "127.0.0.1")
            self.assertEqual(self.call(place, "127.0.0.1"), "answered")

    def test_outside_has_no_route_to_private(self) -> None:
        """Outside and private know no way to each other."""
        network = self.network
        self.serve("private", network.private_address)
        self.serve("outside", network.outside_address)
        unreachable = "refused: Network is unreachable"
        self.assertEqual(self.call("outside", network.private_address), unreachable)
        self.assertEqual(self.call("outside", network.private_address_v6), unreachable)
        self.assertEqual(self.call("private", network.outside_address), unreachable)
        self.assertEqual(self.call("private", network.outside_address_v6), unreachable)

    def test_dmz_does_not_forward(self) -> None:
        """Even with routes through it on both sides, the DMZ carries no packet across."""
        network = self.network
        self.serve("private", network.private_address)
        routes: list[tuple[Place, str, str]] = [
            ("outside", "198.18.0.0/24", network.dmz_outer_address),
            ("private", "203.0.113.0/24", network.dmz_inner_address),
        ]
        for place, target, via in routes:
            network.run(place, ["ip", "route", "add", target, "via", via])
        self.assertEqual(self.call("outside", network.private_address), "silence")
        self.assertEqual(network.inbound_attempts(), 0)

    def test_inbound_attempts_are_dropped_and_counted(self) -> None:
        """A connection from the DMZ into private gets no answer, and the counter has seen it."""
        network = self.network
        for address in (network.private_address, network.private_address_v6):
            self.serve("private", address)
            before = network.inbound_attempts()
            self.assertEqual(self.call("dmz", address), "silence")
            self.assertGreater(network.inbound_attempts(), before)

    def test_inbound_datagrams_are_counted(self) -> None:
        """A datagram that the DMZ sends into private unasked is counted as well."""
        target = (self.network.private_address, PORT)
        code = f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', {target!r})"
        self.network.run("dmz", [sys.executable, "-c", code])
        self.assertEqual(self.network.inbound_attempts(), 1)

    def test_cut_and_mend(self) -> None:
        """A cut is silent and spares the other wire; once mended, the same connection goes on."""
        network = self.network
        self.serve("dmz", network.dmz_inner_address)
        self.serve("dmz", network.dmz_outer_address)
        connection = self.connect("private", network.dmz_inner_address, patience_s=30)
        self.assertEqual(self.say(connection), b"answered")
        network.cut("dmz", "private")
        assert connection.stdin is not None
        assert connection.stdout is not None
        connection.stdin.write(b"into the void\n")
        connection.stdin.flush()
        self.assertEqual(self.call("outside", network.dmz_outer_address), "answered")
        self.assertEqual(self.call("private", network.dmz_inner_address), "silence")
        self.assertEqual(select.select([connection.stdout], [], [], 0)[0], [])
        network.mend()
        self.assertEqual(connection.stdout.readline(), b"answered\n")
        self.assertEqual(self.call("private", network.dmz_inner_address), "answered")
        self.assertEqual(network.inbound_attempts(), 0)

    def test_cut_of_established_connections_only(self) -> None:
        """Connections that stand go mute on such a cut, and new ones work from both sides."""
        network = self.network
        self.serve("dmz", network.dmz_outer_address)
        self.serve("outside", network.outside_address)
        old = self.connect("outside", network.dmz_outer_address)
        self.assertEqual(self.say(old), b"answered")
        network.cut("outside", "dmz", established_only=True)
        self.assertEqual(self.say(old), b"silence")
        self.assertEqual(self.call("outside", network.dmz_outer_address), "answered")
        self.assertEqual(self.call("dmz", network.outside_address), "answered")

    def test_destroy_ends_processes_and_namespaces(self) -> None:
        """Nothing of a network is left, even while a server ran in it, and twice is no mistake."""
        self.serve("private", "127.0.0.1")
        ours = {self.network.ns_argv(place, [])[3] for place in netns.PLACES}
        self.assertTrue(ours <= netns.existing())
        self.network.destroy()
        self.assertFalse(ours & netns.existing())
        self.network.destroy()

    def test_leftovers_of_the_dead_are_removed(self) -> None:
        """A namespace of a test process that is gone is removed, and one of a live one is not."""
        child = subprocess.Popen(["true"])
        child.wait(10)
        dead, alive = f"relaygate-{child.pid}-1-dmz", f"relaygate-{os.getpid()}-0-kept"
        for name in (dead, alive):
            subprocess.run(["ip", "netns", "add", name], check=True, timeout=10)
            self.addCleanup(subprocess.run, ["ip", "netns", "delete", name], capture_output=True)
        netns.remove_leftovers()
        self.assertIn(alive, netns.existing())
        self.assertNotIn(dead, netns.existing())


class ProgramTests(TestCase):
    """Real processes: their words, their figures, and that none of them outlives its test."""

    def program(self, code: str) -> Program:
        """Make a program of some lines of Python; it is not started."""
        return Program(self, "program", [sys.executable, "-u", "-c", code])

    async def test_logged_finds_what_is_said(self) -> None:
        """A wait ends with the match, and one for something new does not see what is older."""
        program = self.program("import time; print('one 1'); time.sleep(60)")
        program.start()
        match = await program.logged(r"^one (\d)$")
        self.assertEqual(match[1], "1")
        with self.assertRaises(AssertionError):
            await program.logged("one", timeout=0.1, after=match.end())

    async def test_logged_fails_at_once_when_the_program_is_gone(self) -> None:
        """A wait for the words of a dead program ends long before its limit, with the log."""
        program = self.program("print('my last words')")
        program.start()
        with self.assertRaisesRegex(AssertionError, r"has ended(?s:.*)my last words"):
            await program.logged("never said", timeout=3600)

    async def test_restart_shows_the_new_run_only(self) -> None:
        """After a restart the log begins anew, under another process id."""
        program = self.program("import os, time; print('pid', os.getpid()); time.sleep(60)")
        program.start()
        first = (await program.logged(r"pid (\d+)"))[1]
        await program.restart()
        second = (await program.logged(r"pid (\d+)"))[1]
        self.assertEqual(second, str(program.pid))
        self.assertNotEqual(first, second)
        self.assertFalse(alive(int(first)))

    async def test_status_and_signals(self) -> None:
        """The end by itself gives the status, and the end by a signal its negative number."""
        finished = self.program("raise SystemExit(7)")
        finished.start()
        self.assertEqual(await finished.ended(), 7)
        killed = self.program("import time; time.sleep(60)")
        killed.start()
        killed.kill(signal.SIGKILL)
        self.assertEqual(await killed.ended(), -signal.SIGKILL)
        self.assertFalse(killed.running)

    async def test_a_stopped_program_can_be_ended(self) -> None:
        """A program that was frozen still ends by SIGTERM, without force."""
        program = self.program("import time; print('up'); time.sleep(60)")
        program.start()
        await program.logged("up")
        program.kill(signal.SIGSTOP)
        self.assertEqual(await program.stop(), -signal.SIGTERM)

    async def test_clean_up_ends_descendants(self) -> None:
        """The clean-up ends what a program had started, although the program was killed before."""
        code = "import subprocess, time; c = subprocess.Popen(['sleep', '60'])"
        program = self.program(f"{code}; print('child', c.pid); time.sleep(60)")
        program.start()
        child = int((await program.logged(r"child (\d+)"))[1])
        program.kill(signal.SIGKILL)
        await program.ended()
        self.assertTrue(alive(child))
        await program.clean_up()
        for _ in range(500):
            if not alive(child):
                return
            await pause(0.01)
        self.fail("the child of the program still runs")

    async def test_memory_search_finds_what_is_there(self) -> None:
        """A word that a program holds is found, a word that it does not hold is not."""
        # Each is put together where it is used: the words must not stand in the code as they are.
        held, absent = b"-".join([b"held", b"word"] * 5), b"-".join([b"absent", b"word"] * 5)
        program = self.program(
            "import time; w = b'-'.join([b'held', b'word'] * 5); print('up'); time.sleep(60)"
        )
        program.start()
        await program.logged("up")
        self.assertEqual(program.memory_contains([absent, held]), [held])

    async def test_figures(self) -> None:
        """Resident memory and open descriptors follow what the program does."""
        program = self.program(
            "import time; x = b'x' * 50_000_000; f = open('/proc/version');"
            "print('up'); time.sleep(60)"
        )
        program.start()
        await program.logged("up")
        self.assertGreater(program.rss_kb(), 50_000_000 // 1024)
        self.assertIn("/proc/version", program.fds())


class ServerTests(TestCase):
    """The tests' own servers: one that closes for a reason of its own says so."""

    def setUp(self) -> None:
        netns.require()
        self.network = Network()
        self.addCleanup(self.network.destroy)
        self.network.create()

    async def served(self, handler: Handler, *, rudely: bool = False) -> Server:
        """A server whose *handler* has had one client."""
        where: Where = (self.network, "private")
        server = Server(self, where, Network.private_address, PORT, handler)
        client = dial(where, Network.private_address, PORT)
        self.addCleanup(client.close)
        client.sendall(b"hello")
        if rudely:
            await in_thread(client.recv, 5)
            reset(client)
        await eventually(
            lambda: bool(server.accepted) and server.accepted[0].fileno() < 0, "it has closed"
        )
        return server

    async def test_its_own_failure_is_told(self) -> None:
        """A handler whose descriptor somebody else has closed fails the test that it serves."""

        def robbed(peer: socket.socket) -> None:
            taken = socket.socket(fileno=peer.detach())
            try:
                echo(peer)
            finally:
                taken.close()

        server = await self.served(robbed)
        error = self.assertRaises(AssertionError, server.close)
        self.assertIn("Bad file descriptor", str(error))
        server.close()

    async def test_what_clients_do_is_not(self) -> None:
        """A client that leaves in whatever way is none of a server's failures."""
        server = await self.served(echo, rudely=True)
        server.close()


class OpenSSHTests(TestCase):
    """The real sshd and its clients, across the wire between two namespaces."""

    async def test_clients_reach_the_server(self) -> None:
        """Each client does its job against sshd in the DMZ, from outside, with the keys given."""
        netns.require()
        network = Network()
        self.addCleanup(network.destroy)
        network.create()
        keys = Keys(self)
        server = SSHServer(self, keys, network.dmz_outer_address, PORT, where=(network, "dmz"))
        await server.ready()
        host = network.dmz_outer_address
        outside: Where = (network, "outside")
        folder = new_folder(self)
        source = folder / "source"
        source.write_bytes(os.urandom(200_000))
        (folder / "batch").write_text(f"put {source} {folder / 'by-sftp'}\n")
        for argv in (
            keys.sftp(host, PORT, folder / "batch"),
            keys.scp_to(host, PORT, source, folder / "by-scp"),
            keys.scp_from(host, PORT, source, folder / "back"),
            keys.rsync_to(host, PORT, source, folder / "by-rsync"),
        ):
            result = await completed(self, argv, where=outside)
            self.assertEqual((result.status, result.errors), (0, ""), argv)
        for name in ("by-sftp", "by-scp", "back", "by-rsync"):
            self.assertEqual((folder / name).read_bytes(), source.read_bytes(), name)
        counted = await completed(self, keys.ssh(host, PORT, "wc -c"), where=outside, stdin=source)
        self.assertEqual(counted.output.split(), [b"200000"])

    async def test_another_host_key_is_refused(self) -> None:
        """The clients trust the one host key: whoever answers with another one is turned away."""
        keys, stranger = Keys(self), Keys(self)
        port = free_port()
        server = SSHServer(self, stranger, "127.0.0.1", port)
        await server.ready()
        result = await completed(self, keys.ssh("127.0.0.1", port, "true"))
        self.assertEqual(result.status, 255)
        self.assertIn("Host key verification failed", result.errors)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
