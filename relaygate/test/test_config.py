"""Tests for :mod:`relaygate.config`: good files, unreadable ones, and the examples."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import relaygate
from relaygate.addresses import HostPort, ListenRule
from relaygate.config import (
    BackendTLSConfig,
    ConfigError,
    DMZConfig,
    FTPConfig,
    GatewayConfig,
    HTTPConfig,
    IdentityFiles,
    InternalConfig,
    LogConfig,
    ServiceConfig,
    load,
    load_dmz,
    load_internal,
)
from relaygate.config.dmz import DMZ_FILE
from relaygate.config.internal import INTERNAL_FILE
from relaygate.config.schema import Table, Tables

ROOT = Path(relaygate.__file__).parent.parent

IDENTITY = '[identity]\ncertificate = "n.pem"\nkey = "keys/n.key"\nca = "/ca/ca.pem"\n'

DMZ = f"""{IDENTITY}
[uplink]
listen = "192.0.2.1:7443"
nodes = ["node-a", "node-b"]
[policy]
listen = ["0.0.0.0:21-22", "[::]:443"]
"""

GATEWAY = '[[gateway]]\naddress = "dmz.example:7443"\nname = "dmz"\n'
SERVICE = """[[service]]
name = "sftp"
protocol = "ssh"
listen = "0.0.0.0:22"
backends = ["10.0.0.1:22"]
"""
INTERNAL = IDENTITY + GATEWAY + SERVICE


class FileCase(SynchronousTestCase):
    """A folder for files, and what is wrong with them."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.file = self.folder / "x.toml"

    def write(self, text: str | bytes) -> Path:
        """Write the file under test."""
        self.file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return self.file

    def problems(self, text: str | bytes, loader: Callable[[Path], object]) -> list[str]:
        """Return what is wrong with *text*, each as it is printed without the file's name."""
        error = self.assertRaises(ConfigError, loader, self.write(text))
        prefix = f"{self.file}: "
        lines = [str(problem) for problem in error.problems]
        self.assertEqual(str(error), "\n".join(lines))
        for line in lines:
            self.assertTrue(line.startswith(prefix), line)
            self.assertTrue(line.isprintable(), line)
        return [line.removeprefix(prefix) for line in lines]


