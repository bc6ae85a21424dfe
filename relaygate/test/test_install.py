"""An ordinary installation, from a wheel and not from the checkout, is whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

import relaygate
from relaygate.test.netns import missing

PACKAGE: Final = Path(relaygate.__file__).parent
MINIMUM_SETUPTOOLS: Final = 77


def can_build_here() -> bool:
    """Whether this environment has a setuptools that setup.cfg's build asks for."""
    try:
        return int(version("setuptools").partition(".")[0]) >= MINIMUM_SETUPTOOLS
    except PackageNotFoundError:
        return False


class InstallationTests(SynchronousTestCase):
    """What a user installs is whole: an ordinary wheel, not the checkout."""

    def build(self, folder: Path) -> Path:
        """Build the wheel from a copy of the checkout, and unpack it with pip into a folder."""
        root = PACKAGE.parent
        if not (root / "setup.cfg").exists():
            missing("there is no checkout to build a wheel from")
        source = folder / "source"
        source.mkdir()
        # A copy, because building leaves files behind, and takes up old ones that it finds.
        for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NEWS"):
            if (root / name).exists():
                shutil.copy(root / name, source)
        for name in ("relaygate", "twisted"):
            ignore = shutil.ignore_patterns("__pycache__", "dropin.cache")
            shutil.copytree(root / name, source / name, ignore=ignore)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        # Without isolation pip needs no network, but a setuptools that can make wheels by itself.
        isolation = ["--no-build-isolation"] if can_build_here() else []
        self.run_program(
            [*pip, "wheel", "--no-deps", *isolation, "--wheel-dir", str(folder), str(source)]
        )
        (wheel,) = folder.glob("relaygate-*.whl")
        site = folder / "site"
        self.run_program([*pip, "install", "--no-deps", "--target", str(site), str(wheel)])
        return site

    def run_program(self, argv: list[str]) -> str:
        """Run a program outside the checkout; fail with all its words if it fails."""
        with tempfile.TemporaryDirectory() as elsewhere:
            result = subprocess.run(
                argv,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
                cwd=elsewhere,
                check=False,
            )
        self.assertEqual(result.returncode, 0, result.stdout)
        return result.stdout

    def test_source_archive(self) -> None:
        """It holds what a wheel, the tests, the site and the examples are made of, and no more."""
        root = PACKAGE.parent
        if not can_build_here() or not (root / "MANIFEST.in").exists():
            missing("there is no checkout, or no setuptools to make an archive with")
        source = Path(self.mktemp()).absolute()
        ignore = shutil.ignore_patterns(
            ".*[!i]", "*.egg-info", "build", "dist", "_trial_temp*", "__pycache__", "dropin.cache"
        )
        shutil.copytree(root, source, ignore=ignore)
        code = "import os, sys; os.chdir(sys.argv[1]); import setuptools.build_meta as make; "
        self.run_program([sys.executable, "-c", code + 'make.build_sdist("out")', str(source)])
        (archive,) = (source / "out").glob("relaygate-*.tar.gz")
        with tarfile.open(archive) as opened:
            held = {name.partition("/")[2] for name in opened.getnames()}
        wanted = {"setup.cfg", "pyproject.toml", "Makefile", "LICENSE", "README.md", ".ci/run"}
        for folder in ("relaygate", "twisted", "etc", "docs", "bench"):
            wanted |= {
                str(path.relative_to(source))
                for path in (source / folder).rglob("*")
                if path.is_file() and path.suffix != ".pyc"
            }
        self.assertEqual(wanted - held, set())
        unwanted = [name for name in held if name.endswith((".pyc", ".key", ".pem"))]
        self.assertEqual(unwanted, [])

    def test_wheel_holds_everything_and_both_plugins(self) -> None:
        """A wheel installs every module and the types' marker, and twistd offers both programs."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        site = self.build(folder)
        ours = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
        package = site / "relaygate"
        installed = {path.relative_to(package) for path in package.rglob("*.py")}
        self.assertEqual(ours - installed, set())
        self.assertTrue((package / "py.typed").exists())
        web = {path.name for path in (PACKAGE / "web").iterdir()}
        self.assertEqual(web - {path.name for path in (package / "web").iterdir()}, set())
        self.assertFalse((site / "twisted" / "__init__.py").exists())
        # The checkout is taken off the path, so that its own plugin file cannot stand in.
        code = (
            "import sys, pathlib; site, root = sys.argv.pop(1), sys.argv.pop(1)\n"
            "kept = [p for p in sys.path if p and pathlib.Path(p) != pathlib.Path(root)]\n"
            "sys.path[:] = [site, *kept]\n"
            "import relaygate; assert relaygate.__file__.startswith(site), relaygate.__file__\n"
            "from twisted.scripts.twistd import run; run()"
        )
        options = self.run_program(
            [sys.executable, "-c", code, str(site), str(PACKAGE.parent), "--help"]
        )
        self.assertRegex(options, r"(?m)^\s+relaygate-dmz\s+\S")
        self.assertRegex(options, r"(?m)^\s+relaygate-internal\s+\S")
