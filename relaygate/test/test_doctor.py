"""``relaygate doctor`` against thirty faults, each of which it has to find in its own place."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate.cli import running
from relaygate.identity import Role
from relaygate.test.certificates import ServerCA
from relaygate.test.gateway import Gateway, service
from relaygate.test.netns import Network
from relaygate.test.nodes import Authority
from relaygate.test.peers import Server
from relaygate.test.programs import Where, completed, new_folder
from relaygate.test.test_cli import call
from relaygate.test.wayoutnet import DOMAIN, PROXY_PORT, SOCKS_PORT, WayOutGateway, entry, table

INSIDE = Network.private_address
DMZ = Network.dmz_inner_address
PASSIVE = "30000-30009"

# The clock of a DMZ node is two days off: patched before anything else asks for the time.
CLOCK_OFF = "import time; real = time.time; time.time = lambda: real() + 2 * 86400"


# One interpreter for many doctors, some at a time: each is a copy of the process, as its own would
# be.
_DOCTORS = """
import json, os, sys, traceback
from relaygate.cli.main import main
left = list(enumerate(json.load(sys.stdin)))[::-1]
running, found = {}, {}
while left or running:
    while left and len(running) < 12:
        number, argv = left.pop()
        out = os.memfd_create("out")
        pid = os.fork()
        if not pid:
            try:
                os.dup2(out, 1)
                status = main(argv)
                sys.stdout.flush()
                os._exit(status)
            except BaseException:
                traceback.print_exc()
                os._exit(70)
        running[pid] = number, out
    pid, status = os.wait()
    number, out = running.pop(pid)
    os.lseek(out, 0, os.SEEK_SET)
    found[number] = os.waitstatus_to_exitcode(status), os.fdopen(out).read()
