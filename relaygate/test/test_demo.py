"""The demo as its users run it: a program, with real clients, that leaves nothing behind."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from twisted.conch.ssh.filetransfer import FXF_CREAT, FXF_WRITE
from twisted.trial.unittest import SynchronousTestCase, TestCase

import relaygate
from relaygate.cli.main import main
from relaygate.demo import openssh, report
from relaygate.demo.__main__ import parse, sizes
from relaygate.demo.gateway import NODES
from relaygate.demo.sftpserver import FolderUser, path_inside
from relaygate.demo.transfers import Row
from relaygate.test.netns import missing, require_program
from relaygate.test.programs import Program, completed, new_folder
from relaygate.test.properties import given, st

_LIMIT_S: Final = 120.0
_OWN_SIZE: Final = Path(__file__).stat().st_size
_MODULE: Final = ("-m", "relaygate.demo")

# Protocol and client of what needs no program of the machine's.
_IN_EVERY_RUN: Final = (
    ("FTP", "Python ftplib"),
    ("FTPS explicit", "Python ftplib"),
    ("FTPS implicit", "Python ftplib"),
    ("HTTP", "Python http.client"),
    ("HTTPS", "Python http.client"),
    ("HTTPS passed on", "Python http.client"),
    ("SOCKS 5 (HTTP)", "Python http.client"),
    ("FTP outwards", "Python ftplib"),
)

# A download by HTTPS arrives with one bit changed, and an upload by HTTP does not arrive.
_SPOILT: Final = """
import sys
from relaygate.demo.__main__ import main
from relaygate.demo.webclient import Web

class Spoilt:
    get, put = Web.get, Web.put

async def get(self, name, target):
    await Spoilt.get(self, name, target)
    if self.service == "web-tls":
        whole = target.read_bytes()
        target.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])

async def put(self, source, name):
    if self.service == "web":
        raise OSError("spoilt on purpose")
    await Spoilt.put(self, source, name)

Web.get, Web.put = get, put
sys.exit(main())
"""

# The DMZ node is given a port for its uplinks that somebody has already.
_TAKEN: Final = """
import socket, sys
from relaygate.demo import gateway
from relaygate.demo.__main__ import main