class GoodFileTests(FileCase):
    """What a good file becomes."""

    def test_dmz(self) -> None:
        """A small DMZ file becomes its object, with the stated defaults and resolved paths."""
        self.assertEqual(
            load_dmz(self.write(DMZ)),
            DMZConfig(
                identity=IdentityFiles(
                    self.folder / "n.pem", self.folder / "keys" / "n.key", Path("/ca/ca.pem")
                ),
                uplink_listen=HostPort("192.0.2.1", 7443),
                nodes=("node-a", "node-b"),
                listen=(ListenRule("0.0.0.0", 21, 22), ListenRule("::", 443, 443)),
                max_sessions=10_000,
                max_sessions_per_address=1_000,
                max_pending=1_024,
                max_pending_per_address=256,
                log=LogConfig("text", None, "info"),
            ),
        )

    def test_dmz_whole(self) -> None:
        """Every key of a DMZ file reaches its field."""
        config = load_dmz(
            self.write(
                DMZ + "max_sessions = 1\nmax_sessions_per_address = 2\nmax_pending = 3\n"
                'max_pending_per_address = 4\n[log]\nformat = "json"\nfile = "l"\nlevel = "warn"'
            )
        )
        self.assertEqual(
            (
                config.max_sessions,
                config.max_sessions_per_address,
                config.max_pending,
                config.max_pending_per_address,
            ),
            (1, 2, 3, 4),
        )
        self.assertEqual(config.log, LogConfig("json", self.folder / "l", "warn"))

    def test_internal(self) -> None:
        """A small internal file becomes its object, with the stated defaults."""
        config = load_internal(self.write(INTERNAL))
        self.assertEqual(config.gateways, (GatewayConfig(HostPort("dmz.example", 7443), "dmz", 8),))
        self.assertEqual(
            config.services,
            (
                ServiceConfig(
                    name="sftp",
                    protocol="ssh",
                    listen=HostPort("0.0.0.0", 22),
                    backends=(HostPort("10.0.0.1", 22),),
                    balance="round-robin",
                    channel="auto",
                    max_sessions=0,
                    max_sessions_per_address=0,
                    idle_timeout_s=None,
                ),
            ),
        )
        self.assertEqual(config.log, LogConfig("text", None, "info"))

    def test_internal_whole(self) -> None:
        """Every key of an internal file reaches its field."""
        extra = """balance = "failover"
channel = "always"
max_sessions = 5
max_sessions_per_address = 6
idle_timeout = 7.5
"""
        text = IDENTITY + GATEWAY + "pool = 9\n" + SERVICE + extra + '[log]\nfile = "/var/l"\n'
        config = load_internal(self.write(text))
        self.assertEqual(config.gateways[0].pool, 9)
        service = config.services[0]
        self.assertEqual((service.balance, service.channel), ("failover", "always"))
        self.assertEqual((service.max_sessions, service.max_sessions_per_address), (5, 6))
        self.assertEqual(service.idle_timeout_s, 7.5)
        self.assertEqual(config.log.file, Path("/var/l"))

    def test_tls_channel(self) -> None:
        """What may be plaintext is encrypted by itself, and ciphertext is not twice."""
        for protocol, channel, encrypted in [
            ("tcp", "auto", True),
            ("ssh", "auto", False),
            ("tls", "auto", False),
            ("ssh", "always", True),
            ("tcp", "never", False),
        ]:
            text = INTERNAL.replace('"ssh"', f'"{protocol}"') + f'channel = "{channel}"\n'
            service = load_internal(self.write(text)).services[0]
            self.assertEqual(service.tls_channel, encrypted, f"{protocol} {channel}")

    def test_explicit_beside_wildcard(self) -> None:
        """Lesson 30: an explicit address and the wildcards may share a port."""
        other = SERVICE.replace("sftp", "b").replace("0.0.0.0:22", "192.0.2.1:22")
        third = SERVICE.replace("sftp", "c").replace("0.0.0.0:22", "[::]:22")
        config = load_internal(self.write(INTERNAL + other + third))
        self.assertEqual(len(config.services), 3)

    def test_kind_by_sections(self) -> None:
        """A file's sections show which kind of node it is for, and a given kind overrules."""
        self.assertIsInstance(load(self.write(DMZ)), DMZConfig)
        self.assertIsInstance(load(self.write(INTERNAL)), InternalConfig)
        (problem,) = self.problems(INTERNAL, lambda path: load(path, "dmz"))
        self.assertIn("expected the file of a DMZ node", problem)
        # What has something of both is read as what was asked for.
        problems = self.problems(DMZ + GATEWAY, lambda path: load(path, "dmz"))
        known = "identity, uplink, policy, status, log, stop"
        self.assertEqual(problems, [f"gateway: unknown key (known here: {known})"])

    def test_kind_unclear(self) -> None:
        """A file of no kind, or of both, is refused with what would show the kind."""
        for text, found in [(IDENTITY, "none of them"), (DMZ + GATEWAY, "some of both")]:
            (problem,) = self.problems(text, load)
            self.assertIn("[uplink] and [policy]", problem)
            self.assertIn(found, problem)


class UnreadableFileTests(FileCase):
    """Files that never become tables."""

    def test_missing(self) -> None:
        """A file that is not there, or is a folder, is a problem of the file as such."""
        for path, reason in [
            (self.folder / "none.toml", "No such file"),
            (self.folder, "found a folder"),
        ]:
            error = self.assertRaises(ConfigError, load_dmz, path)
            (problem,) = error.problems
            self.assertEqual((problem.file, problem.key), (str(path), ""))
            self.assertIn(reason, problem.message)

    def test_not_toml(self) -> None:
        """A syntax error is told with line and column."""
        (problem,) = self.problems("[uplink]\nlisten 5\n", load_dmz)
        self.assertIn("expected TOML", problem)
        self.assertIn('line 2, column 8), which reads "listen 5"', problem)

    def test_not_utf8(self) -> None:
        """Other bytes than UTF-8 are told with line and byte."""
        (problem,) = self.problems(b"# one\nab = '\xff'\n", load_dmz)
        words = "(at line 2, byte 7): save it as UTF-8"
        self.assertEqual(problem, f"expected UTF-8, found other bytes {words}")
        (problem,) = self.problems(DMZ.encode("utf-16"), load_dmz)
        self.assertIn("found UTF-16", problem)

    def test_from_other_editors(self) -> None:
        """A byte order mark in front, and lines that end in CR LF, are no mistakes."""
        text = DMZ.replace("\n", "\r\n").encode()
        self.assertIsInstance(load_dmz(self.write(b"\xef\xbb\xbf" + text)), DMZConfig)

    def test_too_large(self) -> None:
        """A file of 1 MiB is read, and one byte more is refused."""
        padding = "#" * (1024 * 1024 - len(DMZ))
        self.assertIsInstance(load_dmz(self.write(DMZ + padding)), DMZConfig)
        (problem,) = self.problems(DMZ + padding + "#", load_dmz)
        self.assertIn("at most 1 MiB", problem)

    def test_too_deep(self) -> None:
        """Brackets without end are a mistake in the file, not a crash."""
        (problem,) = self.problems("a = " + "[" * 100_000, load_dmz)
        self.assertIn("nested too deeply", problem)

    def test_endless_number(self) -> None:
        """Numbers that Python will not convert or print are mistakes like any other."""
        (problem,) = self.problems("a = " + "9" * 5_000, load_dmz)
        self.assertIn("expected TOML", problem)
        (problem,) = self.problems(DMZ + "max_sessions = 0x" + "f" * 5_000, load_dmz)
        self.assertIn("found a number beyond 64 bits", problem)


