"""asyncssh's own tests of channels and streams, with the gateway between its clients and servers.

They open SSH connections, break them off and half-close them in ways that no client of ours would
think of. Some fail in some places by themselves, so what counts is that the gateway changes none.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import sys
import tarfile
from pathlib import Path
from typing import Final
from unittest import SkipTest, mock

from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate.identity import Role
from relaygate.test.gateway import START_LIMIT_S, service
from relaygate.test.netns import REQUIRE_ALL, require_program
from relaygate.test.nodes import Authority, Node
from relaygate.test.peers import eventually, listening
from relaygate.test.programs import completed, new_folder
from relaygate.test.suites import PASSED, Source, SuiteRun, differences, unpacked

ASYNCSSH: Final = Source(
    "asyncssh", "2.24.1", "efcd36e9b35f79873535b06444a7c9b0a3c61d97081b208c7fdd3fd8a40f1eca"
)
MODULES: Final = ("test_channel", "test_stream")

# As many servers as one of their tests has at one time.
SERVERS: Final = 2

# This version has 150 tests in the two modules. Each opens a connection, and all pass where nothing
# is missing; fewer than these and the comparison would say too little.
FLOOR_PASSED: Final = 140
FLOOR_CONNECTING: Final = 120

# One run takes 20 seconds on an idle machine with two cores, most of it for making RSA keys.
RUN_LIMIT_S: Final = 150.0
HOST: Final = "127.0.0.1"


class AsyncSSHTests(TestCase):
    """Two runs, which must end alike."""

    timeout = 480

    def reserve_port(self) -> int:
        """
        Return a free port, for one listener with ``SO_REUSEADDR``.

        It stays bound until the test is over, so the kernel gives it to nobody else meanwhile.
        """
        holder = socket.socket()
        self.addCleanup(holder.close)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((HOST, 0))
        port: int = holder.getsockname()[1]
        return port

    async def start_gateway(self) -> tuple[Node, Node, dict[int, int]]:
        """
        Start a DMZ node and an internal node with a service for each of :data:`SERVERS`.

        Returns both, and the listeners' ports by those of the backends.
        """
        uplink = f"{HOST}:{self.reserve_port()}"
        routes = {self.reserve_port(): self.reserve_port() for _ in range(SERVERS)}
        addresses = {(HOST, listener) for listener in routes.values()}
        authority = Authority(self)
        allowed = json.dumps([f"{HOST}:{listener}" for listener in routes.values()])
        dmz = Node(
            self,
            authority,
            Role.DMZ,
            "dmz",
            f'[uplink]\nlisten = "{uplink}"\nnodes = ["node-a"]\n[policy]\nlisten = {allowed}\n',
        )
        internal = Node(
            self,
            authority,
            Role.INTERNAL,
            "node-a",
            f'[[gateway]]\naddress = "{uplink}"\nname = "dmz"\n'
            + "".join(
                service(f"asyncssh-{number}", "ssh", listener, f"{HOST}:{backend}", host=HOST)
                for number, (backend, listener) in enumerate(routes.items())
            ),
        )
        dmz.start()
        internal.start()
        await eventually(
            lambda: addresses <= listening(dmz.pid), "the listeners opened", START_LIMIT_S
        )
        return dmz, internal, routes

    async def run_suite(self, suite: Path, routes: dict[int, int]) -> SuiteRun:
        """Run the modules in a process of their own, through the gateway if there are *routes*."""
        report = new_folder(self) / "report.json"
        argv = [sys.executable, "-m", "relaygate.test.asyncssh_driver", str(suite), str(report)]
        argv += [",".join(MODULES), *(f"{backend}:{at}" for backend, at in routes.items())]
        await completed(self, argv, timeout=RUN_LIMIT_S)
        return SuiteRun.read(report)

    async def test_channels_and_streams(self) -> None:
        """Every test of theirs ends through the gateway as it does without it (Lesson 3)."""
        require_program("ssh-agent")
        suite = await unpacked(self, ASYNCSSH)
        direct = await self.run_suite(suite, {})
        dmz, internal, routes = await self.start_gateway()
        through = await self.run_suite(suite, routes)

        self.assertEqual(differences(direct, through), [])
        self.assertGreaterEqual(len(through.passed), FLOOR_PASSED)
        self.assertGreaterEqual(len(through.connecting), FLOOR_CONNECTING)

        # All clients dialled the listeners, and each of them became a session on both nodes.
        listeners = {f"{HOST}:{listener}" for listener in routes.values()}
        self.assertEqual(set(through.dialled), listeners)
        for node in (dmz, internal):
            await self.check_sessions(node, sum(through.connections.values()))

    async def check_sessions(self, node: Node, at_least: int) -> None:
        """Check in a node's log that sessions were opened, that all end, and that nothing broke."""

        def sessions(what: str) -> set[str]:
            return set(re.findall(rf"session (\w+) {what}: service=asyncssh-", node.log()))

        opened = sessions("open")
        self.assertGreaterEqual(len(opened), at_least, node.name)
        await eventually(lambda: opened <= sessions("end"), f"all sessions of {node.name} ended")
        self.assertNotIn("Traceback", node.log())


