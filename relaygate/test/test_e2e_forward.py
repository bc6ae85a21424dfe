"""Real programs in private, without a route out, and real servers outside that see the DMZ only."""

from __future__ import annotations

import hashlib
import random
import socket
import subprocess
import sys
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.certificates import ServerCA
from relaygate.test.netns import Network, require_program
from relaygate.test.openssh import Keys, SSHServer
from relaygate.test.peers import Server, eventually, in_thread, listening, make_socket
from relaygate.test.programs import Program, completed, new_folder
from relaygate.test.wayoutnet import DOMAIN, PROXY_PORT, SOCKS_PORT, WayOutGateway, open_entries

INSIDE: Final = Network.private_address
OUTSIDE: Final = Network.outside_address
GATE: Final = Network.dmz_outer_address
CONTENT: Final = random.Random(6).randbytes(3_000_001)
SSH_PORT: Final = 22
HTTP_PORT: Final = 8080
HTTPS_PORT: Final = 443
AS2_PORT: Final = 4080

_NGINX: Final = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address}:{http};
        listen {address}:{https} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        root {folder}/files;
        autoindex on;
        location /moved {{ return 302 http://{inside}:{http}/file; }}
    }}
}}
"""

_REQUESTS: Final = """
import sys, requests
proxy, ca, *urls = sys.argv[1:]
for url in urls:
    answer = requests.get(url, proxies={"http": proxy, "https": proxy}, verify=ca, timeout=20)
    answer.raise_for_status()
    sys.stdout.buffer.write(answer.content)
