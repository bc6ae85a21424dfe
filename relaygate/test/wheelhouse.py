"""
Wheels of what is installed here, made without a network: what a package index would give.

A wheel is a zip archive of the files that its installation has put into ``site-packages``, which
``RECORD`` lists (PEP 376, PEP 427); scripts are made anew by whoever installs it.
"""

from __future__ import annotations

import re
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import Final

_REQUIREMENT: Final = re.compile(r"([\w.-]+)\s*(?:\[([\w,. -]+)\])?")
_EXTRA: Final = re.compile(r"""extra\s*==\s*["']([\w.-]+)""")
# Of its own installation here, which is none of the wheel's.
_NOT_PACKED: Final = frozenset({"INSTALLER", "REQUESTED", "direct_url.json", "RECORD"})


def fill_for_relaygate(folder: Path) -> set[str]:
    """Put there what it takes to make a wheel of relaygate, and to install it."""
    needed = [line for line in requires("relaygate") or () if not _EXTRA.search(line)]
    return fill(folder, "setuptools", *needed)


def fill(folder: Path, *wanted: str) -> set[str]:
    """
    Put wheels of *wanted*, as in ``twisted[conch]``, and of all that they stand on into *folder*.

    Returns their names.  What is not installed is left out: it is for other machines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made: set[str] = set()
    seen: set[str] = set()
    left = list(wanted)
    while left:
        line = left.pop()
        if line in seen:
            continue
        seen.add(line)
        match = _REQUIREMENT.match(line)
        assert match is not None, line
        try:
            found = distribution(match[1])
        except PackageNotFoundError:
            continue
        if found.name not in made:
            made.add(found.name)
            _pack(folder, found)
        extras = set((match[2] or "").replace(" ", "").split(","))
        for below in found.requires or ():
            extra = _EXTRA.search(below)
            if extra is None or extra[1] in extras:
                left.append(below)
    return made


def _pack(folder: Path, found: Distribution) -> None:
    """Make one wheel."""
    text = found.read_text("WHEEL") or ""
    tags = re.findall(r"^Tag: (\S+)", text, re.MULTILINE)
    # Several tags of one wheel are compressed into one name: each part once, with dots between.
    parts = zip(*(tag.split("-") for tag in tags), strict=True)
    tag = "-".join(".".join(dict.fromkeys(part)) for part in parts)
    name = re.sub(r"[-_.]+", "_", found.name)
    rows = []
    own = f"{name}-{found.version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{found.version}-{tag}.whl", "w") as archive:
        for file in found.files or ():
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            if file.parts[0].endswith(".dist-info"):
                own = file.parts[0]
                if file.name in _NOT_PACKED:
                    continue
            archive.write(str(file.locate()), str(file))
            rows.append(f"{file},,\n")
        archive.writestr(f"{own}/RECORD", "".join(rows) + f"{own}/RECORD,,\n")
