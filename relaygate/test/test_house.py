"""
The shape of the house: which module stands on which floor, and what it may import.

Each module of the product has an order number in :data:`ORDER`; its hundreds are its floor. A
module imports only modules with a lower number: imports run downhill, and equals are strangers.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from twisted.trial.unittest import SynchronousTestCase

import relaygate
from relaygate import ftprelay, httprelay
from relaygate.protocols import ftpeffects, httpeffects

PACKAGE: Final = Path(relaygate.__file__).parent
MAXIMUM_LINES: Final = 450

# Packages that are one room each: what is in them shares their number, and may import each other
# as long as there is no cycle.
ROOMS: Final = frozenset({"config", "cli", "demo"})

# "" is relaygate/__init__.py, which holds the version.
ORDER: Final = {
    # 0, ground: parsers and writers
    "": 0,
    "protocols": 1,
    "protocols.ftp": 10,
    "protocols.ftpaddr": 20,
    "protocols.ftpeffects": 20,
    "protocols.ftpfeat": 20,
    "protocols.ftpmask": 20,
    "protocols.ftptls": 30,
    "protocols.ftpexchange": 40,
    "protocols.ftplate": 50,
    "protocols.ftpprepare": 50,
    "protocols.ftptransfer": 50,
    "protocols.ftpverbs": 60,
    "protocols.ftpalg": 70,
    "protocols.clienthello": 10,
    "protocols.httpreader": 5,
    "protocols.httphead": 10,
    "protocols.httppages": 10,
    "protocols.httpbody": 20,
    "protocols.httptarget": 20,
    "protocols.httpfields": 30,
    "protocols.httpeffects": 40,
    "protocols.httpexchange": 50,
    "protocols.httpanswer": 60,
    "protocols.httpalg": 70,
    "protocols.preamble": 10,
    "protocols.statushttp": 10,
    "protocols.proxyhead": 10,
    "protocols.socks": 10,
    "protocols.healthchecks": 10,
    "protocols.proxyheader": 10,
    "protocols.sshident": 10,
    # 1, values: no Twisted, no clock, no randomness
    "outcome": 100,
    "auditlog": 100,
    "addresses": 100,
    "networks": 100,
    "rates": 100,
    "bans": 105,
    "backoff": 100,
    "destinations": 105,
    "marks": 100,
    "turns": 100,
    "balance": 105,
    "admission": 100,
    "changes": 100,
    "identity": 100,
    "servicekeys": 105,
    "stickiness": 110,
    "errors": 110,
    "gate": 110,
    "metrics": 110,
    "config": 120,
    # 2, the wire
    "arguments": 200,
    "clocks": 200,
    "piecemeal": 200,
    "boxes": 202,
    "commands": 205,
    "tls": 200,
    "servicetls": 210,
    "uplinkends": 207,
    "uplink": 210,
    # 3, the data plane, then the sessions that use it
    "pipes": 300,
    "quiettls": 300,
    "tlsrecords": 300,
    "tuning": 300,
    "legs": 310,
    "socketleg": 315,
    "dialleg": 320,
    "legport": 320,
    "onceport": 325,
    "pump": 320,
    "relay": 330,
    "sessionlog": 330,
    "dial": 330,
    "keeper": 330,
    "resolver": 330,
    "departures": 330,
    "entrytalk": 335,
    "draining": 330,
    "hedging": 330,
    "liveness": 330,
    "admin": 330,
    "handshake": 335,
    "desk": 335,
    "parting": 330,
    "statuspage": 330,
    "intake": 340,
    "bodypump": 330,
    "lingering": 330,
    "httpend": 330,
    "httppool": 366,
    "httpsettings": 367,
    "helloopening": 366,
    "httpseeker": 368,
    "httpwatch": 368,
    "httprelay": 369,
    "services": 369,
    "websession": 370,
    "sshopening": 340,
    "pool": 350,
    "supply": 350,
    "lobby": 350,
    "mapped": 355,
    "listeners": 360,
    "offers": 365,
    "passive": 360,
    "rendezvous": 365,
    "transfer": 366,
    "transfers": 368,
    "ftpcontrol": 365,
    "ftpways": 363,
    "ftpsettings": 364,
    "ftpdata": 365,
    "ftptransfers": 366,
    "ftprelay": 368,
    "backends": 365,
    "wayout": 365,
    "egress": 369,
    "entries": 365,
    "entrysession": 370,
    "entryport": 375,
    "entryfollow": 375,
    "entrymaking": 375,
    "guard": 368,
    "watch": 368,
    "report": 360,
    "backsession": 372,
    "enrolled": 370,
    "nodesearch": 368,
    "frontsession": 370,
    "reception": 375,
    "listshelf": 360,
    "listpush": 365,
    "dataway": 360,
    "declaring": 367,
    "mappeddata": 365,
    "gatewaylink": 370,
    # 4, roles
    "forwards": 400,
    "dmz": 400,
    "serving": 405,
    "probing": 380,
    "history": 300,
    "webpages": 390,
    "dashboard": 400,
    "operatorports": 405,
    "outlook": 365,
    "selfreport": 365,
    "steering": 410,
    "ftpservice": 410,
    "httpservice": 410,
    "servicemaking": 415,
    "internal": 420,
    # 5, doors
    "logs": 500,
    "notify": 500,
    "pki": 500,
    "turn": 500,
    "tap": 510,
    "dmz_tap": 520,
    "internal_tap": 520,
    "cli": 530,
    "demo": 540,
}

# What the pure floors may not touch. A clock also hides in methods, which CLOCKS names.
IMPURE: Final = frozenset(
    {
        "OpenSSL",
        "asyncio",
        "automat",
        "logging",
        "random",
        "secrets",
        "select",
        "selectors",
        "service_identity",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "threading",
        "time",
        "twisted",
        "uuid",
        "zope",
    }
)
# Certificates and keys are values too.
READERS_OF_KEYS: Final = frozenset({"identity", "servicekeys"})
CLOCKS: Final = frozenset({"now", "today", "utcnow", "urandom"})
REACTOR_USERS: Final = frozenset({"dmz_tap", "internal_tap", "demo"})


@dataclass(frozen=True)
class Import:
    """One name that a module imports, absolute and as long as it is written, and where."""

    name: str
    line: int


@dataclass(frozen=True)
class Module:
    """A module of the product, by its name below ``relaygate``."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def row(self) -> str:
        """The key of its row in the table: the room's name for what is inside a room."""
        head = self.name.partition(".")[0]
        return head if head in ROOMS else self.name

    @property
    def floor(self) -> int:
        """Its floor; a module without a row is another test's failure, and counts as the top."""
        return ORDER.get(self.row, 999) // 100

    def imports(self) -> Iterator[Import]:
        """Every import in it, wherever it stands, also those for type hints alone."""
        package = ["relaygate", *self.name.split(".")] if self.name else ["relaygate"]
        if self.path.name != "__init__.py":
            package.pop()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                stem = [*base, *([node.module] if node.module else [])]
                for alias in node.names:
                    yield Import(".".join([*stem, alias.name]), node.lineno)

    def at(self, line: int) -> str:
        """Say where *line* of it is, for a message."""
        return f"{self.path.relative_to(PACKAGE.parent)}:{line}"


