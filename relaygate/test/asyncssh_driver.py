"""
Runs modules of asyncssh's own test suite, and writes down how each test ended.

::

    python -m relaygate.test.asyncssh_driver SUITE REPORT MODULES [BACKEND:LISTENER...]

SUITE is the folder of its source archive, whose ``asyncssh`` is used as well: tests and tested are
then of one version. REPORT is the file for a :class:`~relaygate.test.suites.SuiteRun`. MODULES are
names with commas between them. With pairs of port numbers on 127.0.0.1, a server of the suite
listens on the first BACKEND that no other has, and its clients are told that it is LISTENER.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import sys
import unittest
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from relaygate.test.suites import PASSED, SuiteRun

_HOST: Final = "127.0.0.1"
_PR_SET_CHILD_SUBREAPER: Final = 36


class _Elsewhere:
    """The one question that the suite asks a listening socket, answered with another port."""

    def __init__(self, port: int) -> None:
        self._port = port

    def getsockname(self) -> tuple[str, int]:
        return _HOST, self._port


def _lead_through(asyncssh: Any, routes: Sequence[tuple[int, int]]) -> None:
    """Let each server listen on the free backend port of a route, and name the listener's port."""
    listen = asyncssh.listen

    async def listen_there(*args: Any, **kwargs: Any) -> Any:
        for backend, listener in routes:
            try:
                acceptor = await listen(*args, **kwargs | {"port": backend})
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                acceptor.sockets = [_Elsewhere(listener)]
                return acceptor
        raise AssertionError(f"the suite has more than {len(routes)} servers at once")

    asyncssh.listen = listen_there


def _end_iteration(asyncssh: Any) -> None:
    """
    Mend a race of asyncssh 2.24.1, with the gateway or without it.

    Reading a stream by ``async for`` gives an empty item at the end, if the end does not come in
    the same moment as the last data; their test of it then fails.
    """
    session = asyncssh.stream.SSHStreamSession
    items = session.aiter

    async def aiter_items(stream: Any, datatype: Any) -> AsyncIterator[Any]:
        async for item in items(stream, datatype):
            if item:
                yield item

    session.aiter = aiter_items


class _Connections:
    """Counts the connections that clients open, by the test that runs meanwhile."""

    def __init__(self, asyncssh: Any) -> None:
        self.test = ""
        self.counts: Counter[str] = Counter()
        self.dialled: set[str] = set()
        connection = asyncssh.connection.SSHConnection
        made = connection.connection_made

        def connection_made(opened: Any, transport: Any) -> None:
            if opened.is_client():
                host, port = transport.get_extra_info("peername")
                self.counts[self.test] += 1
                self.dialled.add(f"{host}:{port}")
            made(opened, transport)

        connection.connection_made = connection_made


class _Result(unittest.TextTestResult):
    """Keeps the outcome of every test; a failure of a class's set-up is one of its own."""

    connections: _Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes: dict[str, str] = {}

    def startTest(self, test: unittest.TestCase) -> None:
        self.connections.test = test.id()
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.connections.test = ""

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        # A subtest that failed has spoken for its test already.
        self.outcomes.setdefault(test.id(), PASSED)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self.outcomes[test.id()] = "failed"

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self.outcomes[test.id()] = "broke"

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.outcomes[test.id()] = "failed"

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.outcomes[test.id()] = f"skipped ({reason})"

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self.outcomes[test.id()] = "failed as expected"

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self.outcomes[test.id()] = "passed unexpectedly"


def main(suite: Path, report: Path, modules: str, *pairs: str) -> None:
    """Run *modules* (of the suite's package ``tests``) and write the report."""
    # The suite's ssh-agent makes itself a daemon. This keeps it among this process's children, so
    # that whoever must end this process finds it.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    sys.path.insert(0, str(suite))
    asyncssh = importlib.import_module("asyncssh")
    connections = _Result.connections = _Connections(asyncssh)
    _end_iteration(asyncssh)
    if pairs:
        routes = [pair.split(":") for pair in pairs]
        _lead_through(asyncssh, [(int(backend), int(listener)) for backend, listener in routes])
    names = [f"tests.{name}" for name in modules.split(",")]
    tests = unittest.defaultTestLoader.loadTestsFromNames(names)
    # Every name goes to standard error as it starts: the last one tells where a run has stopped.
    result = unittest.TextTestRunner(resultclass=_Result, verbosity=2).run(tests)
    assert isinstance(result, _Result)
    run = SuiteRun(result.outcomes, connections.counts, sorted(connections.dialled))
    run.write(report)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