taken = socket.create_server(("127.0.0.1", 0))
free = gateway.free_ports
gateway.free_ports = lambda count: [taken.getsockname()[1], *free(count - 1)]
sys.exit(main())
"""


class DemoTests(TestCase):
    """``python -m relaygate.demo``."""

    timeout = 300

    def setUp(self) -> None:
        # All that a run leaves is below this folder, and every child has it in its arguments.
        folder = tempfile.TemporaryDirectory(prefix="demo-test-")
        self.addCleanup(folder.cleanup)
        self.temporary = Path(folder.name)

    def argv(self, *arguments: str, path: str | None = None) -> list[str]:
        """The command, with a temporary folder of the test's own, and *path* as its PATH."""
        settings = [f"TMPDIR={self.temporary}"]
        if path is not None:
            settings.append(f"PATH={path}")
        return [require_program("env"), *settings, sys.executable, *arguments]

    async def run_demo(self, *arguments: str, path: str | None = None) -> tuple[int, str]:
        """Run it to its end; its status and all that it printed."""
        done = await completed(self, self.argv(*arguments, path=path), timeout=_LIMIT_S)
        return done.status, done.output.decode() + done.errors

    def assert_nothing_left(self) -> None:
        """No file of the run is there any more, and no process."""
        self.assertEqual(list(self.temporary.iterdir()), [])
        self.assertEqual(self.processes(), [])

    def processes(self) -> list[str]:
        """The arguments of the processes that belong to the run."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments = file.read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"{self.temporary}/".encode() in arguments:
                found.append(arguments.replace(b"\0", b" ").decode())
        return found

    def assert_all_equal(
        self, text: str, labels: Iterable[tuple[str, str]], sizes: Iterable[str]
    ) -> None:
        """
        The table has two good rows for each of *labels*, a protocol and a client, and each size.

        Both nodes stand in it.
        """
        expected = [(label, size) for label in labels for size in sizes]
        rows = re.findall(r"^(\S.*?)  +\S.*?(node-[ab])  equal$", text, re.MULTILINE)
        self.assertEqual(len(rows), len(expected) * 2, text)
        self.assertEqual({node for _, node in rows}, set(NODES), text)
        for label, size in expected:
            for direction in ("upload", "download"):
                words = " +".join(re.escape(word) for word in label)
                row = rf"^{words} +{direction} +{size}  .*  node-[ab]  equal$"
                self.assertRegex(text, re.compile(row, re.MULTILINE))
        self.assertNotIn("FAILED", text)

    async def test_openssh(self) -> None:
        """With OpenSSH's clients every file gets through whole, also an empty one."""
        for program in ("ssh", "sftp", "scp"):
            require_program(program)
        status, text = await self.run_demo(*_MODULE, "--client", "openssh", "--sizes", "0,70K")
        self.assertEqual(status, 0, text)
        labels = [("SFTP", "OpenSSH sftp"), *_IN_EVERY_RUN]
        if openssh.scp_speaks_sftp():
            labels.append(("SCP", "OpenSSH scp"))
        self.assert_all_equal(text, labels, ("0 B", "70.0 KiB"))
        self.assert_nothing_left()

    async def test_without_openssh(self) -> None:
        """On a machine without OpenSSH the demo's own client moves the files."""
        status, text = await self.run_demo(
            *_MODULE, "--sizes", "0,1500K", path=str(new_folder(self))
        )
        self.assertEqual(status, 0, text)
        labels = [("SFTP", "own (Conch)"), *_IN_EVERY_RUN]
        self.assert_all_equal(text, labels, ("0 B", "1.5 MiB"))
        self.assert_nothing_left()

    async def test_spoilt_files(self) -> None:
        """A file that arrives altered, or not at all, ends it with status 1 and the nodes' logs."""
        status, text = await self.run_demo("-c", _SPOILT, "--client", "own", "--sizes", "3K")
        self.assertEqual(status, 1, text)
        self.assertRegex(text, r"(?m)^HTTPS passed on .* download .* NOT EQUAL$")
        self.assertRegex(text, r"(?m)^HTTPS passed on .* upload .* equal$")
        self.assertRegex(text, r"(?m)^HTTP  .* upload .* FAILED$")
        self.assertRegex(text, r"(?m)^HTTP  .* download .* equal$")
        self.assertIn("OSError: spoilt on purpose", text)
        for name in ("dmz", *NODES):
            self.assertRegex(text, rf"the end of \S+/{name}\.log:\n(2.*\n)*2.* session \w+ end: ")
        self.assertTrue(text.rstrip().endswith("2 of 18 files did not get through whole"), text)
        self.assertNotIn("Every file arrived", text)
        self.assert_nothing_left()

    async def test_node_that_cannot_start(self) -> None:
        """A node that does not come up ends it with status 1 and with what the node said."""
        status, text = await self.run_demo("-c", _TAKEN, "--client", "own", "--sizes", "1")
        self.assertEqual(status, 1, text)
        self.assertRegex(text, r"FAILED: dmz has ended with status \d+\n*$")
        self.assertRegex(text, r"(?s)the end of \S+/dmz\.log:.*Address already in use")
        self.assert_nothing_left()

    async def test_keep_for_a_try_by_hand(self) -> None:
        """With ``--keep`` the printed command works, until Ctrl-C ends it all with status 0."""
        sftp = require_program("sftp")
        arguments = ("--keep", "--client", "own", "--sizes", "10")
        demo = Program(self, "demo", self.argv(*_MODULE, *arguments))
        demo.start()
        hint = await demo.logged(r"^  sftp -F (\S+) gateway$", timeout=_LIMIT_S)
        await demo.logged(r"^  tail -f ", timeout=_LIMIT_S)
        batch = new_folder(self) / "batch"
        batch.write_text(f"put {__file__} here.py\nls -l\n")
        by_hand = [sftp, "-b", str(batch), "-F", hint[1], "gateway"]
        done = await completed(self, by_hand, timeout=_LIMIT_S)
        self.assertEqual(done.status, 0, done.errors)
        self.assertRegex(done.output.decode(), rf" {_OWN_SIZE} here\.py")
        logs = (await demo.logged(r"^  tail -f (.*)$", timeout=_LIMIT_S))[1].split()
        self.assert_protected([Path(log) for log in logs])
        implicit = await demo.logged(r"^  (curl .* ftps://\S+/)$", timeout=_LIMIT_S)
        curl, *options = shlex.split(implicit[1])
        listing = await completed(self, [require_program(curl), *options], timeout=_LIMIT_S)
        self.assertRegex(listing.output.decode(), rf" {_OWN_SIZE} .*here\.py")
        self.assertEqual(len(self.processes()), 5, self.processes())
        demo.kill(signal.SIGINT)
        self.assertEqual(await demo.ended(), 0, demo.log())
        self.assert_nothing_left()

    def assert_protected(self, logs: Iterable[Path]) -> None:
        """The nodes saw the files of FTP in clear, and those of both kinds of FTPS under TLS."""
        text = "".join(log.read_text() for log in logs)
        lines = re.findall(r" transfer: service=(\w+) .* verb=(\w+) .* client_tls=(\w+) ", text)
        self.assertEqual(
            Counter(lines),
            {
                (service, verb, tls): 1
                for service, tls in (("ftp", "False"), ("ftp", "True"), ("ftps", "True"))
                for verb in ("STOR", "RETR")
            },
            text,
        )

    async def test_interrupted(self) -> None:
        """Ctrl-C while it starts, or while a file is on its way, cleans up: status 130."""
        for moment in (r"^relaygate's demo", r"dmz      listeners: "):
            demo = Program(self, "demo", self.argv(*_MODULE, "--sizes", "200M"))
            demo.start()
            await demo.logged(moment, timeout=_LIMIT_S)
            demo.kill(signal.SIGINT)
            self.assertEqual(await demo.ended(30), 130, demo.log())
            self.assert_nothing_left()

    async def test_openssh_wanted_but_missing(self) -> None:
        """OpenSSH that was asked for and is not there is a wrong option: status 2."""
        status, text = await self.run_demo(
            *_MODULE, "--client", "openssh", path=str(new_folder(self))
        )
        self.assertEqual(status, 2)
        self.assertIn("no OpenSSH client on this machine", text)