"""


class WayOutTests(TestCase):
    """Programs that know of proxies."""

    timeout = 300

    async def setUp(self) -> None:  # type: ignore[override]
        self.gateway = WayOutGateway(self, open_entries())
        await self.gateway.start()

    async def run_inside(self, argv: list[str], *, status: int = 0, timeout: float = 60.0) -> bytes:
        """Run a program in private; returns its output."""
        done = await completed(self, argv, where=self.gateway.private, timeout=timeout)
        self.assertEqual(done.status, status, f"{argv}: {done.errors}\n{self.gateway.node.log()}")
        return done.output

    async def nginx(self) -> None:
        """Run nginx outside, with a file and a repository."""
        self.ca = ServerCA(self)
        certified = self.ca.issue(f"www.{DOMAIN}", f"git.{DOMAIN}", OUTSIDE)
        self.folder = folder = new_folder(self)
        for parent in (folder, *folder.parents):
            if not parent.stat().st_mode & 1:
                parent.chmod(parent.stat().st_mode | 0o111)
        (folder / "files").mkdir()
        (folder / "files" / "file").write_bytes(CONTENT)
        config = folder / "nginx.conf"
        config.write_text(
            ("user root;\n" + _NGINX).format(
                folder=folder,
                address=OUTSIDE,
                http=HTTP_PORT,
                https=HTTPS_PORT,
                certificate=certified.certificate,
                key=certified.key,
                inside=INSIDE,
            )
        )
        argv = [require_program("nginx"), "-c", str(config), "-p", str(folder)]
        server = Program(self, "nginx", argv, where=self.gateway.outside)
        server.start()
        await eventually(
            lambda: not server.running or (OUTSIDE, HTTP_PORT) in listening(server.pid),
            "nginx listens",
            15.0,
        )

    def nginx_clients(self) -> set[str]:
        """Whom nginx has seen."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return {line.split()[0] for line in lines}

    async def test_ssh(self) -> None:
        """OpenSSH by netcat and either kind of proxy: ssh, sftp and scp, by name and address."""
        keys = Keys(self)
        server = SSHServer(self, keys, OUTSIDE, SSH_PORT, where=self.gateway.outside)
        await server.ready()
        nc = require_program("nc")
        near = new_folder(self) / "near"
        near.write_bytes(CONTENT)
        for way, port in (("5", SOCKS_PORT), ("connect", PROXY_PORT)):
            command = f"ProxyCommand={nc} -X {way} -x {INSIDE}:{port} %h %p"

            def through(argv: list[str], command: str = command) -> list[str]:
                return [argv[0], "-o", command, *argv[1:]]

            host = f"sftp.{DOMAIN}"
            said = await self.run_inside(through(keys.ssh(host, SSH_PORT, "echo $SSH_CLIENT")))
            self.assertEqual(said.split()[0].decode(), GATE)
            far, back = new_folder(self) / "far", new_folder(self) / "back"
            await self.run_inside(through(keys.scp_to(OUTSIDE, SSH_PORT, near, far)))
            batch = new_folder(self) / "batch"
            batch.write_text(f"get {far} {back}\n")
            await self.run_inside(through(keys.sftp(host, SSH_PORT, batch)))
            self.assertEqual(back.read_bytes(), CONTENT)
        self.assertIn(f"from {GATE} port", server.log())
        self.assertNotIn(INSIDE, server.log())
        # Requirement 88: nothing of the inside's in the DMZ's log either.
        self.assertNotIn(INSIDE, self.gateway.dmz.log().replace(f"address={INSIDE}", ""))

    async def test_http(self) -> None:
        """curl, wget, requests, rclone and git over HTTPS, by SOCKS and by HTTP."""
        await self.nginx()
        ca = str(self.ca.file)
        curl = [require_program("curl"), "--disable", "-sS", "--fail", "--cacert", ca]
        socks, proxy = f"{INSIDE}:{SOCKS_PORT}", f"{INSIDE}:{PROXY_PORT}"
        plain = f"http://www.{DOMAIN}:{HTTP_PORT}/file"
        secure = f"https://www.{DOMAIN}/file"
        digest = hashlib.sha256(CONTENT).hexdigest()
        for words in (
            ["--socks5-hostname", socks, plain],
            ["--socks5-hostname", socks, secure],
            ["--socks5", socks, f"http://{OUTSIDE}:{HTTP_PORT}/file"],
            ["--socks4a", socks, secure],
            ["--proxy", f"http://{proxy}", plain],
            ["--proxy", f"http://{proxy}", secure],
            ["--proxy", f"http://{proxy}", "--proxytunnel", plain],
        ):
            found = await self.run_inside([*curl, *words])
            self.assertEqual(hashlib.sha256(found).hexdigest(), digest, words)
        wget = ["env", f"http_proxy=http://{proxy}", f"https_proxy=http://{proxy}"]
        wget += [require_program("wget"), "--no-config", "-q", f"--ca-certificate={ca}", "-O", "-"]
        self.assertEqual(await self.run_inside([*wget, plain, secure]), CONTENT * 2)
        for way in (f"socks5h://{socks}", f"http://{proxy}"):
            argv = [sys.executable, "-c", _REQUESTS, way, ca, plain, secure]
            self.assertEqual(await self.run_inside(argv), CONTENT * 2, way)
            rclone = ["env", f"SSL_CERT_FILE={ca}", f"HTTPS_PROXY={way}", f"HTTP_PROXY={way}"]
            rclone[2] = rclone[2].replace("socks5h", "socks5")
            rclone[3] = rclone[3].replace("socks5h", "socks5")
            rclone += [require_program("rclone"), "--config", "/dev/null", "--retries", "1"]
            rclone += ["--http-url", f"https://www.{DOMAIN}/", "cat", ":http:file"]
            self.assertEqual(await self.run_inside(rclone), CONTENT, way)
        self.assertEqual(self.nginx_clients(), {GATE})

    async def test_git(self) -> None:
        """Git clones over HTTPS, by SOCKS and by HTTP."""
        await self.nginx()
        git = require_program("git")
        work = new_folder(self)
        identity = ["-c", "user.name=t", "-c", "user.email=t@partner.example"]
        (work / "file").write_bytes(CONTENT)
        for argv in (
            ["init", "-q", "."],
            ["add", "."],
            [*identity, "commit", "-qm", "one"],
            ["clone", "-q", "--bare", ".", str(self.folder / "files" / "repo.git")],
            ["--git-dir", str(self.folder / "files" / "repo.git"), "update-server-info"],
        ):
            await in_thread(
                subprocess.run, [git, *argv], cwd=work, check=True, capture_output=True, timeout=30
            )
        ways = (f"socks5h://{INSIDE}:{SOCKS_PORT}", f"http://{INSIDE}:{PROXY_PORT}")
        for number, way in enumerate(ways):
            clone = new_folder(self) / str(number)
            argv = ["env", f"GIT_SSL_CAINFO={self.ca.file}", git, "-c", f"http.proxy={way}"]
            argv += ["clone", "-q", f"https://git.{DOMAIN}/repo.git", str(clone)]
            await self.run_inside(argv)
            self.assertEqual((clone / "file").read_bytes(), CONTENT)
        self.assertEqual(self.nginx_clients(), {GATE})

    async def test_as2(self) -> None:
        """An AS2 message reaches the partner byte by byte, and its receipt comes back."""
        body = b"--b\r\nContent-Type: application/edi-x12\r\n\r\nISA*00*\xff\xfe\r\n--b--\r\n"
        seen: list[bytes] = []

        def receive(peer: socket.socket) -> None:
            data = b""
            while body not in data and (piece := peer.recv(65536)):
                data += piece
            seen.append(data)
            receipt = b"receipt"
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n" + receipt)

        Server(self, self.gateway.outside, OUTSIDE, AS2_PORT, receive)
        message = new_folder(self) / "message"
        message.write_bytes(body)
        for way in (
            ["--proxy", f"http://{INSIDE}:{PROXY_PORT}"],
            ["--socks5-hostname", f"{INSIDE}:{SOCKS_PORT}"],
        ):
            argv = [require_program("curl"), "--disable", "-sS", "--fail", *way]
            argv += ["-H", "AS2-From: us", "-H", 'AS2-To: "them"', "-H", "Message-ID: <1@us>"]
            argv += ["-H", 'Content-Type: multipart/signed; boundary="b"', "-H", "Expect:"]
            argv += ["--data-binary", f"@{message}", f"http://www.{DOMAIN}:{AS2_PORT}/as2"]
            self.assertEqual(await self.run_inside(argv), b"receipt")
        for data in seen:
            head, _, rest = data.partition(b"\r\n\r\n")
            self.assertEqual(rest, body)
            self.assertTrue(head.startswith(b"POST /as2 HTTP/1.1\r\n"))
            self.assertIn(b'AS2-To: "them"', head)
            # Requirement 88: nothing that tells of a proxy, or of who is behind it.
            for word in (b"via", b"forwarded", b"proxy", INSIDE.encode()):
                self.assertNotIn(word, head.lower())

    async def test_no_other_way(self) -> None:
        """Programs have no route of their own, and none is lent to what is not allowed."""
        direct = make_socket(self.gateway.private)
        self.addCleanup(direct.close)
        self.assertRaises(OSError, direct.connect, (OUTSIDE, HTTP_PORT))
        await self.nginx()
        curl = [require_program("curl"), "--disable", "-sS"]
        socks, proxy = f"{INSIDE}:{SOCKS_PORT}", f"http://{INSIDE}:{PROXY_PORT}"
        for host in (INSIDE, GATE, f"private.{DOMAIN}", "127.0.0.1", "localhost"):
            url = f"http://{host}:{HTTP_PORT}/file"
            await self.run_inside([*curl, "--socks5-hostname", socks, url], status=97)
            found = await self.run_inside([*curl, "--proxy", proxy, "-w", "%{http_code}", url])
            self.assertTrue(found.endswith(b"403"), (host, found))
        # A redirect to the inside is not followed into it.
        moved = f"http://www.{DOMAIN}:{HTTP_PORT}/moved"
        found = await self.run_inside([*curl, "-L", "--proxy", proxy, moved])
        self.assertIn(b"relaygate: ", found)
        await self.gateway.node.logged(r"session \w+ refused: entry=proxy .*")
        # By name this one is allowed inside: it is the DMZ that says no.
        await self.gateway.dmz.logged(
            rf"session \w+ refused: entry=socks .*destination=private\.{DOMAIN}:{HTTP_PORT}"
        )
