"""One file through the gateway: made, moved, and compared with what it was."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred

from relaygate.demo.gateway import Gateway

_BLOCK: Final = 1 << 20
# Seconds for one transfer: to begin and end at all, and for each MiB of the file.
_LIMIT_S: Final = 30.0
_LIMIT_PER_MIB_S: Final = 2.0


class Mover(Protocol):
    """
    One client of one service; each gives a table row for every size and direction.

    *protocol* and *client* are for people, *service* is the name in the configuration.
    """

    @property
    def protocol(self) -> str:
        """What is spoken, as in "SFTP"."""

    @property
    def client(self) -> str:
        """Who speaks it."""

    @property
    def service(self) -> str:
        """The service that it connects to."""

    async def put(self, source: Path, name: str) -> None:
        """Upload *source* to the server as *name*; may raise anything."""

    async def get(self, name: str, target: Path) -> None:
        """Download *name* from the server as *target*; may raise anything."""


@dataclass(frozen=True)
class Row:
    """
    What became of one file; *size* in bytes, *seconds* from the client's start to its end.

    *node* and *session* are the DMZ node's words; "-" and 0 stand for what there was not.
    *trouble* says what went wrong, and is empty if nothing did.
    """

    protocol: str
    client: str
    direction: str
    size: int
    seconds: float = 0.0
    node: str = "-"
    session: str = "-"
    equal: bool = False
    trouble: str = ""

    @property
    def good(self) -> bool:
        """Whether the file got through whole."""
        return self.equal and not self.trouble


async def transfer(reactor: Any, gateway: Gateway, mover: Mover, size: int, *, up: bool) -> Row:
    """Move a new file of *size* random bytes by *mover*, *up* to the server or down from it."""
    direction = "upload" if up else "download"
    name = f"{mover.service}-{direction}-{size}.bin"
    here, there = gateway.clients_folder / name, gateway.files_folder / name
    source, target = (here, there) if up else (there, here)
    target.unlink(missing_ok=True)
    write_random(source, size)

    row = Row(mover.protocol, mover.client, direction, size)
    mark = gateway.mark()
    began = time.monotonic()
    try:
        moving = Deferred.fromCoroutine(mover.put(source, name) if up else mover.get(name, target))
        limit_s = _LIMIT_S + _LIMIT_PER_MIB_S * size / _BLOCK
        await moving.addTimeout(limit_s, reactor)
        row = replace(row, seconds=time.monotonic() - began)
        session = await gateway.session_after(mark, mover.service)
        equal = target.exists() and sha256(target) == sha256(source)
    except CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever broke, the row says it; others may go on
        return replace(row, trouble=f"{type(error).__name__}: {error}")
    finally:
        for path in (source, target):
            path.unlink(missing_ok=True)
    trouble = "" if equal else "what arrived is not what was sent"
    return replace(row, node=session.node, session=session.id, equal=equal, trouble=trouble)


def plan(movers: Sequence[Mover], sizes: Sequence[int]) -> Iterator[tuple[Mover, int, bool]]:
    """Every row to make: mover, size in bytes, and whether it is an upload."""
    for mover in movers:
        for size in sizes:
            for up in (True, False):
                yield mover, size, up


def write_random(path: Path, size: int) -> None:
    """Write *size* random bytes."""
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(os.urandom(min(_BLOCK, size - start)))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