class ReportTests(SynchronousTestCase):
    """What is printed, and what counts as success."""

    def rows(self) -> list[Row]:
        """Two good rows, one for each node."""
        return [Row("SFTP", "c", "upload", 1 << 20, 0.5, node, "id", equal=True) for node in NODES]

    def test_success_needs_every_row(self) -> None:
        """One file that is altered or late spoils the whole."""
        self.assertIsNone(report.verdict(self.rows()))
        altered = Row("SFTP", "c", "upload", 1, 0.1, "node-a", "id", equal=False)
        late = Row("SFTP", "c", "upload", 1, 0.1, "node-a", "id", equal=True, trouble="late")
        for bad in (altered, late):
            self.assertIn("1 of 3 files", str(report.verdict([*self.rows(), bad])))

    def test_success_needs_both_nodes(self) -> None:
        """A node that got no session is a failure of the gateway: nothing was balanced."""
        self.assertEqual(report.verdict(self.rows()[:1]), "no session went to node-b")

    def test_table(self) -> None:
        """The columns stand in line, and a row that failed shows no figures."""
        failed = Row("SCP", "client", "download", 0, 0.7, trouble="no")
        self.assertEqual(
            report.table([self.rows()[0], failed]),
            "protocol  client  direction     size    time       rate  node    sha-256\n"
            "--------  ------  ---------  -------  ------  ---------  ------  -------\n"
            "SFTP      c       upload     1.0 MiB  0.50 s  2.0 MiB/s  node-a  equal\n"
            "SCP       client  download       0 B       -          -  -       FAILED",
        )

    def test_sizes(self) -> None:
        """Sizes are whole numbers with a unit; anything else is said to be none."""
        self.assertEqual(sizes("0, 1,2k,3M,4G"), [0, 1, 2048, 3 << 20, 4 << 30])
        for wrong in ("", "1,", "-1", "1.5M", "M", "1T", "\u0661"):
            self.assertRaises(argparse.ArgumentTypeError, sizes, wrong)

    def test_default_sizes(self) -> None:
        """The default is a list like any other."""
        self.assertEqual(parse(["--client", "own"]).sizes, [64 << 10, 8 << 20])


