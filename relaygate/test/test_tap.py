"""Tests of both programs' start under twistd: what they read, where they log, what signals do."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.logger import ILogObserver
from twisted.python.components import Componentized
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate import dmz_tap, internal_tap, pki
from relaygate.identity import Role
from relaygate.tap import NodeOptions, Program
from relaygate.test.nodes import Authority, Node
from relaygate.test.ports import free_port
from relaygate.test.programs import completed, new_folder
from relaygate.test.wire import lines, logged, until

TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=")


def read(file: Path) -> str:
    """What *file* holds; nothing if it is not there."""
    return file.read_text() if file.exists() else ""


def dmz_config(log: str = "") -> str:
    """A DMZ node's configuration, without its identity."""
    return f"""
[uplink]
listen = "127.0.0.1:{free_port()}"
nodes = ["node-a"]
[policy]
listen = ["127.0.0.1:1-65535"]
{log}
"""


def internal_config() -> str:
    """An internal node's configuration, without its identity."""
    return f"""
[[gateway]]
address = "127.0.0.1:{free_port()}"
name = "dmz"
[[service]]
name = "sftp"
protocol = "ssh"
listen = "0.0.0.0:2222"
backends = ["127.0.0.1:22"]
"""


TAPS = (
    (dmz_tap, Role.DMZ, "dmz", dmz_config),
    (internal_tap, Role.INTERNAL, "node-a", internal_config),
)


class StartTests(TestCase):
    """Making the service, in this process."""

    def setUp(self) -> None:
        self.authority = Authority(self)
        self.folder = new_folder(self)
        self.errors = StringIO()

    def options(self, text: str) -> NodeOptions:
        """The options for a configuration of *text*."""
        file = self.folder / "node.toml"
        file.write_text(text)
        options = NodeOptions()
        options.parseOptions(["--config", str(file)])
        return options

    def refused(self, tap: Any, text: str) -> list[str]:
        """What standard error says of a configuration that the program does not start with."""
        errors = StringIO()
        self.patch(sys, "stderr", errors)
        with self.assertRaises(SystemExit) as caught:
            tap.makeService(self.options(text))
        self.assertEqual(caught.exception.code, 2)
        return errors.getvalue().splitlines()

    def test_no_configuration(self) -> None:
        """Without --config neither program starts; the usage says what is needed."""
        for tap, *_ in TAPS:
            with self.assertRaises(UsageError) as caught:
                tap.Options().parseOptions([])
            self.assertIn("--config", str(caught.exception))

    def test_good_files(self) -> None:
        """Both programs come up from good files, with the node and the keeper inside."""
        for tap, role, name, config in TAPS:
            program = tap.makeService(self.options(config() + self.authority.identity(name, role)))
            self.assertIsInstance(program, Program)
            self.assertEqual(len(list(program)), 2)

    def test_every_mistake_in_its_line(self) -> None:
        """Each mistake in the configuration is a line that names the file and the key."""
        for tap, role, name, config in TAPS:
            text = config().replace("listen", "lissen") + self.authority.identity(name, role)
            said = self.refused(tap, text)
            self.assertGreater(len(said), 1)
            for line in said:
                self.assertIn("node.toml", line)
            self.assertIn("lissen", "".join(said))

    def test_no_file(self) -> None:
        """A configuration that is not there is one line."""
        options = NodeOptions()
        options.parseOptions(["--config", str(self.folder / "none.toml")])
        self.patch(sys, "stderr", self.errors)
        for tap, *_ in TAPS:
            with self.assertRaises(SystemExit) as caught:
                tap.makeService(options)
            self.assertEqual(caught.exception.code, 2)
        self.assertEqual(len(self.errors.getvalue().splitlines()), 2)

    def test_wrong_identity(self) -> None:
        """An identity of the other role is one line; so is a key that others can read."""
        for tap, role, name, config in TAPS:
            other = Role.DMZ if role is Role.INTERNAL else Role.INTERNAL
            said = self.refused(tap, config() + self.authority.identity(name, other))
            self.assertEqual(len(said), 1)
            self.assertIn("--role", said[0])
            text = config() + self.authority.identity(name, role)
            (self.authority.folder / f"{name}.key").chmod(0o640)
            said = self.refused(tap, text)
            self.assertEqual(len(said), 1)
            self.assertIn("chmod 600", said[0])

    def test_log_that_cannot_be_opened(self) -> None:
        """A log file that cannot be opened is one line that names it."""
        config = dmz_config('[log]\nfile = "no/such/folder/x.log"')
        said = self.refused(dmz_tap, config + self.authority.identity("dmz", Role.DMZ))
        self.assertEqual(len(said), 1)
        self.assertIn("log.file", said[0])
        self.assertIn("x.log", said[0])


