"""``relaygate init``: one folder to carry to each machine, with all that it needs.

What was asked for is kept in ``deployment.json``, beside the folders.  Running the command again
adds to it.  Certificates, keys and what somebody has changed by hand are never written over.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import secrets
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relaygate import identity, pki
from relaygate.addresses import HostPort
from relaygate.cli.deployment import (
    PASSIVE_PORTS,
    Deployment,
    DeploymentError,
    Entry,
    Gateway,
    Inside,
    Published,
)
from relaygate.cli.questions import Answers, ask_all
from relaygate.cli.render import dmz_folder, internal_folder
from relaygate.config import ConfigError, printable
from relaygate.config.dmz import build_dmz
from relaygate.config.internal import build_internal
from relaygate.identity import IdentityError, Role
from relaygate.pki import PKIError

__all__ = ["add_parser"]

_FAILED = 2
_PLAN = "deployment.json"
_CA = "ca"
# A certificate for a first try; a partner's client is right not to trust it.
_TRIAL_DAYS = 90

_EXAMPLES = """\
examples:
  relaygate init site                      asks for what it needs
  relaygate init site --gateway 192.0.2.10:7443 --node node-a=10.0.0.5 \\
      --service sftp=ssh,22,sftp.private.example:22
  relaygate init site --node node-b        later: adds an internal node to it
  relaygate init site --service ftps=ftps,990,ftp.private.example:21 --public-address 203.0.113.7
  relaygate init site --service web=https,443,web.private.example:80
  relaygate init site --entry out=socks5,1080,sftp.partner.example:22
  relaygate init site --entry bank=tcp,0.0.0.0:2200,sftp.bank.example:22 --entry-allow 10.0.0.0/24

