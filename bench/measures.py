"""
What is measured of a peer that is up.

Each measure gives figures by name; a figure's unit is the end of its name: ``_gb_s`` (10^9 bytes a
second), ``_s_per_gb`` (CPU seconds), ``_per_s``, ``_us``, ``_bytes``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.loads import Figures, Load, Measured
from bench.peers import Kind, Running
from bench.processes import BenchError

GB: Final = 1e9
AT_ONCE: Final = (1, 8, 32)
# Open at most this many at a time where sessions come at a pace.
_PACED_AT_ONCE: Final = 256


@dataclass(frozen=True)
class Times:
    """
    How long everything is measured, in seconds.

    *idle* says how many sessions are held, *ftp_files* and *ftp_listings* how many are asked for.
    """

    warm_s: float
    run_s: float
    idle: tuple[int, ...]
    ftp_files: int
    ftp_listings: int


QUICK: Final = Times(0.3, 0.8, (0, 1_000), 100, 10)
FULL: Final = Times(0.3, 1.2, (0, 1_000, 10_000), 300, 50)

Measure = Callable[[Load, Running, Times], Figures]


def throughput(load: Load, running: Running, times: Times) -> Figures:
    """1 and 8 streams each way: bytes a second, and CPU seconds that the peer spends on a GB."""
    figures: Figures = {}
    for streams in (1, 8):
        for way in ("up", "down"):
            name = f"streams_{streams}_{way}"
            got = _stream(load, running, way, streams, times)
            moved_gb = got.figures["bytes"] / GB
            figures[f"{name}_gb_s"] = moved_gb / got.figures["seconds"]
            figures[f"{name}_cpu_s_per_gb"] = sum(got.cpu_s.values()) / moved_gb
            figures[f"{name}_load_cpu_s_per_gb"] = got.load_cpu_s / moved_gb
            # In the order in which bytes from outside meet them.
            for process, seconds in zip(("outer", "inner"), got.cpu_s.values(), strict=False):
                figures[f"{name}_cpu_{process}_s_per_gb"] = seconds / moved_gb
            _rest()
    return figures


def sessions(load: Load, running: Running, times: Times) -> Figures:
    """New sessions a second, and how long each takes, as fast as it goes and at half of that."""
    figures: Figures = {}
    for at_once in AT_ONCE:
        _rest()
        got = _sessions(load, running, times, at_once, 0)
        rate = got.figures["count"] / got.figures["seconds"]
        figures[f"sessions_{at_once}_per_s"] = rate
        cpu = sum(got.cpu_s.values()) * 1e6 / max(1, got.figures["count"])
        figures[f"sessions_{at_once}_cpu_us"] = cpu
        figures |= _times_of(got, f"sessions_{at_once}")
    best = max(figures[f"sessions_{at_once}_per_s"] for at_once in AT_ONCE)
    _rest()
    got = _sessions(load, running, times, _PACED_AT_ONCE, best / 2)
    figures["paced_per_s"] = got.figures["count"] / got.figures["seconds"]
    return figures | _times_of(got, "paced")


def exchange(load: Load, running: Running, times: Times) -> Figures:
    """A request of 64 bytes and its answer through an open session."""
    return _times_of(load.run(running.group, running.port, "exchange", 64, *_span(times)), "reply")


def idle(load: Load, running: Running, times: Times) -> Figures:
    """Resident memory with idle sessions held, and what new sessions and a stream then get."""
    figures: Figures = {}
    empty: dict[str, int] = {}
    for wanted in times.idle:
        name = f"idle_{wanted}"
        if not wanted:
            empty = _memory(running)
            figures[f"{name}_rss_bytes"] = sum(empty.values())
            figures |= _with_idle(load, running, times, name)
            continue
        with load.hold(running.port, wanted) as held:
            # Whatever the opening has left for later is done by then.
            time.sleep(0.5)
            now = _memory(running)
            figures[f"{name}_rss_bytes"] = sum(now.values())
            if held.opened and now:
                grown = {process: now[process] - empty.get(process, 0) for process in now}
                figures[f"{name}_session_bytes"] = max(grown.values()) / held.opened
                for process, count in grown.items():
                    figures[f"{name}_session_{process}_bytes"] = count / held.opened
            figures |= _with_idle(load, running, times, name)
        figures[f"{name}_held"] = held.alive
        _rest()
    return figures


def tls(load: Load, running: Running, times: Times) -> Figures:
    """One stream under TLS each way, which the peer ends."""
    figures: Figures = {}
    for way in ("up", "down"):
        _rest()
        got = load.run_tls(running.group, running.port, way, *_span(times))
        moved_gb = got.figures["bytes"] / GB
        figures[f"tls_1_{way}_gb_s"] = moved_gb / got.figures["seconds"]
        figures[f"tls_1_{way}_cpu_s_per_gb"] = sum(got.cpu_s.values()) / moved_gb
    return figures


def ftp(load: Load, running: Running, times: Times) -> Figures:
    """A big file each way, in clear and under TLS; small files; log-in to listing."""
    figures: Figures = {}
    for protection in ("plain", "tls"):
        for way in ("up", "down"):
            _rest()
            name = f"ftp_{protection}_{way}"
            got = load.run_ftp(running.group, running.port, "stream", way, protection, times.run_s)
            moved_gb = got.figures["bytes"] / GB
            figures[f"{name}_gb_s"] = moved_gb / got.figures["seconds"]
            figures[f"{name}_cpu_s_per_gb"] = sum(got.cpu_s.values()) / moved_gb
    for way in ("up", "down"):
        _rest()
        got = load.run_ftp(running.group, running.port, "files", way, times.ftp_files)
        figures[f"ftp_files_{way}_per_s"] = got.figures["count"] / got.figures["seconds"]
        figures[f"ftp_files_{way}_cpu_us"] = sum(got.cpu_s.values()) * 1e6 / got.figures["count"]
    _rest()
    got = load.run_ftp(running.group, running.port, "listings", times.ftp_listings)
    return figures | {f"ftp_listing_{each}": got.figures[each] for each in ("p50_us", "p99_us")}


def http(load: Load, running: Running, times: Times) -> Figures:
    """A big body each way; small requests on connections that are kept, and on fresh ones."""
    return _http(load, running, times, "plain")


def https(load: Load, running: Running, times: Times) -> Figures:
    """The same under TLS, which the peer ends."""
    return _http(load, running, times, "tls")


def _http(load: Load, running: Running, times: Times, protection: str) -> Figures:
    figures: Figures = {}
    for way in ("up", "down"):
        _rest()
        got = load.run_web(running.group, running.port, "stream", way, protection, times.run_s)
        moved_gb = got.figures["bytes"] / GB
        figures[f"http_{protection}_{way}_gb_s"] = moved_gb / got.figures["seconds"]
        figures[f"http_{protection}_{way}_cpu_s_per_gb"] = sum(got.cpu_s.values()) / moved_gb
    for how, at_once in (("kept", 1), ("kept", 16), ("fresh", 8)):
        _rest()
        name = f"http_{protection}_{how}_{at_once}"
        got = load.run_web(
            running.group, running.port, "small", how, protection, at_once, times.run_s
        )
        figures[f"{name}_per_s"] = got.figures["count"] / got.figures["seconds"]
        figures[f"{name}_cpu_us"] = sum(got.cpu_s.values()) * 1e6 / got.figures["count"]
        for each in ("p50_us", "p99_us"):
            figures[f"{name}_{each}"] = got.figures[each]
    return figures


def _with_idle(load: Load, running: Running, times: Times, name: str) -> Figures:
    got = _sessions(load, running, times, 8, 0)
    moved = _stream(load, running, "down", 1, times)
    return {
        f"{name}_sessions_8_per_s": got.figures["count"] / got.figures["seconds"],
        f"{name}_setup_p50_us": got.figures["p50_us"],
        f"{name}_streams_1_gb_s": moved.figures["bytes"] / GB / moved.figures["seconds"],
    }


def _memory(running: Running) -> dict[str, int]:
    return {name: cost.rss for name, cost in running.group.cost().items()}


def _stream(load: Load, running: Running, way: str, streams: int, times: Times) -> Measured:
    got = load.run(running.group, running.port, "stream", way, streams, *_span(times))
    if not got.figures["bytes"]:
        raise BenchError("a stream moved nothing")
    return got


def _sessions(load: Load, running: Running, times: Times, at_once: int, rate: float) -> Measured:
    return load.run(running.group, running.port, "sessions", at_once, *_span(times), rate)


def _times_of(got: Measured, name: str) -> Figures:
    figures = {f"{name}_{each}": got.figures[each] for each in ("p50_us", "p99_us")}
    return figures | {f"{name}_failed": got.figures["failed"]}


def _span(times: Times) -> tuple[float, float]:
    return times.warm_s, times.run_s


def _rest() -> None:
    """Let what is under way come to its end before the next is measured."""
    time.sleep(0.2)


MEASURES: Final[dict[str, Measure]] = {
    "throughput": throughput,
    "sessions": sessions,
    "exchange": exchange,
    "idle": idle,
    "tls": tls,
    "ftp": ftp,
    "http": http,
    "https": https,
}


def applies(name: str, kind: Kind) -> bool:
    """Whether measure *name* is for peers of that *kind*."""
    own: dict[str, Kind] = {"tls": "tls", "ftp": "ftp", "http": "http", "https": "https"}
    return own.get(name, "bytes") == kind
