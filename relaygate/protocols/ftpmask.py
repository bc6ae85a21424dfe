"""
Addresses of the private network in the texts of replies.

Servers like to tell who is connected to whom: in greetings, in STAT, in messages about a transfer.
The two addresses that a backend knows of its own connection, its own and the one it sees as its
client, are replaced; nothing else is looked for, since a version number looks like an address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from relaygate.protocols.ftp import Reply

# Replies that programs read: a name of a file or directory stands in them, byte for byte.
_MACHINE_READ = frozenset({213, 250, 257})


class Mask:
    """
    Replaces addresses in replies.

    :param hidden: the addresses that are not to be seen.
    :param shown: what stands in their place.
    """

    def __init__(self, hidden: Iterable[str] = (), shown: str = "") -> None:
        self._shown = shown.encode()
        forms: set[bytes] = set()
        for host in hidden:
            address = ipaddress.ip_address(host.partition("%")[0])
            text = re.escape(str(address).encode())
            if address.version == 4:
                forms.add(rb"(?<![0-9])(?<![0-9][.])" + text + rb"(?![0-9]|[.][0-9])")
                commas = text.replace(rb"\.", b",")
                forms.add(rb"(?<![0-9])(?<![0-9],)" + commas + rb"(?![0-9])")
            else:
                forms.add(rb"(?<![0-9A-F:])" + text + rb"(?![0-9A-F]|:[0-9A-F])")
        self._pattern = re.compile(b"|".join(sorted(forms)), re.IGNORECASE) if forms else None

    def apply(self, reply: Reply) -> Reply:
        """Return *reply* as it may be seen outside; itself where there is nothing to hide."""
        if self._pattern is None or reply.code in _MACHINE_READ:
            return reply
        if not any(map(self._pattern.search, reply.lines)):
            return reply
        lines = tuple(self._pattern.sub(self._replacement, line) for line in reply.lines)
        return Reply(reply.code, lines)

    def _replacement(self, _match: re.Match[bytes]) -> bytes:
        return self._shown
