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
from xml.etree import ElementTree

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

HTTP_PORT, DAV_PORT, ECHO_PORT, CLEAR_DAV_PORT = 8080, 8443, 8081, 8082
LIMIT_S: Final = 120.0
BIG: Final = 32 << 20


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
                table("cleardav", "http", CLEAR_DAV_PORT, f"{where}:{Apache.port}"),
                table("dav", "https", DAV_PORT, f"{where}:{Apache.port}", tls),
                table("echo", "http", ECHO_PORT, f"{where}:{Echo.port}"),
            ],
            # A few of the thousand that the kept ones need may still be closing.
            policy="max_sessions_per_address = 1100",
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
    """Real clients, one after the other at one gateway, since they change nothing in it."""

    async def test_curl_and_wget(self) -> None:
        """Versions, connections, ranges, resumed transfers, uploads of every kind."""
        await self.curl_fetches()
        await self.curl_fetches_parts()
        await self.pipelined()
        await self.curl_uploads()
        await self.curl_is_echoed()
        await self.wget_resumes()

    async def test_webdav_and_websocket(self) -> None:
        """Rclone and cadaver at Apache by HTTPS, a WebSocket, and what sslscan says of the TLS."""
        await self.rclone_copies()
        await self.cadaver_locks()
        await self.websocket()
        await self.scanned()

    async def curl_fetches(self) -> None:
        """Versions, connections, HEAD, what is not there, and what is elsewhere."""
        content = random.Random(5).randbytes(3_000_000)
        self.nginx.serve("a.bin", content)
        whole = self.folder / "whole"
        url = self.url(HTTP_PORT, "/a.bin")
        await self.curl("-o", str(whole), url)
        self.assertTrue(whole.read_bytes() == content)
        await self.curl("--http1.0", "-o", str(whole), url)
        self.assertTrue(whole.read_bytes() == content)
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

    async def curl_fetches_parts(self) -> None:
        """One range, several at once, one that there is not, and the rest of a broken download."""
        content = random.Random(8).randbytes(3_000_000)
        self.nginx.serve("b.bin", content)
        part, url = self.folder / "part", self.url(HTTP_PORT, "/b.bin")
        await self.curl("-r", "1000-1999", "-o", str(part), url)
        self.assertTrue(part.read_bytes() == content[1000:2000])
        said = await self.curl("-r", "0-9,2000000-2999999", "-o", str(part), "-D", "-", url)
        self.assertIn("multipart/byteranges", said)
        self.assertIn(content[2_000_000:], part.read_bytes())
        past = ("-r", "3000000-", "-o", "/dev/null", "-w", "%{http_code}")
        self.assertEqual(await self.curl(*past, url), "416")
        part.write_bytes(content[:1_000_000])
        await self.curl("-C", "-", "-o", str(part), url)
        self.assertTrue(part.read_bytes() == content)

    async def pipelined(self) -> None:
        """Requirement 60: sixty requests in one go, some with bodies, are answered in order."""
        asked = [
            b"GET /g%d HTTP/1.1\r\nHost: a\r\n\r\n" % number
            if number % 3
            else b"POST /g%d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" % number
            for number in range(60)
        ]

        def talk() -> list[str]:
            client = self.gateway.client(ECHO_PORT)
            client.settimeout(60)
            client.sendall(b"".join(asked))
            stream = client.makefile("rb")
            found = []
            for _ in asked:
                length = 0
                while line := stream.readline().strip():
                    name, _, value = line.partition(b": ")
                    length = int(value) if name.lower() == b"content-length" else length
                found.append(json.loads(stream.read(length))["target"])
            client.close()
            return found

        self.assertEqual(await in_thread(talk), [f"/g{number}" for number in range(60)])

    async def curl_uploads(self) -> None:
        """With a length and Expect, in chunks, by HTTPS to Apache and in clear to nginx."""
        content = random.Random(6).randbytes(5_000_000)
        file = self.folder / "up.bin"
        file.write_bytes(content)
        self.nginx.serve("in/.keep", b"")
        base = f"https://files.example:{DAV_PORT}"
        said = await self.curl("-v", *self.secure, "-T", str(file), f"{base}/counted")
        self.assertIn("> Expect: 100-continue", said)
        self.assertIn("< HTTP/1.1 100 Continue", said)
        chunked = ("-H", "Transfer-Encoding: chunked", "-T", str(file))
        await self.curl(*self.secure, *chunked, f"{base}/chunked")
        await self.curl("-T", str(file), self.url(HTTP_PORT, "/in/counted"))
        await self.curl(*chunked, self.url(HTTP_PORT, "/in/chunked"))
        for folder in (self.apache.root, self.nginx.root / "in"):
            for name in ("counted", "chunked"):
                self.assertTrue((folder / name).read_bytes() == content, (folder, name))

    async def wget_resumes(self) -> None:
        """Wget fetches, and goes on where it was broken off."""
        content = random.Random(7).randbytes(1_000_000)
        self.nginx.serve("w.bin", content)
        file = self.folder / "w.bin"
        file.write_bytes(content[:300_000])
        await self.client("wget", "-q", "-c", "-O", str(file), self.url(HTTP_PORT, "/w.bin"))
        self.assertTrue(file.read_bytes() == content)

    async def rclone_copies(self) -> None:
        """Rclone copies a tree by WebDAV over HTTPS, compares it, moves and deletes."""
        tree = self.folder / "tree"
        for number in range(20):
            file = tree / f"d{number % 3}" / f"f {number} \u00e9.bin"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(os.urandom(number * 10_000))
        remote = f":webdav,url='https://{self.gateway.host}:{DAV_PORT}',vendor=other:"
        common = ("--no-check-certificate", "--retries", "1", "--config", str(self.folder / "rc"))
        await self.client("rclone", "copy", str(tree), f"{remote}copied", *common)
        await self.client("rclone", "check", str(tree), f"{remote}copied", "--download", *common)
        await self.client("rclone", "moveto", f"{remote}copied/d0", f"{remote}moved", *common)
        self.assertTrue((self.apache.root / "moved").is_dir())
        self.assertFalse((self.apache.root / "copied" / "d0").exists())
        await self.client("rclone", "purge", f"{remote}copied", *common)
        self.assertFalse((self.apache.root / "copied").exists())

    async def cadaver_locks(self) -> None:
        """Cadaver makes, copies, moves, locks and labels, and reads it all back."""
        source, found = self.folder / "source", self.folder / "found"
        source.write_bytes(os.urandom(300_000))
        script = self.folder / "script"
        script.write_text(
            "mkcol letters\ncd letters\n"
            f"put {source} first\nlock first\nput {source} first\ndiscover first\nunlock first\n"
            "copy first second\nmove second third\npropset first author mary\n"
            f"propget first author\nget third {found}\ndelete third\nls\nquit\n"
        )
        program = shutil.which("cadaver")
        if program is None:
            missing("there is no cadaver")
        # It can be told of no CA, and wants a person to be asked.
        url = self.url(CLEAR_DAV_PORT)
        running = Program(self, "cadaver", [program, url], where=self.gateway.outside, stdin=script)
        running.start()
        self.assertEqual(await running.ended(LIMIT_S), 0, running.log())
        said = running.log()
        self.assertNotIn("failed", said)
        self.assertIn("mary", said)
        for word in ("Locking", "Unlocking", "Copying", "Moving", "Deleting"):
            self.assertRegex(said, rf"{word} .*succeeded\.")
        self.assertEqual(found.read_bytes(), source.read_bytes())
        self.assertEqual(
            [file.name for file in (self.apache.root / "letters").glob("[!.]*")], ["first"]
        )

    async def scanned(self) -> None:
        """Sslscan finds TLS 1.2 and 1.3 alone, with ciphers that keep forward secrecy, no more."""
        program = shutil.which("sslscan")
        if program is None:
            missing("there is no sslscan")
        report = self.folder / "scan.xml"
        await self.client(
            "sslscan",
            *("--no-colour", f"--xml={report}", "--sni-name=files.example"),
            f"{self.gateway.host}:{DAV_PORT}",
        )
        (test,) = ElementTree.fromstring(report.read_bytes()).iter("ssltest")  # noqa: S314 - ours
        spoken = {
            f"{each.get('type')} {each.get('version')}"
            for each in test.iter("protocol")
            if each.get("enabled") == "1"
        }
        self.assertEqual(spoken, {"tls 1.2", "tls 1.3"})
        ciphers = [each.get("cipher", "") for each in test.iter("cipher")]
        self.assertTrue(ciphers)
        for cipher in ciphers:
            self.assertRegex(cipher, "^(TLS_AES_|TLS_CHACHA20_|ECDHE-.*(GCM|CHACHA20))")
        for each in test.iter("heartbleed"):
            self.assertEqual(each.get("vulnerable"), "0")
        for each in test.iter("compression"):
            self.assertEqual(each.get("supported"), "0")
        for each in test.iter("renegotiation"):
            self.assertTrue(each.get("supported") == "0" or each.get("secure") == "1")

    async def websocket(self) -> None:
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

    async def curl_is_echoed(self) -> None:
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
        """A thousand connections that are kept, each used twice."""
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
                more = [self.gateway.client(HTTP_PORT) for _ in range(100)]
                clients += more
                good += answered(more)
            return good + answered(clients)

        clients: list[socket.socket] = []
        try:
            self.assertEqual(await in_thread(talk, clients), 2000)
            # One for each client, idle channels, and the few connections to nginx that are kept.
            few = "few descriptors beside the clients' own"
            await until(lambda: len(self.gateway.node.fds()) < 1400, few)
        finally:
            for client in clients:
                client.close()
