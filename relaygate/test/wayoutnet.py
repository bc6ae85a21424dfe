"""
A way out for end-to-end tests, in the three places of a test's network.

Programs and the internal node are in ``private``, which has no route out; partners' servers are
``outside``.  Their names are known in ``dmz`` alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import TestCase

from relaygate.test.gateway import START_LIMIT_S, Gateway
from relaygate.test.netns import Network
from relaygate.test.nodes import Node
from relaygate.test.peers import eventually

SOCKS_PORT: Final = 1080
PROXY_PORT: Final = 3128
# Networks for documentation count as special: a rule has to name them.
OUTSIDE: Final = "203.0.113.0/24:1-65535"
DOMAIN: Final = "partner.example"
ACTIVE_PORTS: Final = (52_000, 52_999)


def table(name: str, values: Mapping[str, Any]) -> str:
    """Return a table of TOML called *name*, brackets included, and those below it."""
    flat = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = [name, *(f"{key} = {json.dumps(value)}" for key, value in flat.items())]
    text = "\n".join(lines) + "\n"
    for key, value in values.items():
        if isinstance(value, dict):
            text += table(f"[{name.strip('[]')}.{key}]", value)
    return text


def entry(name: str, protocol: str, port: int, **keys: Any) -> str:
    """Return a ``[[forward]]`` at a port of the internal node, for all in private."""
    values = {
        "name": name,
        "protocol": protocol,
        "listen": f"{Network.private_address}:{port}",
        "allow": [f"{Network.private_address}/32"],
    }
    if protocol in ("socks5", "http-connect"):
        values["destinations"] = [OUTSIDE, f"*.{DOMAIN}:1-65535"]
    return table("[[forward]]", values | keys)


def open_entries() -> list[str]:
    """Return an entry for each of SOCKS and HTTP."""
    return [
        entry("socks", "socks5", SOCKS_PORT, bind={"ports": "53000-53999"}),
        entry("proxy", "http-connect", PROXY_PORT),
    ]


class WayOutGateway(Gateway):
    """A gateway with *entries*, and *services* beside them; see :class:`Gateway`."""

    def __init__(
        self,
        case: TestCase,
        entries: Sequence[str],
        *,
        connect: Sequence[str] = (OUTSIDE, f"*.{DOMAIN}:1-65535"),
        services: Sequence[str] = (),
        **more: Any,
    ) -> None:
        policy = f"connect = {json.dumps(list(connect))}\n"
        super().__init__(case, [*entries, *services], policy=policy, **more)
        self._entries = len(entries)
        self._listeners = len(services)
        # ``ip netns exec`` puts these files over those in /etc.
        folder = Path("/etc/netns", self.network.ns_argv("dmz", [])[-1])
        folder.mkdir(parents=True)
        case.addCleanup(shutil.rmtree, folder)
        names = ("ftp", "sftp", "www", "git")
        (folder / "hosts").write_text(
            "127.0.0.1 localhost\n"
            + "".join(f"{Network.outside_address} {name}.{DOMAIN}\n" for name in names)
            + f"{Network.private_address} private.{DOMAIN}\n"
        )

    async def up(self, within_s: float = START_LIMIT_S) -> None:
        """Wait until every node has its uplink, its entries and its listeners."""
        for node in self.internals:
            await node.logged("uplink open: ", timeout=within_s)
            await eventually(partial(self._is_open, node), "the entries", within_s)
        await eventually(self._is_reached, "the listeners", within_s)

    def _is_open(self, node: Node) -> bool:
        return node.log().count("entry open: ") >= self._entries

    def _is_reached(self) -> bool:
        return self.dmz.log().count("listener open: ") >= self._listeners
