"""HTTP and HTTPS with real clients and servers, through both nodes, in three places."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import socket
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.certificates import ServerCA
from relaygate.test.farend import until
from relaygate.test.gateway import Gateway
from relaygate.test.httppeers import read_answer
from relaygate.test.netns import Network, missing
from relaygate.test.peers import in_thread, read_exactly
from relaygate.test.programs import Program, new_folder
from relaygate.test.web_echo import BLOCK
from relaygate.test.webservers import Apache, Echo, Nginx

HTTP_PORT, DAV_PORT, ECHO_PORT, PASS_PORT = 8080, 8443, 8081, 8444
LIMIT_S: Final = 120.0
BIG: Final = 64 << 20


def table(name: str, protocol: str, port: int, backend: str, more: str = "") -> str:
    """Return a ``[[service]]`` table with *more* text behind it."""
    return (
        f'[[service]]\nname = "{name}"\nprotocol = "{protocol}"\n'
        f'listen = "0.0.0.0:{port}"\nbackends = ["{backend}"]\n{more}\n'
    )


class WebCase(TestCase):
    """A gateway in front of nginx (clear), Apache (HTTPS, opened) and an echo (clear)."""

    timeout = 300

    async def setUp(self) -> None:  # type: ignore[override]
        where = Network.private_address
        self.ca = ServerCA(self)
        shown = self.ca.issue("files.example")
        tls = f'[service.tls]\ncertificate = "{shown.certificate}"\nkey = "{shown.key}"\n'
        self.gateway = Gateway(
            self,
            [
                table("web", "http", HTTP_PORT, f"{where}:{Nginx.port}"),
                table("dav", "https", DAV_PORT, f"{where}:{Apache.port}", tls),
                table("echo", "http", ECHO_PORT, f"{where}:{Echo.port}"),
            ],
        )
        self.nginx = Nginx(self, self.gateway.private, where)
        self.apache = Apache(self, self.gateway.private, where)
        self.echo = Echo(self, self.gateway.private, where)
        for server in (self.nginx, self.apache, self.echo):
            await server.ready()
        await self.gateway.start()
        self.folder = new_folder(self)

    def url(self, port: int, path: str = "/") -> str:
        """The address of *path* behind *port*, as clients have it."""
        return f"http://{self.gateway.host}:{port}{path}"

    async def client(self, name: str, *arguments: str, status: int = 0) -> str:
        """Run a client outside; return all that it says."""
        program = shutil.which(name)
        if program is None:
            missing(f"there is no {name}")
        running = Program(self, name, [program, *arguments], where=self.gateway.outside)
        running.start()
        found = await running.ended(LIMIT_S)
        self.assertEqual(found, status, running.log())
        return running.log()

    async def curl(self, *arguments: str, status: int = 0) -> str:
        """Run curl, quietly but for errors."""
        return await self.client("curl", "-sS", "--max-time", "90", *arguments, status=status)

    @property
    def secure(self) -> tuple[str, ...]:
        """Curl's arguments for the service of HTTPS."""
        host = self.gateway.host
        return ("--cacert", str(self.ca.file), "--resolve", f"files.example:{DAV_PORT}:{host}")