Exit status: 0 done; 2 nothing was done, and why.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command to the ``relaygate`` parser."""
    parser = subparsers.add_parser(
        "init",
        help="make everything for a new deployment, or add to one",
        description="Make a CA and, for each machine, a folder to carry there: configuration, "
        "certificate and key, systemd unit, firewall rules, and a script that installs them. "
        "Run again, it adds nodes and services, and changes nothing that is there.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="where; made if it is not there")
    parser.add_argument(
        "--gateway",
        action="append",
        default=[],
        metavar="[NAME=]HOST:PORT",
        help="a DMZ node, as internal nodes reach it (name: dmz)",
    )
    parser.add_argument(
        "--node",
        action="append",
        default=[],
        metavar="NAME[=ADDRESS]",
        help="an internal node, and the IP address that it dials from",
    )
    parser.add_argument(
        "--service",
        action="append",
        default=[],
        metavar="NAME=PROTOCOL,PORT,BACKEND",
        help="what is published: its protocol (ssh, ftp, ftps, http, https, tls, tcp), the port in "
        "the DMZ, and the servers inside",
    )
    parser.add_argument(
        "--entry",
        action="append",
        default=[],
        metavar="NAME=PROTOCOL,[HOST:]PORT,DESTINATION",
        help="where programs inside may go out to: its protocol (socks5, http-connect, tcp, ftp), "
        "where they connect to on the internal node (this machine alone without HOST), and where "
        "it leads",
    )
    parser.add_argument(
        "--entry-allow",
        action="append",
        default=[],
        metavar="NETWORK",
        help="who may use entries that other machines reach",
    )
    parser.add_argument(
        "--public-address",
        metavar="ADDRESS",
        help="the DMZ's address as FTP partners see it, if it is translated",
    )
    parser.add_argument(
        "--passive-ports",
        metavar="FIRST-LAST",
        help=f"for FTP's data connections (default: {PASSIVE_PORTS})",
    )
    parser.add_argument("--prefix", help="where relaygate is installed (default: /opt/relaygate)")
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="encrypts the CA's key (mode 600)"
    )
    parser.set_defaults(func=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        site = _Site(arguments.folder, _passphrase(arguments.passphrase_file))
        plan = _plan(arguments, site.plan(), input)
        site.write(plan)
    except (DeploymentError, IdentityError, PKIError) as error:
        print(f"relaygate init: {printable(str(error))}", file=sys.stderr)
        return _FAILED
    except ConfigError as error:
        for problem in error.problems:
            print(f"relaygate init: {printable(problem.key)}: {problem.message}", file=sys.stderr)
        return _FAILED
    except OSError as error:
        print(f"relaygate init: {error.filename}: {error.strerror}", file=sys.stderr)
        return _FAILED
    _tell(plan, site)
    return 0


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    label = identity.file_label("passphrase file", path)
    lines = identity.read_secret(label, path).splitlines()
    if not lines or not lines[0]:
        raise PKIError(f"{label} has an empty first line: the passphrase stands there")
    return lines[0]


def _plan(
    arguments: argparse.Namespace, before: Deployment, ask: Callable[[str], str]
) -> Deployment:
    """What is asked for, by flags or, without any and on a terminal, by questions."""
    told = Answers(
        [Gateway.parse(text, "dmz") for text in arguments.gateway],
        [Inside.parse(text) for text in arguments.node],
        [Published.parse(text) for text in arguments.service],
        [Entry.parse(text) for text in arguments.entry],
        arguments.entry_allow,
        arguments.public_address or "",
    )
    nothing = not (told.gateway or told.node or told.service or told.entry)
    if nothing and not before.gateways and sys.stdin.isatty():
        told = ask_all(ask, print)
    changes: dict[str, Any] = {
        name: value
        for name, value in (
            ("public_address", told.public_address),
            ("passive_ports", arguments.passive_ports),
            ("prefix", arguments.prefix),
        )
        if value
    }
    changes["entry_allow"] = tuple(dict.fromkeys((*before.entry_allow, *told.entry_allow)))
    plan = dataclasses.replace(before, **changes).grown(
        tuple(told.gateway), tuple(told.node), tuple(told.service), tuple(told.entry)
    )
    plan.check()
    return plan


@dataclass
class _Site:
    """The folder of a deployment; the lists have what was done, for people."""

    folder: Path
    passphrase: bytes | None
    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def plan(self) -> Deployment:
        """What was made here before; an empty one in a new place."""
        file = self.folder / _PLAN
        if file.exists():
            return Deployment.load(file.read_text())
        if self.folder.exists() and any(self.folder.iterdir()):
            raise DeploymentError(f"{self.folder} is neither empty nor a deployment's folder")
        return Deployment()

    def write(self, plan: Deployment) -> None:
        """Make what is not there yet; nothing is written before all of it is known to be right."""
        texts: dict[str, dict[str, str]] = {}
        for gateway in plan.gateways:
            texts[gateway.name] = dmz_folder(plan, gateway)
            where = self.folder / gateway.name / "dmz.toml"
            build_dmz(where, tomllib.loads(texts[gateway.name]["dmz.toml"]))
        for node in plan.nodes:
            texts[node.name] = internal_folder(plan, node)
            where = self.folder / node.name / "internal.toml"
            build_internal(where, tomllib.loads(texts[node.name]["internal.toml"]))
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = datetime.now(UTC)
        self._keys(plan, now)
        for node in plan.nodes:
            for service in plan.services:
                if service.opened:
                    host = plan.public_address or HostPort.parse(plan.gateways[0].address).host
                    self._trial(node.name, service, host, now)
        known = dict(plan.files)
        for name, files in texts.items():
            for file, text in files.items():
                self._file(f"{name}/{file}", text, known)
        _replace(
            self.folder / _PLAN,
            dataclasses.replace(plan, files=tuple(sorted(known.items()))).dump(),
            0o600,
        )

    def _keys(self, plan: Deployment, now: datetime) -> None:
        """The CA, and each node's certificate and key.  The CA's key stays where it is."""
        folder = self.folder / _CA
        if (folder / "ca.pem").exists():
            ca = None
        else:
            name = f"relaygate CA {now:%Y-%m-%d}"
            ca = pki.create_ca(folder, name, now, pki.CA_DAYS, self.passphrase)
            self.made.append(f"{_CA}/ca.pem, {_CA}/ca.key")
        roles = [(each.name, Role.DMZ) for each in plan.gateways]
        roles += [(each.name, Role.INTERNAL) for each in plan.nodes]
        for name, role in roles:
            out = self.folder / name
            if (out / f"{name}.pem").exists():
                continue
            ca = ca or pki.load_ca(folder, self.passphrase)
            out.mkdir(mode=0o700, exist_ok=True)
            pki.create_node(ca, name, role, now, pki.NODE_DAYS, out)
            self.made.append(f"{name}/{name}.pem, {name}/{name}.key")

    def _trial(self, node: str, service: Published, host: str, now: datetime) -> None:
        """A self-signed certificate for clients of *service*, the same on every node."""
        names = (f"service-{service.name}.pem", f"service-{service.name}.key")
        own = [self.folder / node / name for name in names]
        if own[0].exists():
            return
        elsewhere = [
            path.parent for path in sorted(self.folder.glob(f"*/{names[0]}")) if path.exists()
        ]
        if elsewhere:
            pair = [(elsewhere[0] / name).read_bytes() for name in names]
        else:
            pair = _self_signed(host, now)
        for path, content, mode in zip(own, pair, (0o644, 0o600), strict=True):
            _replace(path, content.decode(), mode)
        self.made.append(f"{node}/{names[0]}, {node}/{names[1]} (for a first try)")

    def _file(self, path: str, text: str, known: dict[str, str]) -> None:
        """Write one file, unless somebody has changed it: then the new one goes beside it."""
        file = self.folder / path
        digest = hashlib.sha256(text.encode()).hexdigest()
        mode = 0o755 if path.endswith(".sh") else 0o644
        if file.exists():
            found = hashlib.sha256(file.read_bytes()).hexdigest()
            if found == digest:
                known[path] = digest
                return
            if found != known.get(path):
                beside = file.with_name(file.name + ".new")
                if not beside.exists() or beside.read_text() != text:
                    _replace(beside, text, mode)
                self.kept.append(path)
                return
        _replace(file, text, mode)
        known[path] = digest
        self.made.append(path)


def _replace(file: Path, text: str, mode: int) -> None:
    """Put a file in its place in one step."""
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    beside.replace(file)


def _self_signed(host: str, now: datetime) -> list[bytes]:
    """Certificate and key for *host*, an IP address or a name."""
    key = ec.generate_private_key(ec.SECP256R1())
    literal = HostPort(host, 1).literal
    name: x509.GeneralName = x509.IPAddress(literal) if literal else x509.DNSName(host)
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "relaygate trial certificate, replace it")]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - pki.CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=_TRIAL_DAYS))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return [identity.certificate_to_pem(certificate), identity.key_to_pem(key)]


def _tell(plan: Deployment, site: _Site) -> None:
    """Print what was done and what to do next."""
    folder = printable(str(site.folder))
    for path in site.made:
        print(f"made  {folder}/{path}")
    for path in site.kept:
        print(f"kept  {folder}/{path}: changed by hand; what it would be is in {path}.new")
    if not site.made and not site.kept:
        print(f"{folder}: nothing to do")
        return
    print("\nnext:")
    print("  # for machines without relaygate: pip wheel --wheel-dir wheels CHECKOUT, and put the")
    print("  # folder wheels into each of these")
    machines = [(each.name, HostPort.parse(each.address).host, "DMZ") for each in plan.gateways] + [
        (each.name, each.address or each.name, "internal") for each in plan.nodes
    ]
    for name, host, what in machines:
        print(f"  scp -r {folder}/{name} root@{host}:    # the {what} node's machine")
        print(f"  ssh root@{host} sh {name}/install.sh")
    for node in plan.nodes[:1]:
        host = node.address or node.name
        print(f"  ssh root@{host} {plan.prefix}/bin/relaygate doctor    # does it all work?")
    print(f"\nThe firewall between them: {folder}/{plan.gateways[0].name}/FIREWALL.txt")
    print(f"Keep {folder}/{_CA}/ca.key here, or in a safer place, and on no node.")
    opened = [service.name for service in plan.services if service.opened]
    if opened:
        print(
            f"The certificates of {', '.join(opened)} are self-signed, for a first try: before "
            "partners come, put real ones there."
        )
