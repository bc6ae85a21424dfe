"""Tests of FTP sessions through both nodes: a client and a server that are somebody else's."""

from __future__ import annotations

import contextlib
import ftplib
import functools
import io
import os
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet.defer import fail
from twisted.protocols.ftp import FTPFactory, FTPRealm
from zope.interface import implementer

from relaygate import pki
from relaygate.config import FTPConfig, KeyFiles
from relaygate.identity import Role
from relaygate.test.peers import in_thread
from relaygate.test.ports import free_port
from relaygate.test.programs import new_folder
from relaygate.test.test_sessions import SessionCase
from relaygate.test.wire import lines, logged

CONTENT = os.urandom(1_500_000)
PASSWORD = "s3cret word"
Use = Literal["off", "allow", "require"]


@implementer(ICredentialsChecker)
class OneUser:
    """Anna may log in; Twisted's own checkers want bytes, its FTP server has text."""

    credentialInterfaces = (IUsernamePassword,)

    def requestAvatarId(self, credentials: Any) -> Any:
        """See :class:`twisted.cred.checkers.ICredentialsChecker`."""
        if (credentials.username, credentials.password) == ("anna", PASSWORD):
            return "anna"
        return fail(UnauthorizedLogin())


class Client(ftplib.FTP):
    """A client without TLS."""


def extended(client: ftplib.FTP) -> tuple[str, int]:
    """Where to connect to by EPSV, which ftplib uses with IPv6 alone."""
    return "127.0.0.1", int(client.sendcmd("EPSV").split("|||")[1].partition("|")[0])


class ImplicitTLS(ftplib.FTP_TLS):
    """A client whose control connection begins with TLS (port 990's way)."""

    @property
    def sock(self) -> Any:
        return self._sock

    @sock.setter
    def sock(self, value: Any) -> None:
        if value is not None and not isinstance(value, ssl.SSLSocket):
            value = self.context.wrap_socket(value)
        self._sock = value


class FTPCase(SessionCase):
    """Twisted's FTP server behind the gateway."""

    async def begin(
        self, protocol: Literal["ftp", "ftps"] = "ftp", tls: Use = "off", **more: Any
    ) -> None:
        """Start a server with files, and both nodes with one service."""
        self.folder = new_folder(self)
        users = self.folder / "users" / "anna"
        users.mkdir(parents=True)
        (users / "file").write_bytes(CONTENT)
        (users / "empty").touch()
        (self.folder / "public").mkdir()
        self.files = users
        realm = FTPRealm(str(self.folder / "public"), str(self.folder / "users"))
        factory = FTPFactory(Portal(realm, [OneUser()]))
        factory.noisy = False
        first = free_port()
        last = min(first + 20, 65535)
        keys: dict[str, Any] = {}
        if tls != "off":
            now = datetime.now(UTC)
            ca = pki.make_ca("service CA", now, 10)
            pki.create_node(ca, "ftp.example", Role.DMZ, now, 5, self.folder)
            keys["tls"] = KeyFiles(self.folder / "ftp.example.pem", self.folder / "ftp.example.key")
        ftp = FTPConfig(passive_ports=(first, last), tls=tls, data_tls=tls, **more)
        await self.start(protocol, factory, ftp=ftp, **keys)

    def login(self, client: ftplib.FTP) -> ftplib.FTP:
        """Log *client* in."""
        client.connect("127.0.0.1", self.port, timeout=20)
        self.addCleanup(client.close)
        if type(client) is ftplib.FTP_TLS:
            client.auth()
        client.login("anna", PASSWORD)
        if isinstance(client, ftplib.FTP_TLS):
            client.prot_p()
        return client

    def move(self, client: ftplib.FTP, name: str) -> None:
        """Fetch, store, append to, and list files, and demand that they are whole."""
        got = bytearray()
        client.retrbinary("RETR file", got.extend)
        assert bytes(got) == CONTENT, "a download"
        client.storbinary(f"STOR {name}", io.BytesIO(CONTENT))
        assert (self.files / name).read_bytes() == CONTENT, "an upload"
        got.clear()
        client.retrbinary("RETR empty", got.extend)
        client.storbinary(f"STOR {name}-empty", io.BytesIO(b""))
        assert (self.files / f"{name}-empty").read_bytes() == bytes(got) == b"", "empty files"
        assert name in client.nlst("."), "a listing"


