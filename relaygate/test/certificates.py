"""Certificates of servers and services in tests, from a CA that lives as long as one test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme
from twisted.trial.unittest import TestCase

from relaygate.test.programs import new_folder


@dataclass(frozen=True)
class Certified:
    """The PEM files of one server: its certificate, its key, and one file that has both."""

    certificate: Path
    key: Path
    both: Path


class ServerCA:
    """A CA for the servers of the test *case*; :attr:`file` is what clients are told to trust."""

    def __init__(self, case: TestCase) -> None:
        self._case = case
        # RSA, since some of the servers have a setting for it only.
        self._ca = trustme.CA(key_type=trustme.KeyType.RSA)
        self.file = new_folder(case) / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, *identities: str) -> Certified:
        """Make a key and a certificate for *identities*, host names or addresses."""
        made = self._ca.issue_cert(*identities, key_type=trustme.KeyType.RSA)
        folder = new_folder(self._case)
        certified = Certified(folder / "server.pem", folder / "server.key", folder / "both.pem")
        certified.both.touch(0o600)
        certified.key.touch(0o600)
        made.private_key_pem.write_to_path(str(certified.key))
        made.private_key_and_cert_chain_pem.write_to_path(str(certified.both))
        for blob in made.cert_chain_pems:
            blob.write_to_path(str(certified.certificate), append=True)
        return certified
