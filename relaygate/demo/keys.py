"""
What the demo's parties must have before anything runs: certificates, keys, a password; throwaway.

There are two CAs, as in real life. The deployment's own vouches for the nodes alone. The other
vouches for what clients verify: the HTTPS server inside, straight through the gateway, and the FTP
service, whose TLS ends on the internal nodes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh.keys import Key

from relaygate import pki
from relaygate.identity import Role

WEB_NAME: Final = "files.demo.example"
FTP_NAME: Final = "ftp.demo.example"
# Clients find that CA under this name in their folder.
SERVERS_CA: Final = "servers-ca.pem"
USER: Final = "demo"
_CREDENTIAL: Final = "ftp_password"
# Nodes warn of certificates that end within weeks.
_DAYS: Final = 90


def make_identities(root: Path, dmz: str, nodes: tuple[str, ...]) -> None:
    """Make a CA, and a folder below *root* for each node with its certificate, key and the CA."""
    now = datetime.now(UTC)
    ca = pki.make_ca("relaygate demo", now, _DAYS)
    pki.create_node(ca, dmz, Role.DMZ, now, _DAYS, root / dmz)
    for name in nodes:
        pki.create_node(ca, name, Role.INTERNAL, now, _DAYS, root / name)


def make_server_certificates(servers: Path, clients: Path, nodes: Iterable[Path]) -> None:
    """
    Make ``web.pem`` (key and certificate) for the HTTPS server, and the CA's for clients.

    In the folder of each of the *nodes*: ``ftp.pem`` and ``ftp.key``, for the FTP service, and
    ``web.pem`` and ``web.key`` for the service of HTTPS that is opened.
    """
    now = datetime.now(UTC)
    ca = pki.make_ca("relaygate demo servers", now, _DAYS)
    # To TLS clients a DMZ node's certificate is a server's, with a DNS name: just what is needed.
    made = pki.issue(ca, WEB_NAME, Role.DMZ, now, _DAYS)
    _write(servers / "web.pem", made.key_pem + made.certificate_pem, 0o600)
    nodes = list(nodes)
    for service, name in (("ftp", FTP_NAME), ("web", WEB_NAME)):
        made = pki.issue(ca, name, Role.DMZ, now, _DAYS)
        for node in nodes:
            _write(node / f"{service}.pem", made.certificate_pem, 0o644)
            _write(node / f"{service}.key", made.key_pem, 0o600)
    _write(clients / SERVERS_CA, ca.certificate_pem, 0o644)


def make_password(servers: Path, clients: Path) -> None:
    """Draw the password of the FTP user, for :func:`read_password` in both folders."""
    password = secrets.token_urlsafe(12).encode()
    for folder in (servers, clients):
        _write(folder / _CREDENTIAL, password, 0o600)


def read_password(folder: Path) -> str:
    """The password of the FTP user, from either folder."""
    return (folder / _CREDENTIAL).read_text()


def make_ssh_keys(servers: Path, clients: Path) -> None:
    """Make a host key and a user key; each side gets its own private and the other's public."""
    for name, own, other in (("host", servers, clients), ("user", clients, servers)):
        key = Key(Ed25519PrivateKey.generate())
        public = key.public().toString("OPENSSH")
        _write(own / f"{name}_key", key.toString("OPENSSH", subtype="v1"), 0o600)
        _write(own / f"{name}_key.pub", public + b"\n", 0o644)
        _write(other / f"{name}_key.pub", public + b"\n", 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    path.touch(mode)
    path.write_bytes(content)
