"""
The Python that relaygate's nodes run on: the distribution's, as an operator is told to take it.

One that was built without profile-guided optimisation, as pyenv builds them by default, costs a
session a tenth more.  It gets an environment of its own in the benchmark's cache folder, with what
relaygate stands on; relaygate itself comes from this checkout.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Final

from bench.processes import cache_folder

DISTRIBUTION: Final = Path("/usr/bin/python3")
_ROOT: Final = Path(__file__).parents[1]


def requirements() -> list[str]:
    """What relaygate stands on, as pip takes it."""
    setup = ConfigParser(interpolation=None)
    setup.read(_ROOT / "setup.cfg")
    return setup["options"]["install_requires"].split()


def node_folder() -> Path:
    """The folder of that environment; another one when relaygate stands on other packages."""
    wanted = " ".join(requirements())
    return cache_folder() / f"nodes-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"


def node_python() -> str:
    """The Python for nodes: of that environment if it is there, else the one that runs this."""
    python = node_folder() / "bin" / "python"
    return str(python) if (node_folder() / "whole").exists() else sys.executable


def node_version() -> str:
    """Which Python that is."""
    argv = [node_python(), "-c", "import sys; print(sys.version.split()[0])"]
    version = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    return version if node_python() == sys.executable else f"{version}, the distribution's"
