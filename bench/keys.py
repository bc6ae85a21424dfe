"""Keys and certificates for the moment; the benchmark's clients look at none."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from relaygate import pki
from relaygate.identity import Role

_DAYS: Final = 30


def server_pem(folder: Path) -> Path:
    """A TLS server's key and certificate, in one file in *folder*."""
    now = datetime.now(UTC)
    ca = pki.make_ca("relaygate bench", now, _DAYS)
    # To TLS clients a DMZ node's certificate is a server's.
    made = pki.issue(ca, "bench.example", Role.DMZ, now, _DAYS)
    pem = folder / "server.pem"
    pem.touch(0o600)
    pem.write_bytes(made.key_pem + made.certificate_pem)
    return pem
