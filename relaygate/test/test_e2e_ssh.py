"""Real OpenSSH clients outside, a real ``sshd`` inside, and the gateway between them."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.gateway import SOAK, SSH_PORT, Gateway, ssh_service
from relaygate.test.openssh import Keys
from relaygate.test.peers import (
    Conversation,
    Server,
    dial,
    echo,
    eventually,
    in_thread,
    says,
)
from relaygate.test.programs import Completed, Program, Where, completed, new_folder

# A partner's file that is as large as most limits are; twice that and more in the soak.
BULK_BYTES: Final = (5 if SOAK else 1) << 30
SESSIONS: Final = 500 if SOAK else 200
BLOCK_BYTES: Final = 1 << 20
FAST_CIPHER: Final = "aes128-gcm@openssh.com"
LOOPBACK: Final = "127.0.0.1"
FORWARDED: Final = 5001
BACKWARDS: Final = 5002

# Opens many sessions from one process. Nobody moves a byte before all are open, and nobody leaves
# before all have moved theirs. It is SFTP because a shell for each would be most of the work.
CROWD: Final = """
import asyncio, sys, asyncssh

host, port, count, user, key, folder = *sys.argv[1:2], *map(int, sys.argv[2:4]), *sys.argv[4:7]

async def use(sftp, number):
    data = number.to_bytes(4, "big") * 5000
    async with sftp.open(f"{folder}/{number}", "wb+") as file:
        for turn in range(2):
            await file.write(data, 0)
            assert await file.read(len(data), 0) == data

async def main():
    few = asyncio.Semaphore(40)
    async def come():
        async with few:
            connection = await asyncssh.connect(
                host, port, username=user, client_keys=[key], known_hosts=None, config=None,
                agent_path=None, login_timeout=60)
            return connection, await connection.start_sftp_client()
    guests = await asyncio.gather(*[come() for _ in range(count)])
    print("all open", flush=True)
    sys.stdin.readline()
    await asyncio.gather(*[use(sftp, number) for number, (_, sftp) in enumerate(guests)])
    print("all served", flush=True)
    for connection, _ in guests:
        connection.close()
    await asyncio.gather(*[connection.wait_closed() for connection, _ in guests])

asyncio.run(main())
"""


def content(size: int, seed: int = 1) -> bytes:
    """Return *size* bytes that do not compress, the same ones each time."""
    return random.Random(seed).randbytes(size)


class SSHTestCase(TestCase):
    """A gateway before an ``sshd``, and folders for both ends of a transfer."""

    timeout = 480

    async def setUp(self) -> None:  # type: ignore[override]
        self.gateway = Gateway(self, [ssh_service()])
        self.keys = Keys(self)
        self.near = new_folder(self)
        self.far = new_folder(self)
        await self.gateway.sshd(self.keys)
        await self.gateway.start()

    async def run_client(self, argv: list[str], *, timeout: float = 120.0) -> Completed:
        """Run a client outside and demand that it is content."""
        ended = await completed(self, argv, where=self.gateway.outside, timeout=timeout)
        self.assertEqual((ended.status, ended.errors), (0, ""))
        return ended

    async def sftp(self, *commands: str, timeout: float = 120.0) -> Completed:
        """Run an sftp batch."""
        batch = new_folder(self) / "batch"
        batch.write_text("".join(f"{command}\n" for command in commands))
        argv = self.keys.sftp(self.gateway.host, SSH_PORT, batch)
        fast = [argv[0], "-c", FAST_CIPHER, *argv[1:]]
        return await self.run_client(fast, timeout=timeout)

    async def moved(self) -> list[tuple[int, int]]:
        """Return the bytes in and out of every session that has ended, by the DMZ node's log."""
        await eventually(
            lambda: (
                (log := self.gateway.dmz.log()).count(" open: service=sftp")
                == log.count(" end: service=sftp")
            ),
            "every session has its end in the log",
        )
        lines = re.findall(r"bytes_in=(\d+) bytes_out=(\d+)", self.gateway.dmz.log())
        return [(int(came), int(went)) for came, went in lines]


