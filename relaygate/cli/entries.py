"""``relaygate doctor`` and the entries: whether programs inside get out through the DMZ."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relaygate.addresses import HostPort
from relaygate.cli.findings import Blocked, Finding, connect, read_some
from relaygate.config.forward import ForwardConfig

__all__ = ["entry_findings"]

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what it listens on, not we
# The DMZ node has as long to reach the partner.
_REACH_LIMIT_S = 12.0
_GREETING = re.compile(rb"(220|120)[ -]")


def entry_findings(forward: ForwardConfig) -> Iterator[Finding]:
    """The entry itself and, for a fixed one, its target as the DMZ node reaches it."""
    what = f"forward {forward.name}"
    listen = forward.listen
    entry = HostPort(_WILDCARDS.get(listen.host, listen.host), listen.port)
    try:
        with connect(entry, "the internal node") as connection:
            if forward.target is None:
                yield Finding("entry", what, "ok", f"it listens on {listen}")
                return
            try:
                said = read_some(connection, _REACH_LIMIT_S)
            except TimeoutError:
                # A server that waits for its client to speak first keeps the connection.
                yield Finding("entry", what, "ok", f"{forward.target} is reached from the DMZ")
                return
            except OSError as error:
                raise _closed(forward, error.strerror or str(error)) from None
            if not said:
                raise _closed(forward, "closed")
            if forward.protocol == "ftp" and not _GREETING.match(said):
                raise _closed(forward, repr(said[:60].decode("ascii", "backslashreplace")))
            yield Finding("entry", what, "ok", f"{forward.target} is reached from the DMZ")
    except Blocked as block:
        yield Finding("entry", what, "bad", block.seen, block.cure)


def _closed(forward: ForwardConfig, how: str) -> Blocked:
    return Blocked(
        f"{forward.target} cannot be reached through it ({how})",
        f'policy.connect of the DMZ\'s dmz.toml must have "{forward.target}", the DMZ must reach '
        "it, and the entry's allow must have this machine; the node's log says which",
    )
