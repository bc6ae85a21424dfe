"""Tests for :mod:`relaygate.config.ftp`: an FTP service's tables, and what does not go together."""

from __future__ import annotations

from relaygate.addresses import AddressError, host_name
from relaygate.config import BackendTLSConfig, FTPConfig, KeyFiles, ServiceConfig, load_internal
from relaygate.test.test_config import GATEWAY, IDENTITY, SERVICE, FileCase

FTP = SERVICE.replace('"sftp"', '"ftp"').replace('"ssh"', '"ftp"')
FTPS = FTP.replace('protocol = "ftp"', 'protocol = "ftps"')
PORTS = '[service.ftp]\npassive_ports = "50000-50999"\n'
KEYS = '[service.tls]\ncertificate = "ftp.pem"\nkey = "keys/ftp.key"\n'
HEAD = IDENTITY + GATEWAY


class GoodServiceTests(FileCase):
    """What good tables become."""

    def service(self, text: str) -> ServiceConfig:
        """The one service of a good file."""
        (service,) = load_internal(self.write(HEAD + text)).services
        return service

    def ftp(self, text: str) -> FTPConfig:
        """FTP's own settings in a good file."""
        ftp = self.service(text).ftp
        assert ftp is not None
        return ftp

    def test_smallest(self) -> None:
        """A range of ports is all that FTP without TLS needs."""
        service = self.service(FTP + PORTS)
        self.assertEqual(service.ftp, FTPConfig((50_000, 50_999), "off", "off"))
        self.assertIsNone(service.tls)
        self.assertEqual(service.backend_tls, BackendTLSConfig("off"))

    def test_whole(self) -> None:
        """Every key reaches its field, and paths count from the file's folder."""
        service = self.service(
            FTP
            + KEYS
            + '[service.backend_tls]\nmode = "on"\nca = "b.pem"\nname = "B.example"\ndata = false\n'
            + PORTS
            + 'public_address = { dmz = "ftp.Example" }\n'
            'peers = ["198.51.100.0/24", "2001:db8::1"]\n'
            'active_source_port = 20\ntls = "require"\ndata_tls = "allow"\n'
            'session_reuse = "require"\ntruncated = "accept"\ntelnet = false\n'
            'backend_mode = "active"\n'
        )
        self.assertEqual(
            service.tls, KeyFiles(self.folder / "ftp.pem", self.folder / "keys" / "ftp.key")
        )
        self.assertEqual(
            service.backend_tls, BackendTLSConfig("on", self.folder / "b.pem", "b.example", False)
        )
        self.assertEqual(
            service.ftp,
            FTPConfig(
                (50_000, 50_999),
                tls="require",
                data_tls="allow",
                public_addresses={"dmz": "ftp.example"},
                peers=("198.51.100.0/24", "2001:db8::1/128"),
                active_source_port=20,
                session_reuse="require",
                truncated="accept",
                telnet=False,
                backend_mode="active",
            ),
        )

    def test_tls_by_default(self) -> None:
        """A key makes TLS possible, implicit FTPS requires it, and data follow (Requirement 33)."""
        for text, tls, data in (
            (FTP + PORTS, "off", "off"),
            (FTP + KEYS + PORTS, "allow", "allow"),
            (FTP + KEYS + PORTS + 'tls = "require"\n', "require", "require"),
            (FTP + KEYS + PORTS + 'tls = "require"\ndata_tls = "off"\n', "require", "off"),
            (FTPS + KEYS + PORTS, "require", "require"),
        ):
            ftp = self.ftp(text)
            self.assertEqual((ftp.tls, ftp.data_tls), (tls, data), text)

    def test_public_address_by_gateway(self) -> None:
        """Each gateway has its own public address, or all share one (Lesson 20)."""
        by_gateway = 'public_address = { dmz = "203.0.113.7", dmz-2 = "ftp.example" }\n'
        second = GATEWAY.replace('"dmz"', '"dmz-2"').replace("7443", "7444")
        ftp = self.ftp(second + FTP + PORTS + by_gateway)
        self.assertEqual(ftp.public_address("dmz"), "203.0.113.7")
        self.assertEqual(ftp.public_address("dmz-2"), "ftp.example")
        self.assertIsNone(ftp.public_address("dmz-3"))
        ftp = self.ftp(FTP + PORTS + 'public_address = "203.0.113.7"\n')
        self.assertEqual(ftp.public_address("dmz"), "203.0.113.7")
        self.assertIsNone(self.ftp(FTP + PORTS).public_address("dmz"))

    def test_channels(self) -> None:
        """What is plaintext goes encrypted between the nodes, and ciphertext goes as it is."""
        for text, control, kinds in (
            (FTP + PORTS, True, {True}),
            (FTP + 'channel = "never"\n' + PORTS, False, {False}),
            (FTP + KEYS + PORTS, False, {False, True}),
            (FTP + KEYS + PORTS + 'tls = "require"\n', False, {False}),
            (FTPS + KEYS + PORTS + 'data_tls = "off"\n', False, {False, True}),
            (FTPS + 'channel = "never"\n' + KEYS + PORTS + 'data_tls = "allow"\n', False, {False}),
        ):
            service = self.service(text)
            self.assertIs(service.tls_channel, control, text)
            self.assertEqual(service.channel_kinds, kinds, text)