print(json.dumps([found[number] for number in sorted(found)]))
"""


@dataclass(frozen=True)
class Fault:
    """
    One thing that is wrong: what, the hop that must say so, and a word of what was seen and of the
    cure.
    """

    name: str
    hop: str
    seen: str
    cure: str
    state: str = "bad"


def ssh_server(peer: socket.socket) -> None:
    """Say who one is, as a server does first."""
    peer.sendall(b"SSH-2.0-test\r\n")
    peer.recv(1024)


def mute(peer: socket.socket) -> None:
    """Say nothing."""
    peer.recv(1024)


def http_server(peer: socket.socket) -> None:
    """Answer anything by HTTP."""
    peer.recv(1024)
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def ftp_server(tls: ssl.SSLContext | None) -> Callable[[socket.socket], None]:
    """Greet, and begin TLS on AUTH TLS, or refuse it."""

    def serve(peer: socket.socket) -> None:
        peer.sendall(b"220-Hello\r\n220 ready\r\n")
        asked = peer.recv(1024)
        if asked != b"AUTH TLS\r\n" or tls is None:
            peer.sendall(b"502 no\r\n")
            return
        peer.sendall(b"234 go on\r\n")
        try:
            tls.wrap_socket(peer, server_side=True).recv(1)
        except ssl.SSLError:
            pass

    return serve


class FaultTests(TestCase):
    """One gateway that works, and faults beside it."""

    timeout = 600

    def setUp(self) -> None:
        self.missed: list[str] = []
        self.queued: list[tuple[Fault, list[str]]] = []
        self.rows: list[tuple[Fault, dict[str, Any]]] = []

    async def doctors(self, *jobs: list[str]) -> list[list[dict[str, Any]]]:
        """What it finds with each of *jobs*, its arguments, from the private network."""
        told = new_folder(self) / "jobs"
        told.write_text(json.dumps([["doctor", "--json", *job] for job in jobs]))
        argv = [sys.executable, "-c", _DOCTORS]
        done = await completed(self, argv, where=self.gateway.private, stdin=told, timeout=240)
        self.assertEqual(done.status, 0, done.errors)
        answers = []
        for status, output in json.loads(done.output):
            found: list[dict[str, Any]] = json.loads(output or "null")
            bad = any(each["state"] == "bad" for each in found)
            self.assertEqual(status, (2 if found[0]["state"] == "bad" else 1) if bad else 0)
            answers.append(found)
        return answers

    async def doctor(self, config: Path) -> list[dict[str, Any]]:
        """What it finds with *config*."""
        (found,) = await self.doctors(["--config", str(config)])
        return found

    def judge(self, fault: Fault, found: list[dict[str, Any]]) -> None:
        """*found* must have *fault*, and name its hop and cure."""
        fitting = [
            each
            for each in found
            if (each["state"], each["hop"]) == (fault.state, fault.hop)
            and fault.seen in each["seen"]
        ]
        if not fitting:
            lines = "\n".join(str(each) for each in found if each["state"] != "ok")
            self.missed.append(f"{fault.name}: {fault.hop} does not say {fault.seen!r}:\n{lines}")
            return
        self.assertIn(fault.cure, fitting[0]["cure"], fault.name)
        self.rows.append((fault, fitting[0]))

    def queue(self, fault: Fault, config: Path, *flags: str) -> None:
        """Look for it beside others."""
        self.queued.append((fault, ["--config", str(config), *flags]))

    async def wait(self) -> None:
        """All that was queued has been looked for."""
        queued, self.queued = self.queued, []
        answers = await self.doctors(*(job for _, job in queued))
        for (fault, _), found in zip(queued, answers, strict=True):
            self.judge(fault, found)

    def variant(self, change: Callable[[str], str]) -> Path:
        """The node's file with a change in it."""
        file = new_folder(self) / "internal.toml"
        text = self.gateway.node.config_file.read_text()
        changed = change(text)
        self.assertNotEqual(text, changed)
        file.write_text(changed)
        return file

    def replaced(self, old: str, new: str) -> Path:
        """The same, by one replacement."""
        return self.variant(lambda text: text.replace(old, new))

    def with_identity(self, authority: Authority, name: str, role: Role) -> Path:
        """The node's file with another identity."""
        return self.variant(
            lambda text: text[: text.index("[identity]")] + authority.identity(name, role)
        )

    def with_more(self, text: str) -> Path:
        """The node's file with one more service."""
        return self.variant(lambda before: text + before)

    async def test_thirty_faults(self) -> None:
        """Each is told at the right hop with the right cure, and where all is well nothing is."""
        ca = ServerCA(self)
        good, foreign = ca.issue(INSIDE), ServerCA(self).issue(INSIDE)
        other_name = ca.issue("other.private.example")
        socket_path = Path(f"/run/relaygate-test-{os.getpid()}.sock")
        self.addCleanup(socket_path.unlink, missing_ok=True)
        tls = (
            f'[service.backend_tls]\nmode = "explicit"\nca = "{ca.file}"\n'
            f'[service.ftp]\npassive_ports = "{PASSIVE}"\n'
        )
        services = [
            f'[admin]\nsocket = "{socket_path}"\n',
            service("sftp", "ssh", 2222, f"{INSIDE}:2022"),
            service("ftp", "ftp", 2121, f"{INSIDE}:2021") + tls,
        ]
        self.gateway = gateway = Gateway(
            self,
            services,
            listen=[
                "0.0.0.0:2000-3000",
                f"0.0.0.0:{PASSIVE}",
                "0.0.0.0:31000-31001",
                "0.0.0.0:40010-40019",
            ],
        )
        gateway.backend(ssh_server, 2022)
        for port, certified in ((2021, good), (2031, foreign), (2041, other_name)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certified.certificate, certified.key)
            gateway.backend(ftp_server(context), port)
        gateway.backend(ftp_server(None), 2051)
        gateway.backend(http_server, 2080)
        gateway.backend(mute, 2090)
        gateway.backend(None, 2091)
        await gateway.start()
        file = gateway.node.config_file

        # -- nothing is wrong
        found = await self.doctor(file)
        self.assertEqual([each for each in found if each["state"] in ("bad", "skipped")], [])
        hops = {each["hop"] for each in found}
        self.assertEqual(
            hops,
            {"file", "keys", "tcp", "tls", "node", "uplink", "versions", "policy", "clock"}
            | {"channel", "passive", "backend"},
        )
        # The clock is asked for once, and the DMZ node took the look for no attack.
        self.assertEqual(len([each for each in found if each["hop"] == "clock"]), 1)
        self.assertNotIn("turned away", gateway.dmz.log())

        # -- the file, the keys
        self.queue(
            Fault("unknown key", "file", "did you mean listen", "docs/configuration"),
            self.replaced('listen = "0.0.0.0:2222"', 'lisen = "0.0.0.0:2222"'),
        )
        self.queue(
            Fault("no TOML", "file", "expected TOML", "docs/configuration"),
            self.variant(lambda text: text + "[["),
        )
        self.queue(
            Fault("no file", "file", "expected a readable file", "docs/configuration"),
            new_folder(self) / "none.toml",
        )
        for name, change, seen, cure in (
            ("key of mode 0644", lambda key: key.chmod(0o644), "open to group or others", "chmod"),
            ("key is missing", lambda key: key.unlink(), "does not exist", "check the path"),
            ("key of another pair", self.swap_key, "does not belong", "take the pair"),
            ("key is damaged", lambda key: key.write_text("x"), "no PEM private key", "name the"),
        ):
            authority = self.copied_authority()
            config = self.with_identity(authority, "node-a", Role.INTERNAL)
            change(authority.folder / "node-a.key")
            self.queue(Fault(name, "keys", seen, cure), config)
        for name, days, seen, cure in (
            ("certificate has expired", -500, "expired", "renew"),
            ("clock two days behind", 2, "is not valid before", "clock"),
        ):
            authority = Authority(self, days_off=days)
            self.queue(
                Fault(name, "keys", seen, cure),
                self.with_identity(authority, "node-a", Role.INTERNAL),
            )
        self.queue(
            Fault("certificate for the other role", "keys", "is a certificate for", "--role"),
            self.with_identity(self.copied_authority(), "node-a", Role.DMZ),
        )
        await self.wait()

        # -- the way to the DMZ node
        uplink = f"{DMZ}:7443"
        self.queue(
            Fault("another CA", "tls", "another CA", "ca.pem"),
            self.with_identity(Authority(self), "node-a", Role.INTERNAL),
        )
        self.queue(
            Fault("name not in uplink.nodes", "tls", "hangs up", "uplink.nodes"),
            self.with_identity(self.copied_authority(), "node-x", Role.INTERNAL),
        )
        self.queue(
            Fault("wrong gateway.name", "tls", "is not 'dmz-2'", "gateway.name"),
            self.replaced('name = "dmz"', 'name = "dmz-2"'),
        )
        self.queue(
            Fault("no such host", "resolve", "no address", "resolver"),
            self.replaced(f'"{uplink}"', '"dmz.invalid:7443"'),
        )
        self.queue(
            Fault("nothing listens there", "tcp", "refuses", "start the DMZ node"),
            self.replaced(f'"{uplink}"', f'"{DMZ}:7444"'),
        )
        dmz: Where = (gateway.network, "dmz")
        Server(self, dmz, DMZ, 7500, ssh_server)
        Server(self, dmz, DMZ, 7501, None)
        self.queue(
            Fault("another program at the uplink's port", "tls", "not speak TLS", "uplink.listen"),
            self.replaced(f'"{uplink}"', f'"{DMZ}:7500"'),
        )
        self.queue(
            Fault("a firewall that takes and says nothing", "tls", "not speak TLS", "firewall"),
            self.replaced(f'"{uplink}"', f'"{DMZ}:7501"'),
        )
        # -- the backends
        for name, port, seen, cure in (
            ("backend down", 2999, "refuses the connection", "start the backend"),
            ("backend speaks HTTP, not SSH", 2080, "says nothing", "backends"),
            ("backend says nothing", 2090, "says nothing", "backends"),
            ("backend is FTP, not SSH", 2051, "it is not SSH", "backends"),
        ):
            self.queue(
                Fault(name, "backend", seen, cure),
                self.replaced(f"{INSIDE}:2022", f"{INSIDE}:{port}"),
                "sftp",
            )
        for name, port, seen, cure in (
            ("backend's certificate of another CA", 2031, "another CA", "backend_tls.ca"),
            ("backend's certificate for another name", 2041, "not for", "backend_tls.name"),
            ("backend without AUTH TLS", 2051, "refuses AUTH TLS", "switch TLS on"),
            ("backend is SSH, not FTP", 2022, "not FTP", "backends"),
        ):
            self.queue(
                Fault(name, "backend", seen, cure),
                self.replaced(f"{INSIDE}:2021", f"{INSIDE}:{port}"),
                "ftp",
            )
        self.queue(
            Fault("backend begins without TLS", "backend", "does not begin with TLS", "explicit"),
            self.replaced('mode = "explicit"', 'mode = "on"'),
            "ftp",
        )
        self.queue(
            Fault("backend is SSH, not HTTP", "backend", "it is not HTTP", "backends"),
            self.with_more(service("web", "http", 2380, f"{INSIDE}:2022")),
            "web",
        )
        self.queue(
            Fault("no [admin] socket", "node", "no [admin] socket", "add [admin]", "skipped"),
            self.replaced(f'[admin]\nsocket = "{socket_path}"\n', ""),
        )
        self.queue(
            Fault("a service not reloaded", "node", "does not know it", "relaygate reload"),
            self.with_more(service("new", "tcp", 2300, f"{INSIDE}:2022")),
            "new",
        )
        # -- firewalls, each before a server of its own, so that they are looked for side by side
        verdicts = (
            ("drop", "something drops it", "firewalls"),
            ("reject with tcp reset", "refuses the connection", "a firewall that rejects"),
        )
        rules = []
        for number, (verdict, seen, cure) in enumerate(verdicts, 1):
            for name, hop, place, host, usual in (
                ("DMZ node", "tcp", dmz, DMZ, 7443),
                ("backend", "backend", gateway.private, INSIDE, 2022),
            ):
                behind = usual + 100 * number
                Server(self, place, host, behind, ssh_server)
                rules.append(f"tcp dport {behind} {verdict}")
                config = self.replaced(f'"{host}:{usual}"', f'"{host}:{behind}"')
                self.queue(Fault(f"firewall: {name}, {verdict}", hop, seen, cure), config)
        self.firewall(*rules)
        # -- FTP's ports, as the DMZ node sees them
        ports = f'passive_ports = "{PASSIVE}"'
        for port in (31000, 31001):
            Server(self, dmz, "0.0.0.0", port, None)
        lent = Fault(
            "passive range that the system lends",
            "passive",
            "10 of the ports 40010-40019 the system there lends",
            "ip_local_reserved_ports",
            "note",
        )
        self.queue(lent, self.replaced(ports, 'passive_ports = "40010-40019"'), "ftp")
        for name, new, seen, cure in (
            ("passive range not permitted", '"40000-40009"', "permits none", "policy.listen"),
            ("passive range taken", '"31000-31001"', "none of the ports", "another range"),
            (
                "public address of the private network",
                f'"{PASSIVE}"\npublic_address = "10.1.2.3"',
                "not an address of the DMZ node",
                "that partners dial",
            ),
        ):
            self.queue(
                Fault(name, "passive", seen, cure),
                self.replaced(ports, f"passive_ports = {new}"),
                "ftp",
            )
        await self.wait()

        # -- the DMZ node itself
        await gateway.node.stop()
        wrong = [
            service("low", "tcp", 1999, f"{INSIDE}:2022"),
            service("taken", "tcp", 2555, f"{INSIDE}:2022"),
        ]
        Server(self, dmz, "0.0.0.0", 2555, None)
        self.queue(Fault("the node does not run", "node", "no answer", "start it"), file)
        await self.wait()
        wrong += [
            (
                '[[forward]]\nname = "out"\nprotocol = "tcp"\nlisten = "127.0.0.1:2600"\n'
                f'allow = ["127.0.0.1"]\ntarget = "{DMZ}:2555"\n'
            )
        ]
        gateway.node.configure(
            "".join([*services[:1], *wrong, *services[1:]])
            + f'[[gateway]]\naddress = "{uplink}"\nname = "dmz"\n'
        )
        await gateway.dmz.stop()
        gateway.dmz.begin_with(CLOCK_OFF)
        gateway.dmz.start()
        gateway.node.start()
        await gateway.node.logged("services declared: ", timeout=60)
        for fault in (
            Fault("clock of the DMZ node two days off", "clock", "ahead of ours", "NTP"),
            Fault("policy too narrow", "policy", "does not permit", "policy.listen"),
            Fault("entry's target not permitted", "entry", "cannot be reached", "policy.connect"),
            Fault("port already bound in the DMZ", "policy", "in use", "ss -ltnp"),
        ):
            self.queue(fault, file)
        await self.wait()
        self.show()
        self.assertEqual(self.missed, [], "\n".join(self.missed))
        self.assertGreaterEqual(len(self.rows), 30)

    def firewall(self, *rules: str) -> None:
        """Let packets that leave private, also for itself, meet *rules*."""
        table = "table inet fault {\nchain leaving {\ntype filter hook output priority filter;\n"
        text = "\n".join([table, *rules, "}", "}", ""])
        self.gateway.network.run("private", ["nft", "-f", "-"], stdin=text)

    def copied_authority(self) -> Authority:
        """The gateway's own CA, with a folder of its own for what it issues."""
        return self.gateway.authority.elsewhere(self)

    def swap_key(self, key: Path) -> None:
        """Put the key of another certificate in its place."""
        other = Authority(self)
        other.identity("node-a", Role.INTERNAL)
        shutil.copy(other.folder / "node-a.key", key)

    def show(self) -> None:
        """Print the table."""
        lines = [f"{'fault':<42}{'hop':<9}{'what the doctor says, and the cure'}"]
        for fault, finding in self.rows:
            lines.append(f"{fault.name:<42}{finding['hop']:<9}{finding['seen']}")
            lines.append(f"{'':<51}-> {finding['cure']}")
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