class ClearTests(FTPCase):
    """Without TLS."""

    async def test_transfers(self) -> None:
        """Files pass whole by PASV, EPSV, PORT and EPRT, and the port of each is given back."""
        await self.begin()

        def talk() -> None:
            for passive in (True, False):
                client = self.login(Client())
                client.set_pasv(passive)
                self.move(client, f"by-four-{passive}")
                if passive:
                    client.makepasv = functools.partial(extended, client)  # type: ignore[method-assign]
                    self.move(client, "by-epsv")
                client.quit()

        with logged() as events:
            await in_thread(talk)
            await self.ends(events, 4)
        self.assertEqual(self.dmz.transfers.prepared, 0)
        moved = lines(events, " transfer: ")
        self.assertTrue(
            any("verb=RETR path=file direction=download bytes=1500000" in m for m in moved)
        )
        self.assertTrue(
            any("verb=STOR" in m and "direction=upload bytes=1500000" in m for m in moved)
        )
        self.assertTrue(any("mode=active" in m for m in moved))
        self.assertEqual(len(lines(events, " login: ")), 2)

    async def test_words(self) -> None:
        """A refused login is told and logged, and no password is in any line (Requirement 11)."""
        await self.begin()

        def talk() -> str:
            client = Client()
            client.connect("127.0.0.1", self.port, timeout=20)
            self.addCleanup(client.close)
            try:
                client.login("anna", "wr0ng word")
            except ftplib.error_perm as error:
                client.quit()
                return str(error)
            return ""

        with logged() as events:
            self.assertEqual((await in_thread(talk))[:3], "530")
            await self.ends(events)
        (line,) = lines(events, " login: ")
        self.assertIn("user=anna result=refused code=530", line)
        self.assertEqual(lines(events, "wr0ng"), [])

    async def test_bounce(self) -> None:
        """A foreign address and a low port are refused and logged, not dialled (Requirement 24)."""
        await self.begin()

        def talk() -> list[str]:
            client = self.login(Client())
            said = []
            for command in (
                "PORT 127,0,0,2,200,0",
                "PORT 127,0,0,1,0,22",
                "EPRT |1|192.0.2.1|5000|",
            ):
                try:
                    client.sendcmd(command)
                except ftplib.error_perm as error:
                    said.append(str(error)[:3])
            client.quit()
            return said

        with logged() as events:
            self.assertEqual(await in_thread(talk), ["501", "501", "501"])
        refused = [line.partition(" backend=")[2] for line in lines(events, " refused: ")]
        self.assertEqual(
            [line.partition(" ")[2] for line in refused],
            [
                "command='PORT 127,0,0,2,200,0' reason='Refused: that is a foreign address.'",
                "command='PORT 127,0,0,1,0,22' reason='Refused: that is a privileged port.'",
                "command='EPRT |1|192.0.2.1|5000|' reason='Refused: that is a foreign address.'",
            ],
        )

    async def test_why_there_is_no_data_connection(self) -> None:
        """The client hears 425 and no more; the log has the reason (Requirement 8)."""
        await self.begin()

        def talk() -> None:
            client = self.login(Client())
            client.sendport("127.0.0.1", free_port())
            with self.assertRaises(ftplib.error_temp) as caught:
                client.voidcmd("NLST .")
            self.assertEqual(str(caught.exception), "425 Cannot open data connection.")
            client.quit()

        with logged() as events:
            await in_thread(talk)
            (end,) = [line for line in await self.ends(events) if "backend=" in line]
        (line,) = lines(events, " data connection failed: ")
        self.assertEqual(line.split()[:2], end.split()[:2])
        self.assertIn("the client was not reached: ", line)

    async def test_no_server(self) -> None:
        """Without a backend the client is told in FTP's words (Requirement 7)."""
        await self.start(
            "ftp", None, ftp=FTPConfig(passive_ports=(50000, 50010), tls="off", data_tls="off")
        )
        client = await self.client()
        await self.over(client)
        self.assertEqual(client.data[:4], b"421 ")

    async def test_stopped_node(self) -> None:
        """A node that stops tells its clients so (Requirement 8)."""
        await self.begin()
        client = await self.client()
        await self.got_line(client, b"220")
        stopping = self.node.stopService()
        await self.over(client)
        await stopping
        self.assertIn(b"\r\n421 ", client.data)

    async def got_line(self, client: Any, beginning: bytes) -> None:
        """Wait until *client* has got a line."""
        from relaygate.test.wire import until

        await until(lambda: client.data.startswith(beginning) and client.data.endswith(b"\n"))


class TLSTests(FTPCase):
    """The client's TLS ends on the internal node."""

    async def check(self, protocol: Literal["ftp", "ftps"], make: Callable[..., Any]) -> None:
        """Move files under TLS 1.2 and 1.3, with a server behind that knows no TLS."""
        await self.begin(protocol, "require")

        def talk(version: ssl.TLSVersion) -> None:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            client = self.login(make(context=context))
            self.move(client, f"up-{version}")
            client.quit()

        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with logged() as events:
                await in_thread(talk, version)
                await self.ends(events)
            moved = lines(events, " transfer: ")
            self.assertTrue(moved and all("client_tls=True" in line for line in moved), moved)

    async def test_explicit(self) -> None:
        """AUTH TLS, PBSZ and PROT P (Requirement 32)."""
        await self.check("ftp", ftplib.FTP_TLS)

    async def test_implicit(self) -> None:
        """TLS from the first byte (Requirement 42)."""
        await self.check("ftps", ImplicitTLS)

    async def test_clear_is_refused(self) -> None:
        """Where TLS is demanded no login passes without it, and no byte before it counts."""
        await self.begin("ftp", "require")

        def talk() -> tuple[str, bytes]:
            client = Client()
            client.connect("127.0.0.1", self.port, timeout=20)
            self.addCleanup(client.close)
            try:
                client.login("anna", PASSWORD)
                said = ""
            except ftplib.error_perm as error:
                said = str(error)
            client.close()
            with socket.create_connection(("127.0.0.1", self.port), 20) as injector:
                injector.recv(1000)
                # CVE-2011-0411 (Requirement 30)
                injector.sendall(b"AUTH TLS\r\nFEAT\r\n")
                answer = b""
                with contextlib.suppress(ConnectionError):
                    while piece := injector.recv(1000):
                        answer += piece
            return said, answer

        said, answer = await in_thread(talk)
        self.assertIn(said[:3], ("530", "534", "550"))
        self.assertNotIn(b"211", answer)