class Keeper:
    """Stands for the keeper of the identity."""

    def __init__(self) -> None:
        self.reloads = 0

    def reload(self) -> None:
        self.reloads += 1


class Observer:
    """Stands for the log."""

    def __init__(self) -> None:
        self.reopened = 0

    def __call__(self, event: object) -> None:
        """Take an event."""

    def reopen(self) -> None:
        self.reopened += 1


class Threads:
    """A reactor that keeps what it is given from signal handlers."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def callFromThread(self, call: Callable[[], object]) -> None:
        self.calls.append(call)

    def callLater(self, delay: float, call: Callable[..., object], *args: object) -> None:
        """Readiness is told later, which is not what is looked at here."""


class ProgramTests(SynchronousTestCase):
    """The whole program as a service."""

    def setUp(self) -> None:
        self.handlers: dict[int, Any] = {}
        self.limits: list[tuple[int, int]] = []
        self.patch(signal, "signal", self.handlers.__setitem__)
        self.patch(resource, "getrlimit", lambda _: (1024, 4096))
        self.patch(resource, "setrlimit", lambda _, limits: self.limits.append(limits))
        self.keeper: Any = Keeper()
        self.observer: Any = Observer()
        self.reactor = Threads()

    def test_signals(self) -> None:
        """SIGHUP reloads the identity and SIGUSR1 reopens the log, both in the reactor's turn."""
        program = Program(self.reactor, self.keeper.reload, self.observer)
        program.startService()
        self.handlers[signal.SIGHUP](signal.SIGHUP, None)
        self.handlers[signal.SIGUSR1](signal.SIGUSR1, None)
        self.assertEqual((self.keeper.reloads, self.observer.reopened), (0, 0))
        for call in self.reactor.calls:
            call()
        self.assertEqual((self.keeper.reloads, self.observer.reopened), (1, 1))

    def test_log_of_twistd(self) -> None:
        """Where twistd logs in its own way, SIGUSR1 and the log are left to it."""
        program = Program(self.reactor, self.keeper.reload, None)
        application = Parent()
        program.setServiceParent(application)
        program.startService()
        self.assertNotIn(signal.SIGUSR1, self.handlers)
        self.assertIsNone(application.getComponent(ILogObserver))

    def test_our_log(self) -> None:
        """The application gets our log, which twistd then uses instead of its own."""
        application = Parent()
        Program(self.reactor, self.keeper.reload, self.observer).setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), self.observer)

    def test_descriptors(self) -> None:
        """The soft limit of descriptors is raised to the hard one (Requirement 84)."""
        Program(self.reactor, self.keeper.reload, self.observer).startService()
        self.assertEqual(self.limits, [(4096, 4096)])

    def test_too_few_descriptors(self) -> None:
        """Where the limit is too low for the sessions that are allowed, a warning says so."""
        for wanted, warned in ((1536, False), (1537, True)):
            with logged() as events:
                made = Program(self.reactor, self.keeper.reload, self.observer, max_sessions=wanted)
                made.startService()
            (line,) = lines(events, "descriptors: 4096, enough for about 1536 sessions")
            self.assertEqual("of the 1537 that are allowed: raise the limit" in line, warned)


class Parent(Componentized, MultiService):
    """An application, as twistd has one."""

    def __init__(self) -> None:
        Componentized.__init__(self)
        MultiService.__init__(self)


