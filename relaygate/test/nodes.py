"""Real nodes for tests: the two programs of relaygate under ``twistd``, with their certificates."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate import pki
from relaygate.identity import Role
from relaygate.test.programs import Program, Where, new_folder

_DAYS: Final = 30

# twistd has no "python -m"; with "-c" the interpreter is surely that of the tests.
_TWISTD: Final = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
_COMMANDS: Final = {Role.DMZ: "relaygate-dmz", Role.INTERNAL: "relaygate-internal"}


class Node(Program):
    """
    A DMZ node or an internal node under ``twistd``, with a certificate of the test's own CA.

    *config* is the text of its configuration without the ``[identity]`` table, which is added.
    *before* is a command that runs the program, in front of it.
    """

    def __init__(
        self,
        case: TestCase,
        authority: Authority,
        role: Role,
        name: str,
        config: str,
        *,
        where: Where | None = None,
        options: Sequence[str] = (),
        before: Sequence[str] = (),
    ) -> None:
        self._identity = authority.identity(name, role)
        self.config_file = new_folder(case) / f"{name}.toml"
        self.configure(config)
        command = [*before, *_TWISTD, "-n", "--pidfile=", *options]
        command += [_COMMANDS[role], "--config", str(self.config_file)]
        super().__init__(case, name, command, where=where)

    def begin_with(self, code: str) -> None:
        """Have some lines of Python run first, in its process: that makes another version of it."""
        at = self._argv.index("-c") + 1
        self._argv[at] = f"{code}\n{self._argv[at]}"

    def configure(self, config: str) -> None:
        """Write another configuration, for the next start or reload."""
        # Tests that are over do not wait for their sessions, unless that is what they test.
        stop = "" if "[stop]" in config else "[stop]\ndrain = 0\n"
        self.config_file.write_text(f"{config}\n{stop}{self._identity}")


class Authority:
    """
    A CA that lives as long as one test, and whose certificates are valid from now on, or from
    *days_off* days later.
    """

    def __init__(self, case: TestCase, *, days_off: int = 0) -> None:
        self.folder = new_folder(case)
        self._now = datetime.now(UTC) + timedelta(days=days_off)
        self._ca = pki.make_ca("relaygate test", self._now, _DAYS)

    def elsewhere(self, case: TestCase) -> Authority:
        """The same CA, with a folder of its own for what it issues."""
        other = copy.copy(self)
        other.folder = new_folder(case)
        return other

    def identity(self, name: str, role: Role) -> str:
        """Write a new key and certificate for *name*; return the ``[identity]`` table for them."""
        made = pki.issue(self._ca, name, role, self._now, _DAYS)
        files = {
            "certificate": (self.folder / f"{name}.pem", made.certificate_pem, 0o644),
            "key": (self.folder / f"{name}.key", made.key_pem, 0o600),
            "ca": (self.folder / "ca.pem", self._ca.certificate_pem, 0o644),
        }
        for path, content, mode in files.values():
            path.touch(mode)
            path.write_bytes(content)
        return "[identity]\n" + "".join(f'{key} = "{file[0]}"\n' for key, file in files.items())