class ClientTests(WebCase):
    """curl, wget, rclone and a WebSocket client."""

    async def test_curl(self) -> None:
        """Versions, connections, ranges, resumed transfers, HEAD, what is not there."""
        content = random.Random(5).randbytes(3_000_000)
        self.nginx.serve("a.bin", content)
        whole, part = self.folder / "whole", self.folder / "part"
        url = self.url(HTTP_PORT, "/a.bin")
        await self.curl("-o", str(whole), url)
        self.assertTrue(whole.read_bytes() == content)
        await self.curl("--http1.0", "-o", str(whole), url)
        self.assertTrue(whole.read_bytes() == content)
        await self.curl("-r", "1000-1999", "-o", str(part), url)
        self.assertTrue(part.read_bytes() == content[1000:2000])
        part.write_bytes(content[:1_000_000])
        await self.curl("-C", "-", "-o", str(part), url)
        self.assertTrue(part.read_bytes() == content)
        said = await self.curl("-I", url)
        self.assertIn("Content-Length: 3000000", said)
        self.assertIn("Server: relaygate", said)
        self.assertNotIn("nginx", said)
        said = await self.curl("-v", url, "-o", "/dev/null", url, "-o", "/dev/null")
        self.assertIn("Re-using existing connection", said)
        said = await self.curl("-o", "/dev/null", "-w", "%{http_code}", self.url(HTTP_PORT, "/no"))
        self.assertEqual(said, "404")
        said = await self.curl("-D", "-", "-o", "/dev/null", self.url(HTTP_PORT, "/moved"))
        self.assertIn(f"Location: {self.url(HTTP_PORT, '/there')}", said)
        self.assertNotIn(Network.private_address, said)

    async def test_uploads(self) -> None:
        """With a length and Expect, in chunks, by HTTPS to Apache and in clear to nginx."""
        content = random.Random(6).randbytes(5_000_000)
        file = self.folder / "up.bin"
        file.write_bytes(content)
        self.nginx.serve("in/.keep", b"")
        base = f"https://files.example:{DAV_PORT}"
        await self.curl(*self.secure, "-T", str(file), f"{base}/counted")
        chunked = ("-H", "Transfer-Encoding: chunked", "-T", str(file))
        await self.curl(*self.secure, *chunked, f"{base}/chunked")
        await self.curl("-T", str(file), self.url(HTTP_PORT, "/in/counted"))
        await self.curl(*chunked, self.url(HTTP_PORT, "/in/chunked"))
        for folder in (self.apache.root, self.nginx.root / "in"):
            for name in ("counted", "chunked"):
                self.assertTrue((folder / name).read_bytes() == content, (folder, name))

    async def test_wget(self) -> None:
        """Wget fetches, and goes on where it was broken off."""
        content = random.Random(7).randbytes(1_000_000)
        self.nginx.serve("w.bin", content)
        file = self.folder / "w.bin"
        file.write_bytes(content[:300_000])
        await self.client("wget", "-q", "-c", "-O", str(file), self.url(HTTP_PORT, "/w.bin"))
        self.assertTrue(file.read_bytes() == content)

    async def test_webdav(self) -> None:
        """Rclone copies a tree by WebDAV over HTTPS, compares it, moves and deletes."""
        tree = self.folder / "tree"
        for number in range(20):
            file = tree / f"d{number % 3}" / f"f {number} \u00e9.bin"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(os.urandom(number * 10_000))
        hosts = self.folder / "hosts"
        hosts.write_text("")
        remote = f":webdav,url='https://{self.gateway.host}:{DAV_PORT}',vendor=other:"
        common = ("--no-check-certificate", "--retries", "1", "--config", str(self.folder / "rc"))
        await self.client("rclone", "copy", str(tree), f"{remote}copied", *common)
        await self.client("rclone", "check", str(tree), f"{remote}copied", "--download", *common)
        await self.client("rclone", "moveto", f"{remote}copied/d0", f"{remote}moved", *common)
        self.assertTrue((self.apache.root / "moved").is_dir())
        self.assertFalse((self.apache.root / "copied" / "d0").exists())
        await self.client("rclone", "purge", f"{remote}copied", *common)
        self.assertFalse((self.apache.root / "copied").exists())

    async def test_websocket(self) -> None:
        """A WebSocket client speaks with a server, frame by frame."""

        def talk() -> list[bytes]:
            client = self.gateway.client(ECHO_PORT)
            client.settimeout(30)
            key = base64.b64encode(b"0123456789abcdef")
            client.sendall(
                b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: " + key + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            said = b""
            while b"\r\n\r\n" not in said:
                said += client.recv(1)
            found = [said]
            for word in (b"hello", b"there"):
                mask = b"abcd"
                masked = bytes(b ^ mask[i % 4] for i, b in enumerate(word))
                client.sendall(bytes([0x81, 0x80 | len(word)]) + mask + masked)
                found.append(read_exactly(client, 2 + len(word))[2:])
            client.close()
            return found

        head, *words = await in_thread(talk)
        self.assertTrue(head.startswith(b"HTTP/1.1 101 "), head)
        self.assertIn(b"Sec-WebSocket-Accept: ", head)
        self.assertEqual(words, [b"hello", b"there"])

    async def test_echo(self) -> None:
        """Requirement 62: fields and body arrive as they were sent, byte for byte."""
        body = os.urandom(200_000)
        (self.folder / "edi").write_bytes(body)
        said = await self.curl(
            *("-H", 'AS2-From: "A  B"', "-H", "mEssage-id: <1@a>", "-H", "AS2-To: b"),
            *("-H", "Content-Type: application/pkcs7-mime; name=x;  smime-type=y", "-H", "Expect:"),
            *("--data-binary", f"@{self.folder / 'edi'}"),
            self.url(ECHO_PORT, "/as2?x=%2F..%2f"),
        )
        found = json.loads(said)
        self.assertEqual((found["bytes"], found["target"]), (len(body), "/as2?x=%2F..%2f"))
        self.assertEqual(found["sha256"], hashlib.sha256(body).hexdigest())
        fields = [tuple(each) for each in found["fields"]]
        for field in (
            ("AS2-From", '"A  B"'),
            ("mEssage-id", "<1@a>"),
            ("Content-Type", "application/pkcs7-mime; name=x;  smime-type=y"),
        ):
            self.assertIn(field, fields)


class LoadTests(WebCase):
    """Much at once, and much in one."""

    async def test_flat(self) -> None:
        """Large bodies both ways leave both nodes' memory as it was, over HTTPS as well."""
        await self.curl("-o", "/dev/null", self.url(ECHO_PORT, f"/bytes/{1 << 20}"))
        before = [node.rss_kb() for node in (self.gateway.dmz, self.gateway.node)]
        digest = hashlib.sha256()
        for _ in range(BIG // len(BLOCK)):
            digest.update(BLOCK)
        file = self.folder / "big"
        with file.open("wb") as stream:
            for _ in range(BIG // len(BLOCK)):
                stream.write(BLOCK)
        down = self.folder / "down"
        await self.curl("-o", str(down), self.url(ECHO_PORT, f"/bytes/{BIG}"))
        self.assertEqual(hashlib.sha256(down.read_bytes()).hexdigest(), digest.hexdigest())
        for more in ((), ("-H", "Transfer-Encoding: chunked")):
            said = await self.curl(*more, "-T", str(file), self.url(ECHO_PORT, "/up"))
            self.assertEqual(json.loads(said)["sha256"], digest.hexdigest())
        url = f"https://files.example:{DAV_PORT}/big"
        await self.curl(*self.secure, "-T", str(file), url)
        await self.curl(*self.secure, "-o", str(down), url)
        self.assertEqual(hashlib.sha256(down.read_bytes()).hexdigest(), digest.hexdigest())
        after = [node.rss_kb() for node in (self.gateway.dmz, self.gateway.node)]
        for was, now in zip(before, after, strict=True):
            self.assertLess(now - was, 12 << 10)

    async def test_kept_alive(self) -> None:
        """Nine hundred connections that are kept, each used twice (1,000 an address may be)."""
        self.nginx.serve("small", b"small\n")
        ask = b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n"

        def answered(some: list[socket.socket]) -> int:
            for client in some:
                client.settimeout(60)
                client.sendall(ask)
            return sum(read_answer(client).endswith(b"\r\n\r\nsmall\n") for client in some)

        def talk(clients: list[socket.socket]) -> int:
            good = 0
            # No more than the DMZ node lets wait for one address.
            for _ in range(10):
                more = [self.gateway.client(HTTP_PORT) for _ in range(90)]
                clients += more
                good += answered(more)
            return good + answered(clients)

        clients: list[socket.socket] = []
        try:
            self.assertEqual(await in_thread(talk, clients), 1800)
            # One for each client, idle channels, and the few connections to nginx that are kept.
            few = "few descriptors beside the clients' own"
            await until(lambda: len(self.gateway.node.fds()) < 1300, few)
        finally:
            for client in clients:
                client.close()