class MistakenServiceTests(FileCase):
    """Each mistake, by its message."""

    def expect(self, text: str, *problems: str) -> None:
        """Check that a file with this service has these problems, and no others."""
        found = self.problems(HEAD + text, load_internal)
        self.assertEqual(found, [f'service "ftp".{problem}' for problem in problems])

    def test_tables_where_they_belong(self) -> None:
        """Another protocol has none of FTP's tables."""
        for protocol in ("ssh", "tcp", "tls"):
            ftp = f'only a service of "ftp" or "ftps" has it, not "{protocol}"'
            own = f'only a service of "ftp" or "ftps" or "tls" has it, not "{protocol}"'
            self.expect(
                FTP.replace('l = "ftp"', f'l = "{protocol}"')
                + KEYS
                + '[service.backend_tls]\nmode = "off"\n'
                + PORTS,
                # A tls service may end its clients' TLS as well.
                *(() if protocol == "tls" else (f"tls: {own}",)),
                f"backend_tls: {ftp}",
                f"ftp: {ftp}",
            )

    def test_missing_tables(self) -> None:
        """FTP needs its range of ports, and implicit FTPS a key."""
        self.expect(
            FTPS,
            'ftp: missing, expected a table with passive_ports for "ftps"',
            'tls: missing, expected certificate and key: "ftps" begins with TLS',
        )
        self.expect(
            FTP + "[service.ftp]\n",
            "ftp.passive_ports: missing, "
            'expected a range of ports from 1024 on, as in "30000-30999"',
        )

    def test_ranges(self) -> None:
        """A range lies within 1024 to 65535, and ends where it begins or later."""
        for value in ('"1023-2000"', '"50000-49999"', '"50000-65536"', '"50000"', "50000", '""'):
            (problem,) = self.problems(
                HEAD + FTP + PORTS.replace('"50000-50999"', value), load_internal
            )
            self.assertIn("expected a range of ports from 1024 on", problem)
        load_internal(self.write(HEAD + FTP + PORTS.replace("50999", "50000")))

    def test_public_addresses(self) -> None:
        """A public address is one that clients can be told and can reach (Requirement 19)."""
        for value in ('"2001:db8::1"', '"0.0.0.0"', '"224.0.0.1"', '"a b"', "7", '"127.1"'):
            (problem,) = self.problems(
                HEAD + FTP + PORTS + f"public_address = {value}\n", load_internal
            )
            self.assertIn("public_address: expected an IPv4 address or a name", problem)
            (problem,) = self.problems(
                HEAD + FTP + PORTS + f"public_address = {{ dmz = {value} }}\n", load_internal
            )
            self.assertIn("public_address.dmz: expected an IPv4 address or a name", problem)
        self.expect(
            FTP + PORTS + 'public_address = { dnz = "203.0.113.7" }\n',
            "ftp.public_address.dnz: expected the name of a [[gateway]]",
        )

    def test_peers(self) -> None:
        """A peer is a network as it is written; an address with bits behind it is none."""
        for value in ('"198.51.100.1/24"', '"partner.example"', "1", '""'):
            (problem,) = self.problems(HEAD + FTP + PORTS + f"peers = [{value}]\n", load_internal)
            self.assertIn("ftp.peers[1]: expected a network, as in", problem)

    def test_tls_without_a_key(self) -> None:
        """TLS cannot be allowed where there is no key for it."""
        self.expect(
            FTP + PORTS + 'tls = "require"\ndata_tls = "allow"\n',
            'ftp.tls: expected "off" without [service.tls], found "require"',
            'ftp.data_tls: expected "off" without [service.tls], found "allow"',
        )

    def test_key_without_tls(self) -> None:
        """A key that is never used is a mistake, and implicit FTPS cannot do without."""
        self.expect(
            FTP + KEYS + PORTS + 'tls = "off"\n',
            'ftp.tls: expected "allow" or "require" with [service.tls], found "off"',
        )
        self.expect(
            FTPS + KEYS + PORTS + 'tls = "allow"\n',
            'ftp.tls: expected "require" for "ftps", found "allow"',
        )

    def test_nothing_twice(self) -> None:
        """The client's TLS is carried as it is, so an encrypted channel for it is refused."""
        (problem,) = self.problems(
            HEAD + FTP + 'channel = "always"\n' + KEYS + PORTS, load_internal
        )
        self.assertIn('channel: expected "auto" or "never" with [service.tls]', problem)

    def test_backends(self) -> None:
        """TLS towards backends needs authorities; without it, nothing of it is set."""
        self.expect(
            FTP + '[service.backend_tls]\nmode = "on"\n' + PORTS,
            "backend_tls.ca: missing, expected a path",
        )
        self.expect(
            FTP + '[service.backend_tls]\nmode = "off"\nca = "x"\ndata = true\n' + PORTS,
            'backend_tls.mode: expected "on" or "explicit" with ca, found "off"',
            'backend_tls.mode: expected "on" or "explicit" with data, found "off"',
        )

    def test_switches(self) -> None:
        """A switch is true or false, and nothing that looks like it."""
        for value in ("1", '"true"', "[]"):
            (problem,) = self.problems(HEAD + FTP + PORTS + f"telnet = {value}\n", load_internal)
            self.assertIn("ftp.telnet: expected true or false, found ", problem)


class HostNameTests(FileCase):
    """A host without a port."""

    def test_good(self) -> None:
        """Literals and names come back in one spelling."""
        for text, canonical in (
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("FTP.Example", "ftp.example"),
        ):
            self.assertEqual(host_name(text), canonical)

    def test_bad(self) -> None:
        """Brackets, ports, zones and what only some programs read as an address are refused."""
        for text in ("", "[::1]", "a:21", "127.1", "::ffff:192.0.2.1", "fe80::1%eth0", "x" * 400):
            self.assertRaises(AddressError, host_name, text)
