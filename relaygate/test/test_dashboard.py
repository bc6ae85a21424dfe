"""The dashboard: who is answered and who is not, what it tells, and that it stays small."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate.addresses import HostPort
from relaygate.admin import AdminCommands, AdminError, Arguments
from relaygate.config import ConfigError, DashboardConfig, load_internal
from relaygate.dashboard import Dashboard
from relaygate.history import COARSE_POINTS, FINE_POINTS, MAX_EVENTS, History, Recent
from relaygate.identity import IdentityError, Role
from relaygate.test.certificates import ServerCA
from relaygate.test.nodes import Authority
from relaygate.test.peers import in_thread
from relaygate.test.ports import free_port
from relaygate.test.programs import new_folder, pause
from relaygate.test.test_cli import call
from relaygate.webpages import FEW_SESSIONS

HOST = "127.0.0.6"
TOKEN = "correcthorsebatterystaple1"
GATEWAY: dict[str, Any] = {"name": "dmz", "address": "192.0.2.1:7443", "state": "up"}
GATEWAY |= {"up_seconds": 9.0}
GATEWAY |= {"idle_channels": {"clear": 8, "tls": 0}, "refused": {}, "last_failure": ""}
SERVICE: dict[str, Any] = {"name": "sftp", "protocol": "ssh", "sessions": 1}
SERVICE |= {"opened": 5, "refused": 0}
SERVICE |= {"bytes_in": 10, "bytes_out": 20, "backends": [{"address": "b:22", "state": "up"}]}
STATUS: dict[str, Any] = {"node": "node-a", "software": "relaygate 1"}
STATUS |= {"certificate_ends": "2027-01-01T00:00:00"}
STATUS |= {"uptime_seconds": 5.0, "sessions": 1, "services": [SERVICE]}
STATUS |= {"gateways": [{**GATEWAY, "report": None}]}


class DashboardCase(TestCase):
    """A dashboard in front of commands that only note what they are told."""

    async def begin(self, *, token: str = TOKEN, tls: bool = False) -> None:
        """Start it."""
        folder = new_folder(self)
        token_file = folder / "token"
        token_file.touch(0o600)
        token_file.write_text(token + "\n")
        self.ca = ServerCA(self)
        self.certified = certified = self.ca.issue(HOST, "localhost")
        self.port = free_port(HOST)
        config = DashboardConfig(
            HostPort(HOST, self.port),
            token_file if token else None,
            certified.certificate if tls else None,
            certified.key if tls else None,
        )
        self.tls = tls
        self.told: list[str] = []
        self.asked_for: list[int] = []
        self.reports: list[bool] = []
        commands = AdminCommands()
        for name in ("status", "sessions", "bans", "drain", "end", "reload"):
            commands.register(name, self.handler(name))
        self.board = Dashboard(config, commands, reactor)
        self.board.startService()
        self.addCleanup(self.board.stopService)

    def handler(self, name: str) -> Any:
        """A command that answers with what the page shows."""

        async def answer(arguments: Arguments) -> dict[str, Any]:
            self.told.append(name)
            if name == "status":
                self.reports.append(arguments.flag("reports", True))
            if name == "sessions":
                self.asked_for.append(arguments.number("limit", 1, 1000, 1000))
            if name == "end":
                raise AdminError("session: there is none with this id")
            return STATUS if name == "status" else {"sessions": [], "more": False}

        return answer

    async def ask(
        self,
        path: str,
        *,
        body: Any = None,
        token: str | None = TOKEN,
        method: str = "",
        **headers: str,
    ) -> tuple[int, str, http.client.HTTPMessage]:
        """One request; *headers* are further fields, with - for _."""
        fields = {"Host": f"{HOST}:{self.port}"}
        if token is not None:
            fields["Authorization"] = f"Bearer {token}"
        if body is not None:
            fields["Content-Type"] = "application/json"
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, str | None) else json.dumps(body)

        def work() -> tuple[int, str, http.client.HTTPMessage]:
            line = self.connection()
            try:
                line.request(method or ("GET" if body is None else "POST"), path, data, fields)
                answer = line.getresponse()
                return answer.status, answer.read().decode(), answer.headers
            finally:
                line.close()

        return await in_thread(work)

    def connection(self) -> http.client.HTTPConnection:
        """A connection, under TLS if that is how it is."""
        if not self.tls:
            return http.client.HTTPConnection(HOST, self.port, timeout=30)
        context = ssl.create_default_context(cafile=str(self.ca.file))
        return http.client.HTTPSConnection(HOST, self.port, timeout=30, context=context)


class DoorTests(DashboardCase):
    """Who is answered."""

    async def test_token(self) -> None:
        """Without the token, or with another one, nothing is told and nothing is done."""
        await self.begin()
        for token in (None, "", "wrong", TOKEN + "1", TOKEN[:-1], "\xe9" * 20):
            for path, body in (
                ("/api/look?command=status", None),
                ("/api/past", None),
                ("/api/events", None),
                ("/api/act", {"command": "drain", "kind": "node"}),
            ):
                status, text, fields = await self.ask(path, body=body, token=token)
                self.assertEqual((status, text), (401, "refused\n"), (token, path))
                self.assertEqual(fields["WWW-Authenticate"], "Bearer")
        self.assertNotIn("drain", self.told)
        status, _, _ = await self.ask("/api/act", body={"command": "drain", "kind": "node"})
        self.assertEqual(status, 200)
        self.assertIn("drain", self.told)

    async def test_rebinding(self) -> None:
        """A name that somebody else lets resolve to us gets nothing, not even the page."""
        await self.begin()
        for host in ("evil.example", f"evil.example:{self.port}", f"{HOST}:1", "", "[::1]"):
            for path in ("/", "/api/look?command=status"):
                status, _, _ = await self.ask(path, Host=host)
                self.assertEqual(status, 421, host)
        self.assertEqual((await self.ask("/", Host=f"localhost:{self.port}"))[0], 200)

    async def test_cross_site(self) -> None:
        """Another site's page cannot make a browser act, nor read."""
        await self.begin()
        act = {"command": "drain", "kind": "node"}
        own = f"http://{HOST}:{self.port}"
        for fields in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": own.replace("http:", "https:")},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
        ):
            self.assertEqual((await self.ask("/api/act", body=act, **fields))[0], 403, fields)
            self.assertEqual((await self.ask("/api/past", **fields))[0], 403, fields)
        self.assertNotIn("drain", self.told)
        answer = await self.ask("/api/act", body=act, Origin=own, Sec_Fetch_Site="same-origin")
        self.assertEqual(answer[0], 200)
        _, _, headers = await self.ask("/api/past", method="OPTIONS", Origin=own)
        self.assertIsNone(headers["Access-Control-Allow-Origin"])

    async def test_forms(self) -> None:
        """What a form of another page could send is no command."""
        await self.begin()
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            status, _, _ = await self.ask(
                "/api/act", body='{"command": "drain", "kind": "node"}', Content_Type=kind
            )
            self.assertEqual(status, 400)
        self.assertNotIn("drain", self.told)

    async def test_without_token(self) -> None:
        """On this machine without a token one may look, and change nothing."""
        await self.begin(token="")
        self.assertEqual((await self.ask("/api/look?command=status", token=None))[0], 200)
        status, text, _ = await self.ask("/api/act", body={"command": "drain"}, token=None)
        self.assertEqual(status, 403)
        self.assertIn("token_file", text)
        self.assertNotIn("drain", self.told)

    async def test_tls(self) -> None:
        """Under TLS the page is the same, and in clear there is none."""
        await self.begin(tls=True)
        self.assertEqual((await self.ask("/api/look?command=status"))[0], 200)
        self.assertEqual((await self.ask("/", Origin=f"https://{HOST}:{self.port}"))[0], 200)
        self.tls = False
        with self.assertRaises((http.client.HTTPException, OSError)):
            await self.ask("/")

    async def test_renewed(self) -> None:
        """A certificate that was renewed is shown from the next look on; a wrong one never."""
        await self.begin(tls=True)
        keeper = self.board.keeper
        assert keeper is not None
        files = [self.certified.certificate, self.certified.key]
        renewed = self.ca.issue(HOST, "localhost")
        before = await in_thread(self.shown)
        for file, text in zip(files, ["no certificate", "no key"], strict=True):
            file.write_text(text)
        keeper.look()
        self.assertEqual(await in_thread(self.shown), before)
        for file, new in zip(files, [renewed.certificate, renewed.key], strict=True):
            file.write_bytes(new.read_bytes())
        keeper.look()
        self.assertNotEqual(await in_thread(self.shown), before)
        self.assertEqual((await self.ask("/api/look?command=status"))[0], 200)

    def shown(self) -> bytes:
        """The certificate that a new connection is shown."""
        context = ssl.create_default_context(cafile=str(self.ca.file))
        with (
            socket.create_connection((HOST, self.port), 30) as line,
            context.wrap_socket(line, server_hostname=HOST) as peer,
        ):
            return peer.getpeercert(binary_form=True) or b""

    async def test_few_sessions(self) -> None:
        """The page is given few sessions at a time: clients do not wait for a long answer."""
        await self.begin()
        self.assertEqual((await self.ask("/api/look?command=sessions"))[0], 200)
        self.assertEqual(self.asked_for, [FEW_SESSIONS])

    async def test_only_these_commands(self) -> None:
        """What the socket can do beyond the page's own commands cannot be done from here."""
        await self.begin()
        for command in ("reload", "drain", "no-such"):
            self.assertEqual((await self.ask(f"/api/look?command={command}"))[0], 400)
        bodies: tuple[Any, ...] = (
            {"command": "reload"},
            {"command": "status"},
            {"command": ["drain"]},
            {},
            [],
            "{",
            "x" * 100_000,
        )
        for body in bodies:
            self.assertEqual((await self.ask("/api/act", body=body))[0], 400, str(body)[:40])
        self.assertNotIn("reload", self.told)
        status, text, _ = await self.ask("/api/act", body={"command": "end", "session": "0"})
        self.assertEqual((status, json.loads(text)["ok"]), (400, False))

    async def test_headers(self) -> None:
        """Every answer forbids what the page does not need, and nothing is from elsewhere."""
        await self.begin()
        for path in ("/", "/app.js", "/style.css", "/uplot.js", "/uplot.css", "/api/past", "/x"):
            _, text, fields = await self.ask(path)
            policy = fields["Content-Security-Policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertNotIn("unsafe", policy)
            self.assertNotIn("http", policy)
            self.assertEqual(fields["X-Content-Type-Options"], "nosniff")
            self.assertEqual(fields["X-Frame-Options"], "DENY")
            self.assertEqual(fields["Cache-Control"], "no-store")
            self.assertNotIn("Twisted", str(fields))
            if path in ("/", "/style.css", "/uplot.css"):
                self.assertNotIn("//", text.replace("/*", "").replace("*/", ""))
                self.assertNotIn("<script>", text)
                self.assertNotIn(" style=", text)
        for path in ("/../dashboard.py", "/%2e%2e/dashboard.py", "/web/app.js", "/api", "/api/"):
            self.assertEqual((await self.ask(path))[0], 404, path)


class EventTests(DashboardCase):
    """What is shown by itself."""

    async def test_events(self) -> None:
        """Who watches is told, again and again, and is forgotten when gone."""
        await self.begin()

        def watch() -> list[dict[str, Any]]:
            line = self.connection()
            fields = {"Authorization": f"Bearer {TOKEN}"}
            line.request("GET", "/api/events", headers=fields)
            answer = line.getresponse()
            found: list[dict[str, Any]] = []
            while len(found) < 2:
                text = answer.readline()
                if text.startswith(b"data: "):
                    found.append(json.loads(text[6:]))
            answer.close()
            line.close()
            return found

        # What the DMZ nodes say is asked for where somebody watches, and not otherwise.
        for _ in range(100):
            if "status" in self.told:
                break
            await pause(0.1)
        self.assertEqual(set(self.reports), {False})
        first, second = await in_thread(watch)
        self.assertIn(True, self.reports)
        # Endings are told once, and then only new ones.
        self.assertEqual(first["recent"], [])
        self.assertNotIn("recent", second)
        self.assertEqual(first["status"]["node"], "node-a")
        self.assertGreater(second["now"], first["now"])
        for _ in range(100):
            if not self.board.watchers:
                break
            await pause(0.1)
        self.assertEqual(self.board.watchers, set())

    async def test_token_that_is_none(self) -> None:
        """A token that is short, or that others can read, does not start a dashboard."""
        for text, mode in (("short", 0o600), (TOKEN, 0o644), ("", 0o600), ("a b" * 9, 0o600)):
            file = new_folder(self) / "token"
            file.touch()
            file.chmod(mode)
            file.write_text(text)
            config = DashboardConfig(HostPort(HOST, 1), file)
            self.assertRaises(IdentityError, Dashboard, config, AdminCommands(), reactor)


class PastTests(SynchronousTestCase):
    """The past is bounded."""

    def test_curves(self) -> None:
        """However long it runs, so many points are kept; what a service took along is no flood."""
        history = History()
        for number in range(200_000):
            row = {**SERVICE, "bytes_in": number * 50, "bytes_out": 10**9 - number}
            history.note(number * 5.0, [row])
        self.assertEqual((len(history.fine), len(history.coarse)), (FINE_POINTS, COARSE_POINTS))
        self.assertEqual(history.fine[-1][1:], (1, 10.0, 0.0))

    def test_entries_count_as_well(self) -> None:
        """What programs send out by an entry goes the same way as what clients fetch."""
        history = History()
        entry = {"sessions": 2, "bytes_in": 0, "bytes_out": 0}
        history.note(0.0, [SERVICE], [entry])
        history.note(5.0, [SERVICE], [{**entry, "bytes_in": 500, "bytes_out": 50}])
        self.assertEqual(history.fine[-1][1:], (3, 10.0, 100.0))

    def test_recent(self) -> None:
        """Endings and failed log-ins are kept, so many of them, and nothing else."""
        recent = Recent()
        log = Logger(observer=recent)
        for number in range(MAX_EVENTS * 2):
            log.info("x", session=str(number), outcome="done/relay", detail="y" * 1000)
        log.info("x", session="9", user="eve", result="refused")
        log.info("x", session="9", user="mina", result="ok")
        log.info("no session")
        self.assertEqual(len(recent.events), MAX_EVENTS)
        self.assertEqual(recent.events[-1]["outcome"], "log-in refused")
        self.assertEqual(len(recent.events[0]["detail"]), 200)


class ConfigTests(TestCase):
    """What the file may say."""

    def problems(self, text: str) -> str:
        """What is wrong with an ``[admin]`` of *text*."""
        root = Path(__file__).parents[2]
        file = Path(self.mktemp()).absolute()
        whole = (root / "etc" / "internal.toml").read_text()
        before, _, rest = whole.partition("[admin]\n")
        after = rest[rest.index("\n[") :] if "\n[" in rest else ""
        file.write_text(f"{before}[admin]\n{text}\n{after}")
        try:
            load_internal(file)
        except ConfigError as error:
            return str(error)
        return ""

    def test_check_reads_the_token(self) -> None:
        """``relaygate check`` refuses a token with which the node would not start."""
        folder = new_folder(self)
        file = folder / "token"
        file.touch(0o644)
        file.chmod(0o644)
        file.write_text(TOKEN)
        identity = Authority(self).identity("node-a", Role.INTERNAL)
        config = folder / "internal.toml"
        config.write_text(
            '[[gateway]]\naddress = "192.0.2.1:7443"\nname = "dmz"\n'
            '[[service]]\nname = "s"\nprotocol = "ssh"\nlisten = "0.0.0.0:22"\n'
            'backends = ["b.example:22"]\n'
            '[admin]\nlisten = "127.0.0.1:8080"\ntoken_file = "token"\n' + identity
        )
        status, _, err = call("check", str(config))
        self.assertEqual(status, 2)
        self.assertIn("admin: token", err)
        file.chmod(0o600)
        self.assertEqual(call("check", str(config))[0], 0)

    def test_open_doors_are_refused(self) -> None:
        """Beyond this machine it takes TLS and a token; half of either is a mistake."""
        pair = 'certificate = "a.pem"\nkey = "a.key"\n'
        token = 'token_file = "t"\n'
        for listen in ("0.0.0.0:8443", "10.0.0.5:8443", "[::]:8443"):
            listens = f'listen = "{listen}"\n'
            self.assertEqual(self.problems(listens + pair + token), "")
            for half in ("", pair, token, token + 'key = "a.key"\n'):
                self.assertIn("admin", self.problems(listens + half), half)
        local = 'listen = "[::1]:8080"\n'
        for good in ('listen = "127.0.0.1:8080"', local + token, local + pair, 'socket = "s"'):
            self.assertEqual(self.problems(good), "", good)
        self.assertIn("admin.socket", self.problems(""))
        self.assertIn("only with listen", self.problems('socket = "s"\n' + token))
