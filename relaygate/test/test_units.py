"""systemd's units: what systemd says of them, and both programs under what they take away."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

import relaygate
from relaygate.cli.units import unit, unit_name
from relaygate.config import DMZConfig, InternalConfig
from relaygate.draining import LAST_TURNS_S
from relaygate.identity import Role
from relaygate.internal import STOP_LIMIT_S
from relaygate.notify import Notifier
from relaygate.test.netns import missing, require_program
from relaygate.test.nodes import Authority, Node
from relaygate.test.programs import new_folder, pause

ETC = Path(relaygate.__file__).parents[1] / "etc"
# systemd-analyze counts from 0 (nothing is possible) to 100; below 20 is its own word "OK".
MOST_EXPOSED = 18
CAP_NET_BIND_SERVICE = 1 << 10
WITHIN_S = 30.0


class UnitTests(SynchronousTestCase):
    """The files under ``etc/``, as systemd judges them."""

    def verify(self, *argv: str) -> None:
        """Run systemd-analyze; it must have nothing to say against it."""
        done = subprocess.run(
            [require_program("systemd-analyze"), *argv],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)

    def test_files_are_the_text(self) -> None:
        """``etc/`` holds what ``relaygate init`` writes, so the two cannot differ."""
        for role in Role:
            self.assertEqual((ETC / unit_name(role)).read_text(), unit(role))

    def test_systemd_understands_them(self) -> None:
        """``systemd-analyze verify`` finds nothing wrong, with this environment as the prefix."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        for role in Role:
            file = folder / unit_name(role)
            file.write_text(unit(role, prefix=sys.prefix))
            self.verify("verify", "--man=no", str(file))

    def test_a_drain_fits(self) -> None:
        """Systemd waits longer than a file without ``[stop]`` drains, and the end takes."""
        longest = max(InternalConfig.drain_s, DMZConfig.drain_s) + STOP_LIMIT_S + LAST_TURNS_S
        for role in Role:
            found = re.search(r"^TimeoutStopSec=(\d+)$", unit(role), re.MULTILINE)
            assert found is not None
            self.assertGreaterEqual(int(found[1]), longest + 5)

    def test_they_are_confined(self) -> None:
        """``systemd-analyze security`` calls neither exposed."""
        for role in Role:
            file = ETC / unit_name(role)
            self.verify(
                "security", "--offline=yes", "--no-pager", f"--threshold={MOST_EXPOSED}", str(file)
            )


class NotifierTests(SynchronousTestCase):
    """What systemd hears."""

    def setUp(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.setblocking(False)

    def heard(self) -> list[bytes]:
        """Everything that has come."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096))
            except BlockingIOError:
                return found

    def test_a_life(self) -> None:
        """Ready, alive at half of the time asked for, reloading, ready, stopping, and silence."""
        self.socket.bind("\0relaygate-test-" + str(os.getpid()))
        address = "@relaygate-test-" + str(os.getpid())
        clock = Clock()
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000"}, 7)
        notifier.ready(clock)
        self.assertEqual(self.heard(), [b"READY=1", b"WATCHDOG=1"])
        clock.advance(29)
        self.assertEqual(self.heard(), [])
        clock.advance(1)
        self.assertEqual(self.heard(), [b"WATCHDOG=1"])
        notifier.reloading(12.5)
        notifier.ready(clock)
        self.assertEqual(self.heard(), [b"RELOADING=1\nMONOTONIC_USEC=12500000", b"READY=1"])
        notifier.stopping()
        clock.advance(300)
        self.assertEqual(self.heard(), [b"STOPPING=1"])

    def test_nobody_listens(self) -> None:
        """Without systemd, or with a socket that is gone, or with nonsense, nothing happens."""
        for environ in (
            {},
            {"NOTIFY_SOCKET": ""},
            {"NOTIFY_SOCKET": "relative"},
            {"NOTIFY_SOCKET": "/no/such/socket", "WATCHDOG_USEC": "soon"},
            {"NOTIFY_SOCKET": "/no/such/socket", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "8"},
        ):
            clock = Clock()
            notifier = Notifier(environ, 7)
            notifier.reloading(1.0)
            notifier.ready(clock)
            notifier.stopping()
            self.assertEqual(clock.getDelayedCalls(), [], environ)


class ConfinedTests(TestCase):
    """Both programs without what the units take away.

    They keep the user's number, since the interpreter may lie where no other user can read it; a
    number 0 without a capability is no more than any other.
    """

    def setUp(self) -> None:
        if os.geteuid():
            missing("only root can give rights up for another")
        self.folder = new_folder(self)
        # A socket's path has 107 bytes at the most, and a checkout may lie deeper than that.
        place = Path(tempfile.mkdtemp(prefix="relaygate-"))
        place.chmod(0o755)
        self.addCleanup(shutil.rmtree, place)
        self.address = place / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(str(self.address))
        self.address.chmod(0o777)
        self.socket.setblocking(False)

    async def hear(self, words: bytes) -> None:
        """Wait until systemd would have heard *words*."""
        for _ in range(int(WITHIN_S / 0.05)):
            try:
                if self.socket.recv(4096).startswith(words):
                    return
            except BlockingIOError:
                await pause(0.05)
        self.fail(f"never heard {words!r}")

    def check_status(self, pid: int, capabilities: int) -> None:
        """The kernel agrees that process *pid* has these *capabilities* and can gain none."""
        status = Path(f"/proc/{pid}/status").read_text()
        self.assertIn(f"CapEff:\t{capabilities:016x}\n", status)
        self.assertIn("NoNewPrivs:\t1\n", status)

    async def live(self, node: Node, capabilities: int) -> None:
        """Let *node* start, reload and end, as systemd would."""
        node.start()
        await self.hear(b"READY=1")
        node.kill(signal.SIGHUP)
        await self.hear(b"RELOADING=1")
        await self.hear(b"READY=1")
        self.check_status(node.pid, capabilities)
        # twistd ends by the signal that it got, which systemd takes for a good end.
        self.assertEqual(await node.stop(), -signal.SIGTERM)
        await self.hear(b"STOPPING=1")
        self.assertNotIn("Traceback", node.log())

    async def test_both_programs(self) -> None:
        """Each is ready, reloads and ends; a low port needs the one capability, and has it."""
        setpriv = require_program("setpriv")

        authority = Authority(self)
        plain = [
            *("env", f"NOTIFY_SOCKET={self.address}", "PYTHONDONTWRITEBYTECODE=1", setpriv),
            *("--clear-groups", "--no-new-privs"),
        ]
        port = [*plain, "--inh-caps=-all", "--bounding-set=-all,+net_bind_service"]
        none = [*plain, "--inh-caps=-all", "--bounding-set=-all"]
        dmz = Node(
            self,
            authority,
            Role.DMZ,
            "dmz",
            '[uplink]\nlisten = "127.0.9.1:943"\nnodes = ["node-a"]\n'
            '[policy]\nlisten = ["127.0.9.1:9000"]\n',
            before=port,
        )
        await self.live(dmz, CAP_NET_BIND_SERVICE)
        internal = Node(
            self,
            authority,
            Role.INTERNAL,
            "node-a",
            '[[gateway]]\naddress = "127.0.9.1:943"\nname = "dmz"\n'
            '[[service]]\nname = "web"\nprotocol = "tls"\nlisten = "127.0.9.1:9000"\n'
            'backends = ["127.0.9.1:9001"]\n',
            before=none,
        )
        await self.live(internal, 0)
