"""Tests of where log lines go: files that are rotated, and streams that fail."""

from __future__ import annotations

import io
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from relaygate.logs import FileObserver, Format, make_observer, open_log


class BrokenStream(io.StringIO):
    """A stream that can be made to fail."""

    error: Exception | None = None

    def write(self, text: str, /) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


class LossTests(SynchronousTestCase):
    """Logs that cannot be written."""

    def test_counted(self) -> None:
        """Lost events are counted, and the count is logged once, before the next event."""
        stream = BrokenStream()
        observer = make_observer(stream, format="json", level="info")
        log = Logger("relaygate.test", observer=observer)
        stream.error = OSError(28, "No space left\n")
        for _ in range(3):
            log.info("lost")
        log.debug("below the level")
        stream.error = None
        log.info("first")
        log.info("second")
        objects = [json.loads(line) for line in stream.getvalue().splitlines()]
        self.assertEqual([o["message"] for o in objects[1:]], ["first", "second"])
        self.assertEqual((objects[0]["dropped"], objects[0]["level"]), (3, "warn"))
        self.assertEqual(objects[0]["reason"], "[Errno 28] No space left\\x0a")

    def test_closed(self) -> None:
        """A closed stream raises nothing towards those who log."""
        stream = io.StringIO()
        observer = make_observer(stream, format="text", level="info")
        stream.close()
        observer({"log_format": "lost"})

    def test_character_set(self) -> None:
        """A stream that lacks a character gets its escape."""
        octets = io.BytesIO()
        stream = io.TextIOWrapper(octets, "ascii")
        make_observer(stream, format="text", level="info")({"log_format": "Büro 東京"})
        self.assertTrue(octets.getvalue().endswith(rb"B\xfcro \u6771\u4eac" + b"\n"))


class FileTests(SynchronousTestCase):
    """Logs in files and on standard output."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def open(self, path: Path, kind: Format = "text") -> tuple[FileObserver, Logger]:
        observer = open_log(path, format=kind, level="info")
        self.addCleanup(observer.close)
        return observer, Logger("relaygate.test", observer=observer)

    def messages(self, path: Path) -> list[str]:
        return [line.split("] ", 1)[1] for line in path.read_text().splitlines()]

    def mode(self) -> int:
        return stat.S_IMODE(self.path.stat().st_mode)

    def test_mode(self) -> None:
        """A new log has mode 0640 under any umask, and an old one keeps its own."""
        self.addCleanup(os.umask, os.umask(0o077))
        self.open(self.path)
        self.assertEqual(self.mode(), 0o640)
        self.path.chmod(0o600)
        self.open(self.path)
        self.assertEqual(self.mode(), 0o600)

    def test_append(self) -> None:
        """A log goes on where it ended, and lines are in the file at once."""
        self.path.write_text("x] before\n")
        self.open(self.path)[1].info("Büro")
        self.assertEqual(self.messages(self.path), ["before", "Büro"])

    def test_reopen(self) -> None:
        """After a rename the log goes on in the old file until it is reopened, then in a new."""
        observer, log = self.open(self.path)
        log.info("one")
        old = self.path.rename(self.path.with_suffix(".1"))
        log.info("two")
        self.assertFalse(self.path.exists())
        observer.reopen()
        log.info("three")
        self.assertEqual(self.messages(old), ["one", "two"])
        self.assertEqual(self.messages(self.path), ["three"])
        self.assertEqual(self.mode(), 0o640)

    def test_reopen_leaks_nothing(self) -> None:
        """Any number of rotations uses no more descriptors, and children inherit none."""
        observer, _ = self.open(self.path)
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(5):
            observer.reopen()
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)
        ours = [int(n) for n in before if self.is_log(int(n))]
        self.assertEqual([os.get_inheritable(fd) for fd in ours], [False])

    def is_log(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat())
        except OSError:
            return False

    def test_reopen_fails(self) -> None:
        """A rotation that fails says so, and the old file stays in use."""
        folder = Path(self.mktemp())
        folder.mkdir()
        observer, log = self.open(folder / "log")
        moved = folder.rename(folder.with_suffix(".moved"))
        self.assertRaises(FileNotFoundError, observer.reopen)
        log.info("still here")
        self.assertEqual(self.messages(moved / "log"), ["still here"])

    def test_cannot_open(self) -> None:
        """A log that cannot be opened is refused at start."""
        path = self.path / "missing" / "log"
        self.assertRaises(FileNotFoundError, open_log, path, format="text", level="info")

    def test_full_disk(self) -> None:
        """A full disk is no error for those who log, and the loss is told afterwards."""
        link = self.path
        link.symlink_to("/dev/full")
        observer, log = self.open(link)
        log.info("lost")
        link.unlink()
        observer.reopen()
        log.info("kept")
        report, kept = self.messages(self.path)
        self.assertIn("1 events could not be logged: [Errno 28]", report)
        self.assertEqual(kept, "kept")

    def test_torn_line(self) -> None:
        """When a write breaks off within a line, the next line still begins on its own."""
        _, log = self.open(self.path, "json")
        log.info("whole")
        # A file that may not grow beyond a size is written in part and then fails, as a disk is.
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = self.path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
        try:
            log.info("torn")
            log.info("lost")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log.info("after")
        whole, torn, report, after = self.path.read_text().split("\n")[:-1]
        self.assertEqual(json.loads(whole)["message"], "whole")
        self.assertEqual(len(torn), 20)
        self.assertEqual(json.loads(report)["dropped"], 2)
        self.assertEqual(json.loads(after)["message"], "after")

    def test_closed(self) -> None:
        """After it was closed the log touches no descriptor, whoever has its number now."""
        observer, log = self.open(self.path)
        observer.close()
        other = Path(self.mktemp())
        with other.open("w"):
            log.info("lost")
        observer.close()
        self.assertEqual((self.path.read_text(), other.read_text()), ("", ""))

    def test_standard_output(self) -> None:
        """Without a file lines go to the real standard output, whatever sys.stdout has become."""
        program = (
            "import io, sys; from relaygate.logs import open_log; sys.stdout = io.StringIO();"
            "log = open_log(None, format='text', level='info'); log.reopen();"
            "log({'log_format': 'B\\xfcro'})"
        )
        environment = {**os.environ, "LANG": "C", "PYTHONPATH": os.pathsep.join(sys.path)}
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, check=True
        )
        self.assertTrue(ran.stdout.decode().endswith("Z INFO  [-] Büro\n"))
        self.assertEqual(ran.stderr, b"")
