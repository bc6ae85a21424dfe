"""Run the benchmark: ``python -m bench --help``."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench import report
from bench.ftppeers import FTP_PEERS
from bench.install import install
from bench.loads import Figures, Load
from bench.machine import Others, machine
from bench.measures import FULL, MEASURES, QUICK, Times, applies
from bench.outward import OUTWARD
from bench.peers import PEERS, Peer
from bench.processes import BenchError, file_limit, most_idle, raise_file_limit
from bench.proxies import PROXIES
from bench.results import Results
from bench.tunnels import TUNNELS
from bench.webpeers import WEB_PEERS

_GROUPS: Final = (PEERS, PROXIES, TUNNELS, OUTWARD, FTP_PEERS, WEB_PEERS)
ALL: Final = {peer.name: peer for group in _GROUPS for peer in group}
_QUICK_PEERS: Final = ("direct", "relaygate", "haproxy")
# Both ends of 10,000 sessions, and what is beside them.
_FILES: Final = 65_536
_REPEAT: Final = 3


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look: few peers, short, twice")
    parser.add_argument("--only", metavar="PEERS", help=f"of {','.join(ALL)}")
    parser.add_argument("--measures", metavar="NAMES", help=f"of {','.join(MEASURES)}")
    parser.add_argument("--repeat", type=int, metavar="N", help=f"rounds ({_REPEAT}; quick: 2)")
    parser.add_argument("--no-install", action="store_true", help="with what is here already")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), metavar="FOLDER")
    return parser.parse_args()


def _chosen(text: str | None, known: dict[str, object], default: tuple[str, ...]) -> list[str]:
    names = text.split(",") if text else list(default)
    for name in names:
        if name not in known:
            sys.exit(f"bench: {name!r} is none of {', '.join(known)}")
    return names


def main() -> None:
    """Measure all peers in turn, some rounds of it, and write the report."""
    options = _arguments()
    # Whoever ends this ends what it has started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended"))
    peers = _chosen(options.only, dict(ALL), _QUICK_PEERS if options.quick else tuple(ALL))
    measures = _chosen(options.measures, dict(MEASURES), tuple(MEASURES))
    repeat = options.repeat or (2 if options.quick else _REPEAT)
    if not options.no_install:
        install(peers)
    raise_file_limit(_FILES)
    limit = file_limit()
    times = QUICK if options.quick else FULL
    times = replace(times, idle=tuple(min(count, most_idle(limit)) for count in times.idle))
    results = Results(machine(limit), [ALL[name] for name in peers], times.idle[-1])
    began, others = time.monotonic(), Others()
    with tempfile.TemporaryDirectory(prefix="relaygate-bench-") as name:
        folder = Path(name)
        try:
            load = Load(folder / "load")
        except BenchError as error:
            sys.exit(f"bench: {error}")
        try:
            _rounds(load, folder, results, measures, times, repeat)
        finally:
            load.stop()
    results.seconds = time.monotonic() - began
    results.machine["busy for others"] = f"{others.share():.0%} of all cores meanwhile"
    for path in report.write(results, options.out, "quick" if options.quick else "results"):
        print(f"written: {path}")


def _rounds(
    load: Load, folder: Path, results: Results, measures: list[str], times: Times, repeat: int
) -> None:
    # A B C A B C: what the machine does meanwhile meets all alike.
    for number in range(1, repeat + 1):
        for peer in results.peers:
            if peer.name in results.missing:
                continue
            began = time.monotonic()
            # Held sessions cost the most time and vary the least: one round has them.
            names = [
                name
                for name in measures
                if applies(name, peer.kind) and (name != "idle" or number == 1)
            ]
            if not names:
                continue
            figures, failures = _measure(load, folder / f"{peer.name}-{number}", peer, names, times)
            results.add(peer, figures)
            for failure in failures:
                results.failed(peer, failure)
            seconds = time.monotonic() - began
            line = "; ".join([report.one_line(figures), *failures])
            print(f"round {number}  {peer.name:16} {seconds:4.0f} s  {line}", flush=True)


def _measure(
    load: Load, folder: Path, peer: Peer, names: list[str], times: Times
) -> tuple[Figures, list[str]]:
    """The figures of one round of *peer*, and what failed, each with its measure's name."""
    figures: Figures = {}
    failures: list[str] = []
    try:
        running = peer.up(folder, load.backend(peer.kind))
    except BenchError as error:
        return figures, [f"start: {error}"]
    try:
        time.sleep(peer.settle_s)
        for name in names:
            try:
                figures |= MEASURES[name](load, running, times)
            except BenchError as error:
                failures.append(f"{name}: {error}")
    finally:
        running.group.stop()
    return figures, failures


if __name__ == "__main__":
    main()
