"""What the DMZ must not know: its node's memory and files are searched for it."""

from __future__ import annotations

import shutil
import socket
import struct
import sys
from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.errors import NoBackend
from relaygate.test.gateway import SSH_PORT, TCP_PORT, Gateway, service, tcp_service
from relaygate.test.openssh import Keys, SSHServer
from relaygate.test.peers import in_thread, read_to_end
from relaygate.test.programs import Program, completed, new_folder

# No node talks from this address, so nobody has a reason to know it but the internal node.
BACKEND: Final = "198.18.77.78"
BACKEND_PORT: Final = 20229
BACKEND_NAME: Final = "vault-of-the-ledger.private.test"
SECOND_BACKEND: Final = "198.18.77.79"
FILE_NAME: Final = "quarterly-figures-before-release.csv"
CONTENT: Final = b"what only the backend and the partner may read;" * 1000
# The listeners stay, so that every client is refused in words.
KEPT_OPEN: Final = {"when_down": "refuse"}


class SecrecyTests(TestCase):
    """No backend's address, name or data in the DMZ, also when something has gone wrong."""

    timeout = 240

    async def setUp(self) -> None:  # type: ignore[override]
        targets = [f"{BACKEND_NAME}:{BACKEND_PORT}", f"{SECOND_BACKEND}:{BACKEND_PORT}"]
        services = [
            service("sftp", "ssh", SSH_PORT, *targets, balance="failover", health=KEPT_OPEN),
            tcp_service(f"{SECOND_BACKEND}:{BACKEND_PORT}", health=KEPT_OPEN),
        ]
        self.gateway = Gateway(self, services, log='level = "debug"')
        self.name_the_backend()
        for address in (BACKEND, SECOND_BACKEND):
            add = ["ip", "address", "add", f"{address}/32", "dev", "lo"]
            self.gateway.network.run("private", add)
        self.keys = Keys(self)
        self.near, self.far = new_folder(self), new_folder(self)
        self.sshd = SSHServer(self, self.keys, BACKEND, BACKEND_PORT, where=self.gateway.private)
        await self.sshd.ready()
        await self.gateway.start()

    def name_the_backend(self) -> None:
        """Let the backend's name be known in private, by a hosts file of that namespace alone."""
        namespace = self.gateway.network.ns_argv("private", [])[-1]
        folder = Path("/etc/netns", namespace)
        folder.mkdir(parents=True)
        self.addCleanup(shutil.rmtree, folder)
        (folder / "hosts").write_text(f"{BACKEND} {BACKEND_NAME}\n")

    def needles(self) -> dict[str, bytes]:
        """Return what must not be found, by what it is."""
        found = {
            "the backend's name": BACKEND_NAME.encode(),
            "the backend's port": str(BACKEND_PORT).encode(),
            "a file's name": FILE_NAME.encode(),
            "a file's content": CONTENT[:40],
            "the server's folder": str(self.far).encode(),
            "the server's host key": str(self.keys.host_key).encode(),
        }
        for address in (BACKEND, SECOND_BACKEND):
            packed, port = socket.inet_aton(address), struct.pack("!H", BACKEND_PORT)
            found[f"{address} as text"] = address.encode()
            found[f"{address} in a sockaddr_in"] = port + packed
            found[f"{address} before its port"] = packed + port
        return found

    def found_in(self, program: Program) -> set[str]:
        """Return what of it is in the memory of a process."""
        needles = self.needles()
        found = program.memory_contains(list(needles.values()))
        return {what for what, needle in needles.items() if needle in found}

    def found_in_files(self) -> set[str]:
        """Return what of it is in any file that the DMZ node reads or writes."""
        dmz, authority = self.gateway.dmz, self.gateway.authority
        files = [dmz.config_file, *dmz.folder.rglob("*"), *authority.folder.glob("dmz.*")]
        files += [authority.folder / "ca.pem"]
        content = b"\n".join(file.read_bytes() for file in files if file.is_file())
        self.assertIn(b"uplink open", content, "the log is among them")
        return {what for what, needle in self.needles().items() if needle in content}

    async def transfer(self) -> None:
        """Put a file."""
        (self.near / FILE_NAME).write_bytes(CONTENT)
        batch = new_folder(self) / "batch"
        batch.write_text(f"put {self.near}/{FILE_NAME} {self.far}/\nls -l {self.far}\n")
        argv = self.keys.sftp(self.gateway.host, SSH_PORT, batch)
        ended = await completed(self, argv, where=self.gateway.outside)
        self.assertEqual((ended.status, ended.errors), (0, ""))
        self.assertEqual((self.far / FILE_NAME).read_bytes(), CONTENT)

    async def test_sessions(self) -> None:
        """After sessions the DMZ node knows of the backend nothing at all."""
        await self.transfer()
        self.assertEqual(self.found_in(self.gateway.dmz), set())
        self.assertEqual(self.found_in_files(), set())

    async def test_search_finds(self) -> None:
        """The same search finds in the internal node what the internal node must know."""
        await self.transfer()
        found = self.found_in(self.gateway.node)
        for what in ("the backend's name", "the backend's port", f"{BACKEND} as text"):
            self.assertIn(what, found)
        self.assertIn(f"{SECOND_BACKEND} as text", found)

    async def test_search_finds_all(self) -> None:
        """The same search finds every one of these things in a process that holds them."""
        source = "import sys, time; held = bytes.fromhex(sys.stdin.read())"
        source += "; print('held', flush=True); time.sleep(60)"
        stdin = new_folder(self) / "needles"
        stdin.write_text(b"|".join(self.needles().values()).hex())
        holder = Program(self, "holder", [sys.executable, "-c", source], stdin=stdin)
        holder.start()
        await holder.logged("held")
        self.assertEqual(self.found_in(holder), set(self.needles()))

    async def test_refusals(self) -> None:
        """When backends refuse, the refusal tells neither the client nor the DMZ who did."""
        await self.transfer()
        await self.sshd.stop()
        for _ in range(5):
            client = self.gateway.client(SSH_PORT)
            self.assertEqual(await in_thread(read_to_end, client), NoBackend.ssh)
            client.close()
            with self.assertRaises(ConnectionResetError):
                # The reset may be here before the connection is.
                await in_thread(read_to_end, self.gateway.client(TCP_PORT))
        await self.gateway.dmz.logged("outcome=backend/open")
        self.assertIn(f"backend={BACKEND_NAME}:{BACKEND_PORT}", self.gateway.node.log())
        self.assertEqual(self.found_in(self.gateway.dmz), set())
        self.assertEqual(self.found_in_files(), set())

    async def test_broken_sessions(self) -> None:
        """When the internal node dies in a session, nothing of it is told to the DMZ either."""
        client = self.gateway.client(SSH_PORT)
        self.addCleanup(client.close)
        self.assertIn(b"SSH-2.0-", client.recv(100))
        self.gateway.node.kill()
        with self.assertRaises(ConnectionResetError):
            await in_thread(read_to_end, client)
        self.assertEqual(self.found_in(self.gateway.dmz), set())
        self.assertEqual(self.found_in_files(), set())
