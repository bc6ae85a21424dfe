"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import resource
import ssl
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from OpenSSL import SSL

from bench.nodepython import node_version


def machine(file_limit: int) -> dict[str, str]:
    """The machine and the software that all peers share, by name; *file_limit* as in force."""
    memory_kb = int(_line("/proc/meminfo", "MemTotal").split()[0])
    openssl = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _line("/proc/cpuinfo", "model name"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_kb / 1024 / 1024:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()} ({ssl.OPENSSL_VERSION})",
        "python of the nodes": node_version(),
        "twisted": version("twisted"),
        "pyopenssl": f"{version('pyOpenSSL')} ({openssl})",
        "descriptors": str(file_limit),
        "load before": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


class Others:
    """How much of the machine others have used since this was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = _busy_s() - _mine_s()

    def share(self) -> float:
        """The share of all cores that was busy for others than this run's processes."""
        # A process of ours that still runs is not counted as ours yet.
        theirs = _busy_s() - _mine_s() - self._before
        return max(0.0, theirs / (time.monotonic() - self._began) / (os.cpu_count() or 1))


def _busy_s() -> float:
    """CPU seconds in which the machine did something, or was not given to it (proc(5))."""
    user, nice, system, _idle, _wait, *interrupts_and_stolen = _cpu_ticks()
    return sum((user, nice, system, *interrupts_and_stolen[:3])) / os.sysconf("SC_CLK_TCK")


def _cpu_ticks() -> list[int]:
    return [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]


def _mine_s() -> float:
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _line(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0 unknown"