class TransferTests(SSHTestCase):
    """Files, by every client that OpenSSH and rsync have."""

    async def test_sftp_put_and_get(self) -> None:
        """A batch puts files, renames one, lists and gets them, and all are what they were."""
        files = {"empty": b"", "one": b"1", "large": content(3_000_000)}
        for name, data in files.items():
            (self.near / name).write_bytes(data)
        ended = await self.sftp(
            f"lcd {self.near}",
            f"cd {self.far}",
            *(f"put {name}" for name in files),
            "rename one two",
            "ls -1",
            f"get large {self.near}/back",
        )
        self.assertEqual((self.far / "empty").read_bytes(), b"")
        self.assertEqual((self.far / "two").read_bytes(), b"1")
        self.assertEqual((self.far / "large").read_bytes(), files["large"])
        self.assertEqual((self.near / "back").read_bytes(), files["large"])
        self.assertTrue({b"empty", b"large", b"two"} <= set(ended.output.split()))

    async def test_sftp_batch_of_many_files(self) -> None:
        """A tree of two hundred small files goes up and comes down whole."""
        tree = self.near / "tree"
        for number in range(200):
            file = tree / f"folder-{number % 7}" / f"file-{number}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content(number * 37, number))
        await self.sftp(f"put -r {tree} {self.far}/up", f"get -r {self.far}/up {self.near}/down")
        down = self.near / "down"
        expected = {str(f.relative_to(tree)): f.read_bytes() for f in tree.rglob("file-*")}
        got = {str(f.relative_to(down)): f.read_bytes() for f in down.rglob("file-*")}
        self.assertEqual(len(got), 200)
        self.assertEqual(got, expected)

    async def test_resume(self) -> None:
        """What was cut off is resumed both ways: the missing part goes over, and no more."""
        whole = content(4_000_000)
        (self.near / "whole").write_bytes(whole)
        (self.far / "whole").write_bytes(whole)
        (self.far / "up").write_bytes(whole[:3_000_000])
        (self.near / "down").write_bytes(whole[:2_500_000])
        await self.sftp(f"reput {self.near}/whole {self.far}/up")
        await self.sftp(f"reget {self.far}/whole {self.near}/down")
        self.assertEqual((self.far / "up").read_bytes(), whole)
        self.assertEqual((self.near / "down").read_bytes(), whole)
        (up, _), (_, down) = await self.moved()
        self.assertTrue(1_000_000 < up < 1_200_000, up)
        self.assertTrue(1_500_000 < down < 1_700_000, down)

    async def test_scp_new_protocol(self) -> None:
        """Scp as it is today, over SFTP, copies both ways."""
        await self.scp([])

    async def test_scp_old_protocol(self) -> None:
        """Scp as it was, by ``-O``, copies both ways."""
        await self.scp(["-O"])

    async def scp(self, options: list[str]) -> None:
        """Copy a file there and back."""
        data = content(2_000_000)
        (self.near / "there").write_bytes(data)
        host, remote = self.gateway.host, self.far / "there"
        up = self.keys.scp_to(host, SSH_PORT, self.near / "there", remote)
        down = self.keys.scp_from(host, SSH_PORT, remote, self.near / "back")
        for argv in (up, down):
            await self.run_client([argv[0], *options, *argv[1:]])
        self.assertEqual(remote.read_bytes(), data)
        self.assertEqual((self.near / "back").read_bytes(), data)

    async def test_rsync(self) -> None:
        """Rsync copies a tree over ssh, and then only what has changed."""
        data = content(3_000_000)
        (self.near / "tree").mkdir()
        (self.near / "tree" / "file").write_bytes(data)
        argv = self.keys.rsync_to(self.gateway.host, SSH_PORT, self.near / "tree", self.far)
        await self.run_client(argv)
        changed = b"another beginning" + data[17:]
        (self.near / "tree" / "file").write_bytes(changed)
        # The same size within the same second would pass for unchanged.
        await self.run_client([argv[0], "--checksum", "--no-whole-file", *argv[1:]])
        self.assertEqual((self.far / "tree" / "file").read_bytes(), changed)
        (first, _), (second, _) = await self.moved()
        self.assertGreater(first, len(data))
        self.assertLess(second, len(data) // 4)

    async def test_large_file(self) -> None:
        """A file of 1 GiB has the same checksum on the other side, and when it has come back."""
        folder = Path(tempfile.mkdtemp(prefix="relaygate-bulk-"))
        self.addCleanup(shutil.rmtree, folder)
        original, remote, back = (folder / name for name in ("original", "remote", "back"))
        block = content(BLOCK_BYTES - 8)
        digest = hashlib.sha256()
        with original.open("wb") as file:
            for number in range(BULK_BYTES // BLOCK_BYTES):
                piece = number.to_bytes(8) + block
                digest.update(piece)
                file.write(piece)
        await self.sftp(f"put {original} {remote}", timeout=300 * BULK_BYTES / (1 << 30))
        original.unlink()
        self.assertEqual(await in_thread(checksum, remote), digest.hexdigest())
        await self.sftp(f"get {remote} {back}", timeout=300 * BULK_BYTES / (1 << 30))
        self.assertEqual(await in_thread(checksum, back), digest.hexdigest())
        self.assertEqual(back.stat().st_size, BULK_BYTES)
        (up, _), (_, down) = await self.moved()
        self.assertGreater(min(up, down), BULK_BYTES)

    test_large_file.timeout = 3600 if SOAK else 720  # type: ignore[attr-defined]


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class SessionTests(SSHTestCase):
    """What else a session can be: a terminal, forwarded ports, many at once."""

    def ssh(self, command: str, *options: str) -> list[str]:
        """Return the command line of an ssh client."""
        argv = self.keys.ssh(self.gateway.host, SSH_PORT, command)
        return [argv[0], *options, *argv[1:]]

    async def test_terminal(self) -> None:
        """A terminal session answers what is typed, echoes it, and ends with its status."""
        client = Conversation(self.gateway.outside, self.ssh("exec bash --norc --noediting", "-tt"))
        client.say(b"PS1=; tty; echo begun-$((6 * 7))\n")
        await in_thread(client.hear, b"/dev/pts/")
        await in_thread(client.hear, b"begun-42\r\n")
        client.say(b'read -r word; echo "<$word>"\n')
        client.say(b"typed slowly\n")
        await in_thread(client.hear, b"<typed slowly>\r\n")
        # Who says that it runs is who is interrupted, and not the shell just before it.
        client.say(b"sh -c 'echo now-$((6 * 7)); exec sleep 60'\n")
        await in_thread(client.hear, b"now-42\r\n")
        client.say(b"\x03")
        # It throws away what was typed before it and not read yet.
        await in_thread(client.hear, b"^C")
        client.say(b"echo interrupted-$?\n")
        await in_thread(client.hear, b"interrupted-130\r\n")
        client.say(b"exit 7\n")
        self.assertEqual(await in_thread(client.end), 7)

    async def test_forwarded_ports(self) -> None:
        """Ports that ssh forwards over the session, both ways, carry data both ways."""
        private, outside = self.gateway.private, self.gateway.outside
        Server(self, private, LOOPBACK, FORWARDED, echo)
        Server(self, outside, LOOPBACK, BACKWARDS, echo)
        options = [
            "-N",
            "-oExitOnForwardFailure=yes",
            f"-L{LOOPBACK}:{FORWARDED}:{LOOPBACK}:{FORWARDED}",
            f"-R{LOOPBACK}:{BACKWARDS}:{LOOPBACK}:{BACKWARDS}",
        ]
        # With -N there is no command.
        client = Program(self, "ssh", self.ssh("", *options)[:-1], where=outside)
        client.start()
        for where, port in ((outside, FORWARDED), (private, BACKWARDS)):
            await eventually(partial(opens, where, port), f"port {port}")
            peer = dial(where, LOOPBACK, port)
            self.assertTrue(await in_thread(says, peer, content(500_000)))
            peer.close()

    async def test_many_sessions(self) -> None:
        """Two hundred SSH sessions are open at one moment, and each of them works."""
        gateway = self.gateway
        arguments = [gateway.host, str(SSH_PORT), str(SESSIONS), self.keys.user]
        arguments += [str(self.keys.user_key), str(self.far)]
        crowd = Conversation(gateway.outside, [sys.executable, "-c", CROWD, *arguments])
        await in_thread(crowd.hear, b"all open\n", 240.0)
        self.assertEqual(gateway.dmz.log().count(" open: service=sftp"), SESSIONS)
        self.assertEqual(gateway.dmz.log().count(" end: service=sftp"), 0)
        crowd.say(b"\n")
        await in_thread(crowd.hear, b"all served\n", 120.0)
        self.assertEqual(await in_thread(crowd.end, 60.0), 0)
        self.assertEqual(len(await self.moved()), SESSIONS)
        sizes = [file.stat().st_size for file in self.far.iterdir()]
        self.assertEqual(sizes, [20_000] * SESSIONS)

    async def test_the_counter_counts(self) -> None:
        """The counter of inbound attempts, which stays at 0, would count an attempt."""
        self.assertEqual(self.gateway.network.inbound_attempts(), 0)
        from_dmz: Where = (self.gateway.network, "dmz")
        script = (
            "import socket; s = socket.socket(); s.settimeout(0.3);"
            f"s.connect_ex(({self.gateway.network.private_address!r}, 22))"
        )
        await completed(self, [sys.executable, "-c", script], where=from_dmz)
        self.assertEqual(self.gateway.network.inbound_attempts(), 1)
        self.gateway.inbound_expected = 1


def opens(where: Where, port: int) -> bool:
    """Tell whether something listens on a loopback port in a place."""
    try:
        dial(where, LOOPBACK, port).close()
    except OSError:
        return False
    return True