class EntryTests(TestCase):
    """What programs may ask of an entry is asked of it."""

    timeout = 120

    async def test_destinations(self) -> None:
        """Single hosts are tried, as each user; patterns are not, nor more than a few."""
        secret = new_folder(self) / "password"
        secret.write_text("open sesame\n")
        secret.chmod(0o600)
        partner, taken = Network.outside_address, 2222
        users: list[dict[str, Any]] = [
            {"name": "anna", "password_file": str(secret)},
            {"name": "bert", "password_file": str(secret), "destinations": [f"{partner}:1"]},
        ]
        named = [f"ftp.{DOMAIN}:{taken}", f"{partner}:{taken}", "198.51.100.7:22", f"*.{DOMAIN}:22"]
        many = [f"www.{DOMAIN}:{2000 + port}" for port in range(12)]
        text = entry("socks", "socks5", SOCKS_PORT, destinations=named)
        text += "".join(table("[[forward.user]]", user) for user in users)
        gateway = WayOutGateway(
            self,
            [
                text,
                entry("proxy", "http-connect", PROXY_PORT, destinations=[*named[:1], *many]),
                entry("any", "socks5", SOCKS_PORT + 1),
            ],
        )
        Server(self, gateway.outside, partner, taken, None)
        await gateway.start()
        argv = [sys.executable, "-c", "from relaygate.cli.main import run; run()"]
        argv += ["doctor", "--json", "--config", str(gateway.node.config_file)]
        done = await completed(self, argv, where=gateway.private, timeout=60)
        found = [each for each in json.loads(done.output) if each["hop"] == "entry"]
        said = [(each["what"], each["state"], each["seen"]) for each in found]
        socks, proxy = "forward socks", "forward proxy"
        not_reached = "cannot be reached through it"
        self.assertEqual(
            said[:4],
            [
                (socks, "ok", f"{named[0]} as anna is reached from the DMZ"),
                (socks, "ok", f"{named[1]} as anna is reached from the DMZ"),
                (
                    socks,
                    "bad",
                    f"{named[2]} {not_reached} (SOCKS reply 2, not allowed)",
                ),
                (
                    socks,
                    "bad",
                    f"{partner}:1 {not_reached} (SOCKS reply 5, refused)",
                ),
            ],
        )
        self.assertIn("policy.connect", found[2]["cure"])
        self.assertEqual(said[4], (proxy, "ok", f"{named[0]} is reached from the DMZ"))
        for _, state, seen in said[5:14]:
            self.assertEqual(state, "bad")
            self.assertRegex(seen, r"^www\.\S+ cannot be reached through it \(502 ")
        self.assertEqual(said[14], (proxy, "skipped", "3 more destinations were not tried"))
        self.assertEqual(said[15][:2], ("forward any", "ok"))
        self.assertIn("its destinations are patterns", said[15][2])
        self.assertEqual(len(said), 16)


