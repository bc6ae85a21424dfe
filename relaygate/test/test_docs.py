"""The documents that lead through the code name what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

import relaygate
from relaygate.test.netns import missing

PACKAGE: Final = Path(relaygate.__file__).parent
DOCS: Final = PACKAGE.parent / "docs"
# Names in the code's manner that are not ours.
FOREIGN: Final = {"ClientService", "SO_LINGER", "tcp.Port.transport"}


def named(text: str) -> set[str]:
    """The words between backticks that look like files, classes, or something of either."""
    words = set(re.findall(r"`([^`\n]+)`", text))
    return {w for w in words if re.fullmatch(r"[\w/]+\.py|(\w+\.)?_?[A-Z]\w*[a-z]\w*(\.\w+)?", w)}


def known() -> set[str]:
    """The project's files, and what they define: ``Class``, ``Class.method``, ``file.Class``."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        inside = file.relative_to(PACKAGE)
        found |= {str(inside), file.name, f"relaygate/{inside}"}
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                found |= {node.name, f"{file.stem}.{node.name}"}
                methods = (ast.FunctionDef, ast.AsyncFunctionDef)
                found |= {f"{node.name}.{m.name}" for m in node.body if isinstance(m, methods)}
    return found


class ArchitectureTests(SynchronousTestCase):
    """docs/architecture.md: who follows it with a finger arrives."""

    def setUp(self) -> None:
        if not DOCS.is_dir():
            missing("the documents are only in a checkout")

    def test_names(self) -> None:
        """Every file, class and method that it names exists."""
        text = (DOCS / "architecture.md").read_text()
        self.assertGreater(len(named(text)), 50)
        self.assertEqual(named(text) - known() - FOREIGN, set())

    def test_a_name_that_is_gone_is_found(self) -> None:
        """The same search finds what is not there."""
        text = "**`relay.py`** `Relay` calls `Relay.start`, `Relay.begin`, `gone.py`, `pump.Gone`."
        self.assertEqual(named(text) - known(), {"Relay.begin", "gone.py", "pump.Gone"})