def modules_in(package: Path) -> dict[str, Module]:
    """Parse every module of *package* but those of its test package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = list(path.relative_to(package).with_suffix("").parts)
        if parts[0] == "test":
            continue
        if parts[-1] == "__init__":
            parts.pop()
        name = ".".join(parts)
        found[name] = Module(name, path, ast.parse(path.read_bytes(), str(path)))
    return found


@functools.cache
def product() -> dict[str, Module]:
    """Parse the product, once: every rule looks at the same."""
    return modules_in(PACKAGE)


def target(name: str, modules: dict[str, Module]) -> str | None:
    """Name the product's module that an import of *name* loads; None for foreign ones."""
    parts = name.split(".")
    if parts[0] != "relaygate":
        return None
    if parts[1:2] == ["test"]:
        return "test"
    # "from relaygate.errors import Refusal" loads errors: the longest part that is a module.
    candidates = (".".join(parts[1:end]) for end in range(len(parts), 0, -1))
    return next((candidate for candidate in candidates if candidate in modules), "")


def slopes(modules: dict[str, Module]) -> list[str]:
    """List the imports that do not run downhill."""
    wrong = []
    for module in modules.values():
        for imported in module.imports():
            name = target(imported.name, modules)
            if name is None or name == module.name:
                continue
            if name == "test":
                wrong.append(f"{module.at(imported.line)}: the product imports its tests")
                continue
            row = modules[name].row
            if row == module.row or module.row not in ORDER or row not in ORDER:
                continue
            if ORDER[module.row] <= ORDER[row]:
                wrong.append(
                    f"{module.at(imported.line)}: {module.row} ({ORDER[module.row]}) imports"
                    f" {row} ({ORDER[row]}), which does not stand below it"
                )
    return wrong


