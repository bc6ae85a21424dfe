"""
What is private to others and used here all the same: all of it in one table, and what stands in.

Each row is a debt: a later Twisted, pyOpenSSL or Python may have it elsewhere.  A row without a way
of its own to go on without is said to be so, and these tests are then the first to tell.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import socket
from functools import cache
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.trial.unittest import SynchronousTestCase

from relaygate import legport, socketleg, uplink
from relaygate.test import test_uplink
from relaygate.test.test_house import PACKAGE, Module, modules_in
from relaygate.turn import shorten

FOREIGN = ("twisted.", "OpenSSL.", "socket", "argparse")
# Not classes, which type hints have to name.
PRIVATE = re.compile(r"_[a-z]\w*")

# What each module asks of objects that are not its own.
ASKED = {
    # argparse has no public list of its arguments. No way without; only completion ends with it.
    "cli.completion": {"_actions", "_choices_actions"},
    # Guarded by DIRECT: socket.accept() otherwise.
    "socketleg": {"_accept"},
    # Guarded by DIRECT: pyOpenSSL's public methods otherwise.
    "tlsrecords": {"_ffi", "_lib", "_ssl"},
    # Guarded by shorten(): the reactor's own turn otherwise.
    "turn": {"_disconnectSelectable", "_doReadOrWrite", "_poller", "_selectables"},
    # Guarded by DIRECT: locateResponder() otherwise.
    "uplink": {"_commandDispatch"},
}

# What our own kinds of Twisted's classes have of those: they replace it, or read it.
# No way without, unless it says so.
INHERITED = {
    # Where Twisted makes the transport of an endpoint's connection, and where that stands.
    "dial._LegConnector": {"_makeTransport"},
    "dialleg.ClientLeg": {"_connectDone"},
    # How a direction and a socket are ended, and how far that has come.
    "legs.Leg": {
        "_closeSocket",
        "_closeWriteConnection",
        "_dataReceived",
        "_postLoseConnection",
        "_shouldShutdown",
        "_tempDataLen",
        "_writeDisconnected",
        "_writeDisconnecting",
    },
    "socketleg._Connection": {"_closeSocket", "_writeDisconnected"},
    # Guarded, see above.
    "uplink.Uplink": {"_commandDispatch"},
}


def is_own(node: ast.expr) -> bool:
    """Whether *node* is an object's word for itself."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def asked(module: Module, ours: set[str]) -> set[str]:
    """The private names that *module* asks of others; *ours* are those that the product has."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            found.add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            # By its name in quotes, as guards have it.
            name = node.args[1] if node.func.id in ("getattr", "hasattr") else None
            if isinstance(name, ast.Constant):
                found.add(str(name.value))
    if module.name == "turn":
        found |= {*importlib.import_module("relaygate.turn")._PARTS}
    return {name for name in found if PRIVATE.fullmatch(name) and name not in ours}


@cache
def of_itself(kind: type) -> set[str]:
    """The private names that the source of *kind* has for something of the object itself."""
    source = inspect.getsource(kind)
    names = re.findall(r"\b(?:self|cls|super\(\))\.(_[A-Za-z]\w*)", source)
    names += re.findall(r"^    (?:async )?(?:def )?(_[A-Za-z]\w*)\s*[(=:]", source, re.MULTILINE)
    return set(names)


def inherited(kind: type) -> dict[str, set[str]]:
    """What the product's classes that *kind* is made of share with Twisted's, by class."""
    ours = [each for each in kind.__mro__ if each.__module__.startswith("relaygate.")]
    theirs: set[str] = set()
    for each in kind.__mro__:
        if each.__module__.startswith(FOREIGN):
            theirs |= of_itself(each)
    found = {}
    for each in ours:
        shared = of_itself(each) & theirs if theirs else set()
        if shared:
            found[f"{each.__module__.removeprefix('relaygate.')}.{each.__name__}"] = shared
    return found


class TableTests(SynchronousTestCase):
    """The tables have all of it, and all that they have is there."""

    def setUp(self) -> None:
        self.modules = {
            name: module
            for name, module in modules_in(PACKAGE).items()
            if name.partition(".")[0] not in ("demo", "")
        }

    def test_asked(self) -> None:
        """No other module asks an object that is not its own for what is private to it."""
        ours: set[str] = set()
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    ours.add(node.name)
                elif isinstance(node, ast.Attribute) and is_own(node.value):
                    ours.add(node.attr)
                elif isinstance(node, ast.AnnAssign | ast.Assign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    ours |= {each.id for each in targets if isinstance(each, ast.Name)}
        for names in ASKED.values():
            ours -= names
        found = {name: asked(module, ours) for name, module in self.modules.items()}
        self.assertEqual({name: names for name, names in found.items() if names}, ASKED)

    def test_inherited(self) -> None:
        """
        No other private name is one of Twisted's as well, knowingly or not: a name of ours that a
        base has, too, would be a fault that nobody sees.
        """
        found: dict[str, set[str]] = {}
        for name in self.modules:
            if name.endswith("_tap"):
                continue
            module = importlib.import_module(f"relaygate.{name}")
            for _, kind in inspect.getmembers(module, inspect.isclass):
                if kind.__module__ == module.__name__:
                    for place, names in inherited(kind).items():
                        found.setdefault(place, set()).update(names)
        self.assertEqual(found, INHERITED)


class AcceptTests(SynchronousTestCase):
    """Without CPython's own part connections are taken all the same."""

    def accepted(self, listening: socket.socket) -> Any:
        """What comes of a connection to *listening*."""
        self.addCleanup(listening.close)
        client = socket.create_connection(listening.getsockname(), 30)
        self.addCleanup(client.close)
        skt, peer = socketleg.accept(listening, socket.AF_INET)
        self.addCleanup(skt.close)
        self.assertEqual(peer, client.getsockname())
        client.sendall(b"x")
        self.assertEqual(skt.recv(1), b"x")
        return skt

    def test_both_ways(self) -> None:
        """The socket is the same, with that part and without."""
        for direct in (True, False):
            self.patch(socketleg, "DIRECT", direct)
            skt = self.accepted(socket.create_server(("127.0.0.1", 0)))
            self.assertFalse(skt.get_inheritable())

    def test_screened(self) -> None:
        """So it is at a port with a screen, for those whom it lets in."""
        for direct in (True, False):
            self.patch(socketleg, "DIRECT", direct)
            plain = socket.create_server(("127.0.0.1", 0))
            screened = legport.ScreenedSocket(plain.family, plain.type, 0, fileno=plain.detach())
            self.addCleanup(screened.close)
            screened.of = socket.AF_INET
            screened.screen = "127.0.0.1".__eq__
            client = socket.create_connection(screened.getsockname(), 30)
            self.addCleanup(client.close)
            skt, peer = screened.accept()
            self.addCleanup(skt.close)
            self.assertEqual(peer, client.getsockname())


class AMPTests(test_uplink.CommandTests):
    """Every command, answered in AMP's own way."""

    def setUp(self) -> None:
        self.patch(uplink, "DIRECT", False)
        super().setUp()


class TurnTests(SynchronousTestCase):
    """A reactor that is built otherwise turns as it did."""

    def test_parts_elsewhere(self) -> None:
        """One part that is missing is enough."""
        made = EPollReactor()
        self.addCleanup(made._poller.close)
        self.addCleanup(made.removeAll)
        before = made.doIteration
        selectables = made.__dict__.pop("_selectables")
        self.assertFalse(shorten(made))
        self.assertEqual(made.doIteration, before)
        made._selectables = selectables