class FetchTests(TestCase):
    """What is done where an archive, or the right one, cannot be had; all without a network."""

    def setUp(self) -> None:
        self.cache = new_folder(self)
        self.offer = new_folder(self)
        self.set_environment(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(self.offer), **{REQUIRE_ALL: "0"})

    def set_environment(self, **variables: str) -> None:
        """Set variables for this test and the processes that it starts."""
        changed = mock.patch.dict(os.environ, variables)
        changed.start()
        self.addCleanup(changed.stop)

    def make_archive(self, folder: Path, content: bytes) -> Source:
        """Write the archive of a little suite into *folder*."""
        member = tarfile.TarInfo("suite-1.0/tests/file")
        member.size = len(content)
        file = folder / "suite-1.0.tar.gz"
        with tarfile.open(file, "w:gz") as archive:
            archive.addfile(member, io.BytesIO(content))
        return Source("suite", "1.0", hashlib.sha256(file.read_bytes()).hexdigest())

    async def test_cached_archive_needs_no_pip(self) -> None:
        """What is in the cache, and is what was pinned, is unpacked without asking anybody."""
        source = self.make_archive(self.cache, b"right")
        folder = await unpacked(self, source, self.cache)
        self.assertEqual((folder / "tests" / "file").read_bytes(), b"right")

    async def test_missing_archive_is_skipped_aloud(self) -> None:
        """Where pip finds no archive, the test is skipped and says so."""
        with self.assertRaisesRegex(SkipTest, "NOT TESTED HERE: pip cannot fetch asyncssh-2"):
            await unpacked(self, ASYNCSSH, self.cache)

    async def test_missing_archive_fails_where_all_is_required(self) -> None:
        """Where no test may be skipped, a missing archive is a failure."""
        self.set_environment(**{REQUIRE_ALL: "1"})
        with self.assertRaisesRegex(AssertionError, "pip cannot fetch asyncssh-2"):
            await unpacked(self, ASYNCSSH, self.cache)

    async def test_other_archive_on_offer_fails(self) -> None:
        """An archive of the right name with other bytes is a failure, and is not kept."""
        wanted = self.make_archive(self.offer, b"right")
        self.make_archive(self.offer, b"wrong")
        with self.assertRaisesRegex(AssertionError, "suite-1.0 is not what it was"):
            await unpacked(self, wanted, self.cache)
        self.assertEqual(list(self.cache.iterdir()), [])

    async def test_other_archive_in_cache_is_not_used(self) -> None:
        """Other bytes in the cache are not unpacked: the archive is asked for again."""
        wanted = self.make_archive(self.cache, b"right")
        self.make_archive(self.cache, b"wrong")
        with self.assertRaises(SkipTest):
            await unpacked(self, wanted, self.cache)


class DifferencesTests(SynchronousTestCase):
    """How two runs are compared."""

    def test_every_kind_of_difference_names_its_test(self) -> None:
        """A test that ends otherwise, or in one run only, is named; one that fails twice is not."""
        direct = {"same": PASSED, "worse": PASSED, "bad": "failed", "lost": PASSED}
        through = {"same": PASSED, "worse": "broke", "bad": "failed", "new": PASSED}
        self.assertEqual(
            differences(SuiteRun(direct, {}, []), SuiteRun(through, {}, [])),
            [
                "lost: passed direct, not run through the gateway",
                "new: not run direct, passed through the gateway",
                "worse: passed direct, broke through the gateway",
            ],
        )