def impurities(modules: dict[str, Module]) -> list[str]:
    """List what the two pure floors use and may not."""
    wrong = []
    for module in modules.values():
        if module.floor > 1:
            continue
        for imported in module.imports():
            top = imported.name.partition(".")[0]
            if top in IMPURE or (top == "cryptography" and module.row not in READERS_OF_KEYS):
                wrong.append(f"{module.at(imported.line)}: floor {module.floor} imports {top}")
        wrong.extend(
            f"{module.at(node.lineno)}: floor {module.floor} asks for {node.attr}"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute) and node.attr in CLOCKS
        )
    return wrong


def cycle(modules: dict[str, Module]) -> list[str]:
    """Return the modules of one cycle of imports in the order of import, or nothing."""
    edges: dict[str, set[str]] = {}
    for name, module in modules.items():
        loaded = {target(imported.name, modules) for imported in module.imports()}
        edges[name] = {other for other in loaded if other in modules and other != name}
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in finished:
            for other in sorted(edges[name]):
                if found := visit(other, [*path, name]):
                    return found
            finished.add(name)
        return []

    return next((found for name in sorted(edges) if (found := visit(name, []))), [])


class HouseTests(SynchronousTestCase):
    """The rules of the layout, over every module of the product."""

    def setUp(self) -> None:
        self.modules = product()

    def check(self, wrong: list[str]) -> None:
        """Fail with one mistake a line."""
        if wrong:
            self.fail("\n".join(["", *wrong]))

    def test_every_module_has_a_place(self) -> None:
        """Every module has a row in the table of floors."""
        self.check(
            [
                f"{module.at(1)} has no row: give {module.row!r} a number in ORDER of {__file__},"
                " higher than all that it imports, with its floor as the hundreds"
                for module in self.modules.values()
                if module.row not in ORDER
            ]
        )

    def test_imports_run_downhill(self) -> None:
        """A module imports only what has a lower number, and never the tests."""
        self.check(slopes(self.modules))

    def test_no_cycles(self) -> None:
        """No module imports itself through others, inside a room neither."""
        self.check(cycle(self.modules))

    def test_pure_floors(self) -> None:
        """Floors 0 and 1 import no Twisted, zope, clock, randomness, socket or logger."""
        self.check(impurities(self.modules))

    def test_only_the_doors_import_the_reactor(self) -> None:
        """The global reactor is imported by the taps and the demo; all others are given one."""
        self.check(
            [
                f"{module.at(imported.line)}: {module.row} imports the global reactor"
                for module in self.modules.values()
                for imported in module.imports()
                if imported.name.startswith("twisted.internet.reactor")
                and module.row not in REACTOR_USERS
            ]
        )

    def test_the_map_is_true(self) -> None:
        """The table of floors in docs/architecture.md has every room, on the floor of its row."""
        document = PACKAGE.parent / "docs" / "architecture.md"
        shown: dict[str, int] = {}
        for line in document.read_text("utf-8").splitlines():
            if floor := re.match(r"\| ([0-5]) ", line):
                for name in re.findall(r"`([a-z_]+)/?`", line):
                    shown[name] = int(floor[1])
        # The ground is one room on the map.
        rows = {name.partition(".")[0]: number // 100 for name, number in ORDER.items() if name}
        self.assertEqual(shown, rows)

    def test_the_ways_are_true(self) -> None:
        """What docs/architecture.md calls a file or a class of ours is one."""
        document = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
        ways = document.partition("## The way of one session")[2]
        there = {name.rpartition(".")[2] for name in self.modules}
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    there.add(node.name)
        named = re.findall(r"`(?:\w+/)*(\w+)\.py`", ways)
        # Classes, and private ones; names with an underscore within are an operating system's.
        named += re.findall(r"`(?:\w+\.)?(_?[A-Z][A-Za-z]+)(?:\.\w+)?`", ways)
        # Of Twisted: its service, and tcp.Port.
        self.assertEqual({*named} - there, {"ClientService", "Port"})

    def test_every_effect_is_performed(self) -> None:
        """The pure sessions of FTP and HTTP can ask for nothing that nobody does."""
        for effects, relay in ((ftpeffects, ftprelay), (httpeffects, httprelay)):
            self.assertEqual({*get_args(effects.Effect)}, {*relay._PERFORM})

    def test_no_web_server_unless_asked(self) -> None:
        """Neither program needs a web server or Perspective Broker in memory to start."""
        look = (
            "import sys, relaygate.dmz_tap, relaygate.internal_tap;"
            "print(*(name for name in sys.modules"
            " if name.startswith(('twisted.spread', 'twisted.web'))))"
        )
        found = subprocess.run(
            [sys.executable, "-c", look], capture_output=True, text=True, timeout=120, check=True
        )
        self.assertEqual(found.stdout.split(), [])

    def test_properties_have_one_door(self) -> None:
        """
        One module of the tests imports Hypothesis, and makes its settings; programs of the tests,
        which start by the hundred, do without.
        """
        importing = re.compile(r"^\s*(?:from|import) hypothesis\b", re.MULTILINE)
        files = (PACKAGE / "test").glob("*.py")
        found = [file.name for file in files if importing.search(file.read_text("utf-8"))]
        self.assertEqual(found, ["properties.py"])
        self.assertNotIn("import", (PACKAGE / "test" / "__init__.py").read_text("utf-8"))

    def test_no_room_is_too_large(self) -> None:
        """No module has more lines than can be kept in mind."""
        lengths = {
            module.at(1): len(module.path.read_bytes().splitlines())
            for module in self.modules.values()
        }
        self.check(
            [
                f"{place}: {length} lines, over {MAXIMUM_LINES}: look for the second room"
                for place, length in lengths.items()
                if length > MAXIMUM_LINES
            ]
        )


class RuleTests(SynchronousTestCase):
    """The rules see what they are there to see, in a small house that breaks them."""

    def house(self, **sources: str) -> dict[str, Module]:
        """Make modules out of source texts, ``a__b`` being the module ``a.b``."""
        return {
            name.replace("__", "."): Module(
                name.replace("__", "."),
                PACKAGE / (name.replace("__", "/") + ".py"),
                ast.parse(source),
            )
            for name, source in sources.items()
        }

    def test_uphill_is_seen(self) -> None:
        """Every way to write an import is seen, also in a function and for types alone."""
        for source in (
            "from relaygate import relay",
            "from relaygate.relay import Relay",
            "import relaygate.relay",
            "from . import relay",
            "from .relay import Relay",
            "def later():\n    from relaygate.relay import Relay",
            "if TYPE_CHECKING:\n    from relaygate.relay import Relay",
        ):
            (wrong,) = slopes(self.house(pump=source, relay=""))
            self.assertIn("pump (320) imports relay (330)", wrong)
            self.assertEqual(slopes(self.house(pump="", relay=source.replace("relay.", "x."))), [])

    def test_neighbours_and_tests_are_seen(self) -> None:
        """Modules with the same number may not import each other, and nobody imports the tests."""
        self.assertEqual(len(slopes(self.house(dmz="import relaygate.internal", internal=""))), 1)
        self.assertEqual(len(slopes(self.house(dmz="from relaygate.test import netns"))), 1)

    def test_impurity_is_seen(self) -> None:
        """Twisted, a clock or a cryptographic library in a pure module is a mistake."""
        for source in (
            "from twisted.internet import defer",
            "import time",
            "from cryptography import x509",
            "import datetime\nthen = datetime.datetime.now()",
        ):
            self.assertEqual(len(impurities(self.house(errors=source))), 1, source)
            self.assertEqual(impurities(self.house(relay=source)), [], source)
        self.assertEqual(impurities(self.house(identity="from cryptography import x509")), [])

    def test_cycles_are_seen(self) -> None:
        """A cycle is named from one end to the other."""
        house = self.house(
            config="", config__a="import relaygate.config.b", config__b="from .a import x"
        )
        self.assertEqual(cycle(house), ["config.a", "config.b", "config.a"])
        del house["config.b"]
        self.assertEqual(cycle(house), [])
