"""The documents: what is made out of the code is whole, and what they name is there."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import relaygate
from relaygate.test.netns import missing

ROOT = Path(relaygate.__file__).parents[1]
DOCS = ROOT / "docs"


class DocumentTests(SynchronousTestCase):
    """Over the checkout."""

    def setUp(self) -> None:
        if not (DOCS / "generate.py").exists():
            missing("there is no checkout, and so no docs")

    def test_generated(self) -> None:
        """Every line of the log and every refusal is explained, and every key is in the reference.

        A new line of the log needs words in ``docs/events.py``.
        """
        folder = Path(self.mktemp()).absolute()
        done = subprocess.run(
            [sys.executable, str(DOCS / "generate.py"), str(folder)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        reference = (folder / "reference.md").read_text()
        for key in ("`certificate`", "`[policy]`", "`[[service]]`", "`passive_ports`"):
            self.assertIn(key, reference)
        self.assertIn("""| `"round-robin"` |""", reference)
        # Every key says what holds without it.
        self.assertNotRegex(reference, r"(?m)^\| `.*\| +\|$")
        self.assertIn("relaygate doctor", (folder / "commands.md").read_text())
        self.assertIn("| 16 |", (folder / "troubleshooting.md").read_text())

    def test_every_key_is_explained(self) -> None:
        """Every key of the reference stands in a document that says what it means."""
        folder = Path(self.mktemp()).absolute()
        subprocess.run(
            [sys.executable, str(DOCS / "generate.py"), str(folder)],
            capture_output=True,
            timeout=120,
            check=False,
        )
        reference = (folder / "reference.md").read_text()
        keys = re.findall(r"^\| `([a-z_]+)` \|", reference, re.MULTILINE)
        texts = "".join(file.read_text() for file in DOCS.glob("*.md"))
        self.assertGreater(len(keys), 50)
        self.assertEqual([key for key in keys if f"`{key}`" not in texts], [])

    def test_links_outside_of_the_site(self) -> None:
        """What README and its like link to is there; of the site's own links Sphinx takes care."""
        for name in ("README.md", "CONTRIBUTING.md", "bench/README.md"):
            text = (ROOT / name).read_text()
            for link in re.findall(r"\]\(([^)#\s]+)(?:#([\w-]+))?\)", text):
                file, anchor = link
                if "://" in file:
                    continue
                target = (ROOT / name).parent / file
                self.assertTrue(target.exists(), f"{name}: {file}")
                if anchor:
                    heads = re.findall(r"(?m)^#+ (.+)$", target.read_text())
                    plain = (re.sub(r"[^\w -]", "", head).lower() for head in heads)
                    known = {head.replace(" ", "-") for head in plain}
                    self.assertIn(anchor, known, f"{name}: {file}#{anchor}")

    def test_threat_model(self) -> None:
        """Each line of the threat model that needs a test names one that is there."""
        text = (DOCS / "threatmodel.md").read_text()
        names = re.findall(r"`(test_\w+)\.(\w+)\.(test_\w+)` \|", text)
        self.assertGreater(len(names), 20)
        for module, case, test in names:
            found = getattr(importlib.import_module(f"relaygate.test.{module}"), case)
            self.assertTrue(hasattr(found, test), f"{module}.{case}.{test}")