def paths_of(table: Table, where: str = "") -> Iterator[str]:
    """Yield the path of every key that a file of this kind may have."""
    for key in table.keys:
        node = key.node.table if isinstance(key.node, Tables) else key.node
        path = f"{where}{key.name}"
        if isinstance(node, Table):
            yield from paths_of(node, f"{path}.")
        else:
            yield path


class ExampleTests(SynchronousTestCase):
    """The commented examples and the reference agree with the code."""

    EXAMPLES = (("dmz.toml", DMZ_FILE), ("internal.toml", INTERNAL_FILE))

    def test_examples_load(self) -> None:
        """The examples are good files that leave every default as it is."""
        dmz = load(ROOT / "etc" / "dmz.toml")
        assert isinstance(dmz, DMZConfig)
        expected = DMZConfig(
            dmz.identity,
            dmz.uplink_listen,
            dmz.nodes,
            dmz.listen,
            status_listen=dmz.status_listen,
        )
        self.assertEqual(dmz, expected)
        self.assertEqual(dmz.identity.certificate, ROOT / "etc" / "dmz.pem")
        internal = load(ROOT / "etc" / "internal.toml")
        assert isinstance(internal, InternalConfig)
        for service in internal.services:
            self.assertEqual(
                service,
                ServiceConfig(
                    service.name,
                    service.protocol,
                    service.listen,
                    service.backends,
                    tls=service.tls,
                    persistence=service.persistence,
                    health=service.health,
                    backend_tls=service.backend_tls,
                    ftp=service.ftp,
                    http=service.http,
                ),
            )
        (ftp,) = (service.ftp for service in internal.services if service.ftp is not None)
        self.assertEqual(
            ftp,
            FTPConfig((30_000, 30_999), "allow", "allow", {"": "203.0.113.7"}),
        )
        web = [service.http for service in internal.services if service.http is not None]
        self.assertEqual(web, [HTTPConfig(routes=each.routes) for each in web])

    def test_shown_defaults_are_true(self) -> None:
        """With every commented key switched on, the examples still mean the same."""
        for name, _ in self.EXAMPLES:
            text = (ROOT / "etc" / name).read_text()
            # These have no default, so their lines show an example.
            undefined = (
                r"^#(idle_timeout|file|peers|allow|allow_file|deny|deny_file|never"
                r"|trusted_proxies|connect|connect_from|cookie_key"
                r"|listen|token_file|certificate|key) = .*"
            )
            shown = re.sub(undefined, "", text, flags=re.MULTILINE)
            shown, count = re.subn(r"^#(?=[a-z_]+ = )", "", shown, flags=re.MULTILINE)
            self.assertGreater(count, 3)
            folder = Path(self.mktemp())
            folder.mkdir(parents=True)
            (folder / "before.toml").write_text(text)
            (folder / "after.toml").write_text(shown)
            self.assertEqual(load(folder / "after.toml"), load(folder / "before.toml"))

    def test_every_key_is_shown(self) -> None:
        """Each key stands in its example and in the reference, and no other one does."""
        reference = (ROOT / "docs" / "configuration.md").read_text()
        listed = set(re.findall(r"^\| `([a-z_]+)` \|", reference, flags=re.MULTILINE))
        known = set()
        for name, table in self.EXAMPLES:
            text = (ROOT / "etc" / name).read_text()
            shown = set(re.findall(r"^#?([a-z_]+) = ", text, flags=re.MULTILINE))
            keys = {path.rpartition(".")[2] for path in paths_of(table)}
            self.assertEqual(shown, keys, name)
            known |= keys
        self.assertEqual(listed, known)

    def test_reference_defaults(self) -> None:
        """The defaults in the reference are those of the code."""
        reference = (ROOT / "docs" / "configuration.md").read_text()
        kinds = (
            DMZConfig,
            GatewayConfig,
            ServiceConfig,
            BackendTLSConfig,
            FTPConfig,
            HTTPConfig,
            LogConfig,
        )
        for kind in kinds:
            for field in dataclasses.fields(kind):
                if isinstance(field.default, int | str):
                    default = (
                        f'`"{field.default}"`'
                        if isinstance(field.default, str)
                        else str(field.default).lower()
                    )
                    pattern = rf"^\| `{field.name}` \| .* \| {re.escape(str(default))} \| "
                    self.assertRegex(reference, re.compile(pattern, re.MULTILINE))
