"""
Kernel pipes, lent to pumps while bytes are in them.

``splice(2)`` moves bytes between a socket and a pipe without showing them to user space.  A pump
needs a pipe only from the moment that it reads until its sink has taken the bytes, which mostly is
one call; so a few pipes serve thousands of sessions.  Big pipes mean fewer system calls, but an
unprivileged user may hold 16,384 pipe pages in all (``fs.pipe-user-pages-soft``), after which the
kernel makes tiny ones.  So big ones are few, for flows that have shown that they are big.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

SMALL_BYTES = 64 * 1024
BIG_BYTES = 1024 * 1024
# 24 MiB: well below the kernel's 64 MiB for all processes of one user.
MAX_BIG = 24
# Idle small pipes that are kept for the next pump; the others are closed when they come back.
KEEP_SMALL = 64


@dataclass(frozen=True, slots=True)
class Pipe:
    """One pipe: two descriptors, and how many bytes it is worth asking it to hold."""

    reader: int
    writer: int
    capacity: int

    def close(self) -> None:
        """Give both descriptors back to the kernel."""
        os.close(self.reader)
        os.close(self.writer)


class PipeShelf:
    """
    Lends pipes and takes them back.

    A pipe comes back empty, or it does not come back: with bytes in it, it is closed.
    """

    def __init__(self) -> None:
        self._small: list[Pipe] = []
        self._big: list[Pipe] = []
        self._big_made = 0
        self.lent = 0

    def lend(self, *, big: bool) -> Pipe:
        """
        A pipe; a big one if *big* and the budget has one left, else a small one.

        Raises :class:`OSError` when the process has no descriptors left.
        """
        pipe = (self._take_big() if big else None) or (
            self._small.pop() if self._small else _make(SMALL_BYTES)
        )
        self.lent += 1
        return pipe

    def _take_big(self) -> Pipe | None:
        if self._big:
            return self._big.pop()
        if self._big_made >= MAX_BIG:
            return None
        pipe = _make(BIG_BYTES)
        if pipe.capacity < BIG_BYTES:
            # The kernel's budget for this user is spent: it is a small one, and asking again is
            # vain.
            self._big_made = MAX_BIG
            self._small.append(pipe)
            return None
        self._big_made += 1
        return pipe

    def take_back(self, pipe: Pipe, *, empty: bool) -> None:
        """*pipe* is no longer used; *empty* says whether all its bytes were read."""
        self.lent -= 1
        big = pipe.capacity >= BIG_BYTES
        if empty and big:
            self._big.append(pipe)
        elif empty and len(self._small) < KEEP_SMALL:
            self._small.append(pipe)
        else:
            pipe.close()
            self._big_made -= big

    def close(self) -> None:
        """Close the pipes that are on the shelf."""
        while self._small:
            self._small.pop().close()
        while self._big:
            self._big.pop().close()
            self._big_made -= 1


def _make(capacity: int) -> Pipe:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        got = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, capacity)
    except OSError:
        got = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    return Pipe(reader, writer, got)