class ReadmeTests(SynchronousTestCase):
    """What README.md tells people to do works, in its order."""

    def setUp(self) -> None:
        self.root = Path(relaygate.__file__).parents[1]
        if not (self.root / "README.md").exists():
            missing("there is no checkout, and so no README.md")
        self.text = (self.root / "README.md").read_text()

    def test_commands_and_files(self) -> None:
        """What it says to type makes files that pass the check, and so does the quick start."""
        quick = (self.root / "docs" / "quickstart.md").read_text()
        first = quick.partition("## Without systemd")[0].replace("\\\n", "")
        self.assertLess(len(re.findall(r"^    \S", first, re.MULTILINE)), 10, "commands")
        pattern = re.compile(r"^    (?:rg/bin/)?relaygate (init .*)$", re.MULTILINE)
        for text in (self.text, quick):
            folder = Path(self.mktemp()).absolute()
            folder.mkdir()
            self.addCleanup(os.chdir, Path.cwd())
            os.chdir(folder)
            out = io.StringIO()
            commands = pattern.findall(text.replace("\\\n", ""))
            self.assertTrue(commands)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                statuses = [main(command.split()) for command in commands]
                files = [str(file) for file in sorted(folder.glob("site/*/*.toml"))]
                statuses.append(main(["check", *files]))
            self.assertEqual(statuses, [0] * len(statuses), out.getvalue())

    def test_links(self) -> None:
        """Its links lead to files that are there, whatever place in them they name."""
        links = re.findall(r"\]\(([^)#]+)", self.text)
        self.assertIn("docs/configuration.md", links)
        self.assertEqual([link for link in links if not (self.root / link).is_file()], [])


class FolderTests(SynchronousTestCase):
    """The embedded SFTP server gives one folder and nothing beside it."""

    @given(st.lists(st.sampled_from([b"..", b".", b"", b"a", b"\xff", b"..."])))
    def test_no_way_out(self, parts: list[bytes]) -> None:
        """Whatever a path is made of, it leads to somewhere inside."""
        inside = path_inside(b"/".join(parts))
        self.assertFalse(inside.startswith("/"))
        self.assertNotIn("..", inside.split("/"))

    def test_operations(self) -> None:
        """Files and folders are made, listed, renamed and removed below the root."""
        root = Path(self.mktemp()).absolute()
        root.mkdir()
        user = FolderUser(root)
        user.makeDirectory(b"/folder", {})
        file = user.openFile(b"/../folder/a", FXF_WRITE | FXF_CREAT, {"permissions": 0o4600})
        file.writeChunk(3, b"def")
        file.writeChunk(0, b"abc")
        file.close()
        self.assertEqual((root / "folder" / "a").read_bytes(), b"abcdef")
        self.assertEqual((root / "folder" / "a").stat().st_mode & 0o7777, 0o600)
        user.renameFile(b"folder/a", b"folder/b")
        ((name, line, attributes),) = user.openDirectory(b"folder")
        self.assertEqual((name, attributes["size"]), (b"b", 6))
        self.assertTrue(line.endswith(b" 6 b"), line)
        user.setAttrs(b"folder/b", {"size": 2, "atime": 1, "mtime": 2})
        found = user.getAttrs(b"folder/b", True)
        self.assertEqual((found["size"], found["mtime"]), (2, 2))
        user.removeFile(b"folder/b")
        user.removeDirectory(b"folder")
        self.assertEqual(list(root.iterdir()), [])
        self.assertEqual(user.realPath(b"."), b"/")
        self.assertEqual(user.realPath(b".hidden/../.x."), b"/.x.")
        self.assertRaises(NotImplementedError, user.makeLink, b"l", b"/etc/passwd")
