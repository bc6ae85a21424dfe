"""Telling systemd how the program does (sd_notify(3)): ready, reloading, stopping, alive.

systemd names a datagram socket in ``NOTIFY_SOCKET`` and takes ``KEY=value`` lines there.  It is
five lines of protocol, so there is no library for it.  Without the variable nothing is sent, and
nothing that goes wrong here stops the program.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.task import LoopingCall

_MICROSECONDS = 1_000_000


class Notifier:
    """Speaks to the service manager that *environ* names, if it names one.

    *pid* is this process's: ``WATCHDOG_PID`` says whom the watchdog is meant for.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watch_s = _watchdog_s(environ, pid) if self._address else 0.0
        self._alive: LoopingCall | None = None

    def ready(self, reactor: Any) -> None:
        """The start, or a reload, is done; from the first time on also tell that we live.

        A program whose reactor is stuck sends nothing and is started anew.
        """
        self._send("READY=1")
        if self._watch_s and self._alive is None:
            self._alive = LoopingCall(self._send, "WATCHDOG=1")
            self._alive.clock = reactor
            # Half of the time, as sd_watchdog_enabled(3) advises.
            self._alive.start(self._watch_s / 2)

    def reloading(self, monotonic_s: float) -> None:
        """A reload begins; *monotonic_s* is the clock of CLOCK_MONOTONIC."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(monotonic_s * _MICROSECONDS)}")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1")
        if self._alive is not None and self._alive.running:
            self._alive.stop()

    def _send(self, words: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        # "@" stands for the null byte that begins the name of an abstract socket.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)
                line.sendto(words.encode(), address)
        except OSError:
            pass  # whoever does not listen is not told


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float:
    """How often systemd wants to hear from process *pid*, in seconds; 0.0 for never."""
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isdecimal() and len(text) < 20):
        return 0.0
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0.0
    return int(text) / _MICROSECONDS
