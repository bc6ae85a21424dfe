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


class ClaimTests(SynchronousTestCase):
    """docs/pci-dss.md: no claim without a test."""

    def setUp(self) -> None:
        if not DOCS.is_dir():
            missing("the documents are only in a checkout")
        self.text = (DOCS / "pci-dss.md").read_text()

    def claims(self) -> list[str]:
        """The rows of its tables, but for the heads."""
        rows = [line for line in self.text.splitlines() if line.startswith("| ")]
        return [row for row in rows if not row.startswith(("| v", "| ---"))]

    def test_every_row_names_tests(self) -> None:
        """The last column of each row has tests, and nothing else."""
        self.assertGreater(len(self.claims()), 10)
        for row in self.claims():
            self.assertRegex(row, r"\| (`test_\w+\.\w+\.test_\w+`(, )?)+ \|$")

    def test_every_test_is_there(self) -> None:
        """Each test that is named exists, in that class of that file."""
        named_tests = re.findall(r"`(test_\w+)\.(\w+)\.(test_\w+)`", self.text)
        self.assertGreater(len(named_tests), 30)
        for module, case, test in named_tests:
            self.assertIn(f"{case}.{test}", methods_in(PACKAGE / "test" / f"{module}.py"), module)


class RequirementTests(SynchronousTestCase):
    """docs/requirements.md: which tests show what FTP has to do."""

    def setUp(self) -> None:
        if not DOCS.is_dir():
            missing("the documents are only in a checkout")
        text = (DOCS / "requirements.md").read_text()
        self.text = text.partition("## What shows requirements")[2].partition("\n## ")[0]

    def test_every_number(self) -> None:
        """Each of the numbers 1 to 44 has a row, whose tests are there."""
        rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", self.text, re.MULTILINE))
        self.assertEqual([int(number) for number in rows], list(range(1, 45)))
        for number, row in rows.items():
            for part in row.split("; "):
                module, _, names = part.partition(": ")
                file = PACKAGE / "test" / f"test_{module.strip('`')}.py"
                there = {name for each in methods_in(file) for name in each.split(".")}
                for name in re.findall(r"`(\w+)`", names):
                    self.assertTrue({name, f"test_{name}"} & there, (number, module, name))


def methods_in(file: Path) -> set[str]:
    """``Class.method`` of a file's classes, and of those that they inherit in the same file."""
    tree = ast.parse(file.read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = set()
    for name, node in classes.items():
        found |= {f"{name}.{each.name}" for each in node.body if isinstance(each, kinds)}
    return found
