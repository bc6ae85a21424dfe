"""
Other projects' own test suites: how they are fetched, and how two runs of one are compared.

A suite comes from its project's source archive on PyPI, by ``pip``, in one pinned version. It is
kept in a cache outside the project, and unpacked anew into the folder of each test that runs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.netns import missing
from relaygate.test.programs import completed, new_folder

_FETCH_LIMIT_S: Final = 120.0
_PIP_ON_OTHER_BYTES: Final = "DO NOT MATCH THE HASHES"

PASSED: Final = "passed"


@dataclass(frozen=True)
class Source:
    """One version of a project's source archive; *sha256* is of the whole file, in hex."""

    project: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The name of the folder in the archive."""
        return f"{self.project}-{self.version}"

    def is_in(self, archive: Path) -> bool:
        """Tell whether the file *archive* exists and is this archive, byte by byte."""
        return archive.is_file() and hashlib.sha256(archive.read_bytes()).hexdigest() == self.sha256


def default_cache() -> Path:
    """Return the folder where archives are kept from one run to the next."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "relaygate" / "suites"


async def unpacked(case: TestCase, source: Source, cache: Path | None = None) -> Path:
    """
    Return a new folder that holds what is in the archive of *source*.

    Where it is not in *cache* and cannot be fetched, the test is skipped or fails, as
    :func:`~relaygate.test.netns.missing` has it. Raises ``AssertionError`` if the archive on offer
    is not the pinned one: nothing of it has been run then.
    """
    cache = cache or default_cache()
    archive = cache / f"{source.name}.tar.gz"
    if not source.is_in(archive):
        await _fetch(case, source, archive)
    folder = new_folder(case)
    shutil.unpack_archive(archive, folder)
    return folder / source.name


async def _fetch(case: TestCase, source: Source, archive: Path) -> None:
    # pip runs a source archive's own code to learn about it. With the hash in a requirements file
    # it first makes sure that these are the bytes that somebody has looked at.
    wanted = new_folder(case) / "requirements"
    wanted.write_text(f"{source.project}=={source.version} --hash=sha256:{source.sha256}\n")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as arriving:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        argv += ["--no-deps", "--no-binary", source.project, "--require-hashes"]
        argv += ["--dest", arriving, "-r", str(wanted)]
        ended = await completed(case, argv, timeout=_FETCH_LIMIT_S)
        if _PIP_ON_OTHER_BYTES in ended.errors:
            raise AssertionError(f"{source.name} is not what it was:\n{ended.errors}")
        if ended.status:
            missing(f"pip cannot fetch {source.name}: {ended.errors.strip()[-500:]}")
        arrived = Path(arriving) / archive.name
        if not source.is_in(arrived):
            raise AssertionError(f"pip fetched something else than {archive.name}")
        # Another run may do the same now; each puts a whole file in place.
        arrived.replace(archive)


@dataclass(frozen=True)
class SuiteRun:
    """
    What one run of a suite came to, by the ids of its tests.

    *outcomes* has :data:`PASSED`, or what else became of a test; *connections* how many connections
    a test's clients opened; *dialled* the addresses that they opened them to.
    """

    outcomes: Mapping[str, str]
    connections: Mapping[str, int]
    dialled: Sequence[str]

    @classmethod
    def read(cls, report: Path) -> SuiteRun:
        """Read what a driver has written; raises ``AssertionError`` if it has written nothing."""
        if not report.exists():
            raise AssertionError(f"the suite left no report: {report}")
        found = json.loads(report.read_text())
        return cls(found["outcomes"], found["connections"], found["dialled"])

    def write(self, report: Path) -> None:
        """Write it down for :meth:`read`."""
        report.write_text(json.dumps(vars(self)))

    @property
    def passed(self) -> set[str]:
        """The tests that passed."""
        return {test for test, outcome in self.outcomes.items() if outcome == PASSED}

    @property
    def connecting(self) -> set[str]:
        """The tests whose clients connected at least once."""
        return {test for test, count in self.connections.items() if count}


def differences(direct: SuiteRun, through: SuiteRun) -> list[str]:
    """Return a line for each test that did not end *through* the gateway as it did without."""
    return [
        f"{test}: {before} direct, {after} through the gateway"
        for test in sorted(direct.outcomes.keys() | through.outcomes.keys())
        if (before := direct.outcomes.get(test, "not run"))
        != (after := through.outcomes.get(test, "not run"))
    ]