class RunningTests(SynchronousTestCase):
    """What is made of a running node's answer, where a real node is hard to bring so far."""

    def test_draining(self) -> None:
        """A DMZ node that drains has been told to end, and nothing inside takes that back."""
        report = {"draining": True, "software": "relaygate 1", "listeners": []}
        gateway: dict[str, object] = {
            "name": "dmz",
            "state": "draining",
            "up_seconds": 1.0,
            "report": report,
        }
        status: dict[str, object] = {
            "node": "node-a",
            "software": "relaygate 1",
            "uptime_seconds": 2.0,
        }
        status |= {"gateways": [gateway], "services": []}
        with mock.patch.object(running, "ask", return_value=status):
            found = list(running.node_findings((), Path("socket")))
        (drains,) = [each for each in found if each.state != "ok"]
        self.assertEqual((drains.hop, drains.state), ("uplink", "note"))
        self.assertIn("start it again", drains.cure)

    def test_answer_of_another_shape(self) -> None:
        """A node that answers as no node of this version does is found bad, and no traceback."""
        with mock.patch.object(running, "ask", return_value={"node": "node-a"}):
            (found,) = running.node_findings((), Path("socket"))
        self.assertEqual((found.state, "not as expected" in found.seen), ("bad", True))


class OutputTests(SynchronousTestCase):
    """What people and programs read."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp()).absolute()
        self.file.write_text("[identity]\n")

    def test_words(self) -> None:
        """A line for each mistake with its cure, and no colours where there is no terminal."""
        status, out, _ = call("doctor", "--config", str(self.file))
        self.assertEqual(status, 2)
        self.assertIn("bad     file", out)
        self.assertIn("-> ", out)
        self.assertNotIn("\x1b", out)

    def test_json(self) -> None:
        """JSON has every field of every finding."""
        status, out, _ = call("doctor", "--json", "--config", str(self.file))
        rows = json.loads(out)
        self.assertEqual(status, 2)
        self.assertEqual(set(rows[0]), {"hop", "what", "state", "seen", "cure"})

    def test_service_that_is_not_there(self) -> None:
        """It says which there are."""
        root = Path(__file__).parents[2]
        status, _, err = call("doctor", "moon", "--config", str(root / "etc" / "internal.toml"))
        self.assertEqual(status, 2)
        self.assertIn("sftp", err)
