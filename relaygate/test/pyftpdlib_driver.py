"""
Runs modules of pyftpdlib's own test suite, and writes down how each test ended.

::

    python -m relaygate.test.pyftpdlib_driver SUITE REPORT MODULES NAMESPACE CLIENT BACKEND LISTENER

SUITE is the folder of its source archive, whose ``pyftpdlib`` is used as well. REPORT is the file
for a :class:`~relaygate.test.suites.SuiteRun`, MODULES names with commas between them. The suite
has client and server in one process, and looks into both. So does this: the client's thread stays
where it was started, and the server's threads go to the network namespace with the file NAMESPACE.

CLIENT is the client's own address as "IPv4,IPv6", BACKEND is "IPv4,IPv6,PORT" for the servers to
listen on, and LISTENER the same for where clients are told that the servers are.
"""

from __future__ import annotations

import ftplib
import importlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from relaygate.test.peers import enter
from relaygate.test.suites import PASSED, SuiteRun

_LOOPBACK: Final = "127.0.0.1"
_STOP_LIMIT_S: Final = 10.0


class _Route:
    """Lets servers listen in another place, and clients find them."""

    def __init__(self, namespace: str, backend: str, listener: str) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._there = os.open(namespace, os.O_RDONLY)
        *self._backends, self._backend_port = backend.split(",")
        *self._listeners, self._listener_port = listener.split(",")

    def go(self) -> None:
        """Take this thread to the servers, for good."""
        enter(self._there)

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """Let this thread be with the servers for a moment."""
        enter(self._there)
        try:
            yield
        finally:
            enter(self._home)

    def backend(self, wanted: str) -> tuple[str, int]:
        """Return where a server listens that *wanted* to be at some address of its choice."""
        host = wanted if wanted == "::" else self._backends[":" in wanted]
        return host, int(self._backend_port)

    def listener(self, wanted: str) -> tuple[str, int]:
        """Return where clients find that server; one for both families is tried by IPv4."""
        return self._listeners[":" in wanted and wanted != "::"], int(self._listener_port)


def _lead(suite: Any, route: _Route) -> None:
    """Change where the suite's servers live, and what they say of it."""
    wrapper = suite.FtpdThreadWrapper
    make, run = wrapper.__init__, wrapper.run
    running: list[Any] = []

    def make_there(self: Any, addr: tuple[str, int] | None = None) -> None:
        wanted = addr[0] if addr else _LOOPBACK
        # A test that fails in its clean-up leaves its server behind, on the one port for all.
        for left in running:
            if left.is_alive():
                left._stop_flag = True
                left.join(_STOP_LIMIT_S)
                left.server.close_all()
        running[:] = [self]
        with route.visiting():
            make(self, addr=route.backend(wanted))
        self.host, self.port = route.listener(wanted)

    def run_there(self: Any) -> None:
        route.go()
        run(self)

    wrapper.__init__, wrapper.run = make_there, run_there


class _Report:
    """A plugin of pytest that keeps the outcome of every test, and what its clients dialled."""

    def __init__(self, route: _Route) -> None:
        self.outcomes: dict[str, str] = {}
        self.connections: Counter[str] = Counter()
        self.dialled: set[str] = set()
        self._test = ""
        connect = ftplib.FTP.connect

        def counted(client: Any, host: str = "", port: int = 0, *args: Any, **kwargs: Any) -> str:
            if host == _LOOPBACK:
                # The tests of a server for both families name this address themselves.
                host, _ = route.listener(host)
            welcome = connect(client, host, port, *args, **kwargs)
            self.connections[self._test] += 1
            self.dialled.add("{}:{}".format(*client.sock.getpeername()[:2]))
            return welcome

        ftplib.FTP.connect = counted  # type: ignore[method-assign,assignment]

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out the classes that a module has only imported from another."""
        items[:] = [item for item in items if item.cls.__module__ == item.module.__name__]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Know which test is on."""
        self._test = nodeid

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take the worst of a test's set-up, call and clean-up."""
        if report.skipped:
            self.outcomes[report.nodeid] = "skipped"
        elif report.failed:
            self.outcomes[report.nodeid] = "failed" if report.when == "call" else "broke"
        elif report.when == "call":
            self.outcomes.setdefault(report.nodeid, PASSED)


def main(
    suite: Path,
    report: Path,
    modules: str,
    namespace: str,
    client: str,
    backend: str,
    listener: str,
) -> None:
    """Run *modules* (of the suite's package ``tests``) and write the report."""
    sys.path.insert(0, str(suite))
    # The suite has longer limits and fewer busy loops where it believes itself on a build machine.
    os.environ["CIBUILDWHEEL"] = "1"
    route = _Route(namespace, backend, listener)
    package = importlib.import_module("tests")
    addresses = client.split(",")
    package.HOST = addresses[0]  # type: ignore[attr-defined]
    _lead(package, route)
    functional = importlib.import_module("tests.test_functional")
    functional.TestIPv4Environment.HOST, functional.TestIPv6Environment.HOST = addresses
    kept = _Report(route)
    files = [str(suite / "tests" / f"{module}.py") for module in modules.split(",")]
    # Their settings want plugins that only add colour.
    options = ["--config-file", os.devnull, "--rootdir", str(suite), "-p", "no:cacheprovider"]
    pytest.main([*options, "--tb=short", "-v", *files], plugins=[kept])
    SuiteRun(kept.outcomes, kept.connections, sorted(kept.dialled)).write(report)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
