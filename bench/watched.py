"""
What one who watches the dashboard costs everybody else: new sessions' set-up with and without.

    python -m bench.watched [--held 2000] [--rate 200] [--seconds 10] [--pairs 6]

Both nodes are started anew, sessions are held open through them, and new ones come evenly at a
rate.  Windows without and with a watcher take turns; a watcher asks for what the page asks for, as
often and in the same pieces (``web/app.js``), over connections that it keeps, and draws nothing.
Medians of the windows are what is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from bench.loads import Load, Measured
from bench.peers import start_relaygate
from bench.processes import HOST, Group, echoes, free_ports, raise_file_limit

# As the page has them: between two pieces of the list, and two other looks, in seconds.
_PIECE_S: Final = 0.05
_OTHERS_S: Final = 5.0
_WARM_S: Final = 1.0
_AT_ONCE: Final = 256
_FILES: Final = 16_384
_START_LIMIT_S: Final = 20.0


class Watcher:
    """One who has the page open, until :meth:`stop`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.events = self.rows = 0
        self.failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(each,))
            for each in (self._follow, self._list, self._look)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Close the page."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _guarded(self, ask: Callable[[HTTPConnection], None]) -> None:
        # A browser is on another machine, and pushes nobody from a core of this one.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        connection = HTTPConnection(HOST, self._port, timeout=_START_LIMIT_S)
        try:
            ask(connection)
        except BaseException as error:  # noqa: BLE001 - it is raised where the watcher is stopped
            self.failures.append(error)
        finally:
            connection.close()

    def _follow(self, connection: HTTPConnection) -> None:
        connection.request("GET", "/api/events")
        answer = connection.getresponse()
        while not self._over.is_set():
            self.events += answer.readline().startswith(b"data: ")

    def _list(self, connection: HTTPConnection) -> None:
        while True:
            after, more, rows = "", True, 0
            while more:
                page = _asked(connection, f"/api/look?command=sessions&after={after}")["result"]
                rows, more = rows + len(page["sessions"]), page["more"]
                after = page["sessions"][-1]["session"] if page["sessions"] else ""
                if self._over.wait(_PIECE_S):
                    return
            self.rows = rows
            if self._over.wait(max(3.0, rows / 200)):
                return

    def _look(self, connection: HTTPConnection) -> None:
        while True:
            _asked(connection, "/api/past")
            _asked(connection, "/api/look?command=bans")
            if self._over.wait(_OTHERS_S):
                return


def _asked(connection: HTTPConnection, path: str) -> Any:
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


def _window(load: Load, group: Group, port: int, options: argparse.Namespace) -> Measured:
    figures = (_AT_ONCE, _WARM_S, options.seconds, options.rate)
    return load.run(group, port, "sessions", *figures)


def _said(kind: str, got: Measured) -> str:
    figures = got.figures
    cpu = ", ".join(f"{name} {seconds:.2f}" for name, seconds in got.cpu_s.items())
    return (
        f"{kind:8} {figures['count'] / figures['seconds']:5.0f} a second, "
        f"p50 {figures['p50_us'] / 1e3:6.2f} ms, p99 {figures['p99_us'] / 1e3:6.2f} ms, "
        f"longest {figures['max_us'] / 1e3:6.1f} ms, failed {figures['failed']:.0f}, CPU s: {cpu}"
    )


def main() -> None:
    """Measure, and say each window and the medians."""
    parser = argparse.ArgumentParser(prog="bench.watched", description=__doc__)
    parser.add_argument("--held", type=int, default=2000, help="sessions held open")
    parser.add_argument("--rate", type=float, default=200, help="new sessions a second")
    parser.add_argument("--seconds", type=float, default=10, help="of a window")
    parser.add_argument("--pairs", type=int, default=6, help="windows of each kind")
    options = parser.parse_args()
    raise_file_limit(_FILES)
    [page] = free_ports(1)
    all_of: dict[str, list[Measured]] = {"alone": [], "watched": []}
    with tempfile.TemporaryDirectory(prefix="relaygate-bench-") as name:
        load, group = Load(Path(name) / "load"), Group(Path(name) / "nodes")
        try:
            admin = f'[admin]\nlisten = "{HOST}:{page}"'
            port = start_relaygate(
                group, load.backend("bytes"), 'protocol = "tcp"', 'channel = "never"', inside=admin
            )
            group.wait(lambda: echoes(port), _START_LIMIT_S, "no byte came through")
            with load.hold(port, options.held) as held:
                _window(load, group, port, options)
                for number in range(2 * options.pairs):
                    # A B B A: whatever drifts meanwhile meets both alike.
                    kind = "watched" if number % 4 in (1, 2) else "alone"
                    watcher = Watcher(page) if kind == "watched" else None
                    got = _window(load, group, port, options)
                    if watcher is not None:
                        watcher.stop()
                    all_of[kind].append(got)
                    seen = f"; {watcher.events} events, {watcher.rows} rows" if watcher else ""
                    print(_said(kind, got) + seen, flush=True)
            print(f"{held.alive} of {held.opened} held sessions still answer")
        finally:
            group.stop()
            load.stop()
    for which in ("p50_us", "p99_us"):
        alone, watched = (
            statistics.median(each.figures[which] for each in found) / 1e3
            for found in all_of.values()
        )
        share = f"{watched / alone - 1:+.1%}"
        print(f"{which[:3]}, medians: alone {alone:.2f} ms, watched {watched:.2f} ms, {share}")


if __name__ == "__main__":
    main()