class TwistdTests(TestCase):
    """The real thing."""

    def setUp(self) -> None:
        self.authority = Authority(self)

    def node(self, log: str = "", *options: str) -> Node:
        """A DMZ node that is started."""
        config = dmz_config(log)
        node = Node(self, self.authority, Role.DMZ, "dmz", config, options=options)
        node.start()
        return node

    async def holds(self, file: Path, text: str) -> str:
        """Wait until *file* holds *text*; return all that it holds."""
        await until(lambda: text in read(file), f"{text!r} in {file}")
        return read(file)

    async def test_no_configuration(self) -> None:
        """Without --config twistd ends with an error and says what is needed."""
        for command in ("relaygate-dmz", "relaygate-internal"):
            ended = await completed(self, [*TWISTD, command])
            self.assertNotEqual(ended.status, 0)
            self.assertIn("--config FILE is needed", ended.output.decode() + ended.errors)

    async def test_wrong_configuration(self) -> None:
        """A wrong configuration is exit status 2 and nothing but its lines: no traceback."""
        file = new_folder(self) / "dmz.toml"
        file.write_text(dmz_config("[log]\nlevel = 7") + "[identity]\nkey = 1\n")
        ended = await completed(self, [*TWISTD, "relaygate-dmz", "--config", str(file)])
        self.assertEqual(ended.status, 2)
        said = ended.errors.splitlines()
        self.assertGreater(len(said), 2)
        self.assertTrue(all(str(file) in line for line in said), said)
        self.assertEqual(ended.output, b"")

    async def test_port_in_use(self) -> None:
        """An uplink port that is taken is exit status 2 and one line: no traceback."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            config = re.sub(r'(listen = "127.0.0.1:)\d+"', rf'\g<1>{port}"', dmz_config())
            node = Node(self, self.authority, Role.DMZ, "dmz", config)
            node.start()
            self.assertEqual(await node.ended(20), 2)
        self.assertIn(f"uplink.listen: cannot listen on 127.0.0.1:{port}: Address", node.log())
        self.assertNotIn("Traceback", node.log())

    async def test_standard_output(self) -> None:
        """With -n the log is standard output; SIGTERM ends the program as twistd has it."""
        node = self.node()
        await node.logged(r"INFO  \[relaygate\.dmz\S*\] relaygate \S+ DMZ node dmz waits")
        self.assertEqual(await node.stop(), -signal.SIGTERM)

    async def test_logfile_option(self) -> None:
        """The option --logfile of twistd is where our lines go."""
        file = new_folder(self) / "our.log"
        node = self.node("", f"--logfile={file}")
        await self.holds(file, "DMZ node dmz waits")
        await node.stop()
        self.assertNotIn("DMZ node dmz waits", node.log())

    async def test_log_file_and_json(self) -> None:
        """log.file and log.format hold: each line of the file is one JSON object."""
        node = self.node('[log]\nfile = "node.json"\nformat = "json"')
        file = node.config_file.parent / "node.json"
        await self.holds(file, "DMZ node dmz waits")
        await node.stop()
        events = [json.loads(line) for line in file.read_text().splitlines()]
        (event,) = (event for event in events if "waits" in event["message"])
        self.assertEqual(event["node"], "dmz")
        self.assertEqual(event["level"], "info")

    async def test_rotation(self) -> None:
        """After a rename SIGUSR1 opens the log anew, and no line is lost between the two."""
        node = self.node('[log]\nfile = "node.log"')
        file = node.config_file.parent / "node.log"
        await self.holds(file, "DMZ node dmz waits")
        old = file.rename(file.with_suffix(".1"))
        node.kill(signal.SIGUSR1)
        await until(file.exists, "the new file")
        before = old.read_text()
        self.authority.identity("dmz", Role.DMZ)
        node.kill(signal.SIGHUP)
        await self.holds(file, "identity changed")
        self.assertEqual(old.read_text(), before)
        await node.stop()

    async def test_hangup(self) -> None:
        """SIGHUP takes a renewed certificate up; a wrong one leaves the old, and the node lives."""
        node = self.node()
        await node.logged("DMZ node dmz waits")
        self.authority.identity("dmz", Role.DMZ)
        node.kill(signal.SIGHUP)
        found = await node.logged("identity changed: name=dmz not_after=")
        stranger = pki.make_ca("stranger", datetime.now(UTC))
        made = pki.issue(stranger, "dmz", Role.DMZ, datetime.now(UTC))
        (self.authority.folder / "dmz.pem").write_bytes(made.certificate_pem)
        node.kill(signal.SIGHUP)
        await node.logged("identity not changed: name=dmz", after=found.end())
        self.assertEqual(await node.stop(), -signal.SIGTERM)
