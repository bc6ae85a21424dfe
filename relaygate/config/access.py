"""Who may come to a service: its keys for lists of networks, short ones and files of long ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relaygate.config.schema import Key, ListOf, Reader
from relaygate.config.shared import NETWORK, PATH, choice, integer
from relaygate.networks import Network, NetworkSet, Span, span_of, spans_of

__all__ = ["ACCESS_KEYS", "access_fields"]

# 16 bytes for an entry, and a comment behind some of them.
_MAX_FILE = 32 * 1024 * 1024
_MAX_NETWORKS = 500_000
# Nobody reads a thousand mistakes, and the first ones tell what is wrong with a file.
_MAX_MISTAKES = 10

ACCESS_KEYS = (
    Key("max_rate", integer(0, 1_000_000)),
    Key("max_rate_per_address", integer(0, 1_000_000)),
    Key("allow", ListOf(NETWORK, "networks", 4096)),
    Key("allow_file", PATH),
    Key("deny", ListOf(NETWORK, "networks", 4096)),
    Key("deny_file", PATH),
    Key("proxy_protocol", choice("none", "v1", "v2")),
)


def access_fields(
    reader: Reader, label: str, fields: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """
    Return a service's *fields* with each list and its file made one set.

    Mistakes in the files, whose paths count from *folder*, are noted under *label*.
    """
    built = dict(fields)
    for kind in ("allow", "deny"):
        path = built.pop(f"{kind}_file", None)
        networks: list[Network] = list(built.pop(kind, ()))
        spans = list(spans_of(networks))
        if path is not None:
            spans += _networks_in(reader, f"{label}.{kind}_file", folder / path)
        if spans:
            built[kind] = NetworkSet.of_spans(spans)
    return built


def _networks_in(reader: Reader, where: str, path: Path) -> list[Span]:
    """The networks of a file: one a line, with ``#`` before what is none."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE + 1)
    except OSError as error:
        reader.wrong(where, f"expected a readable file, found none ({error.strerror or error})")
        return []
    found: list[Span] = []
    mistakes = 0
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.partition(b"#")[0].strip()
        if not text:
            continue
        try:
            found.append(span_of(text.decode("ascii")))
        except ValueError:
            mistakes += 1
            reader.wrong(where, f"expected a network or an address in line {number} of the file")
            if mistakes == _MAX_MISTAKES:
                break
    if len(data) > _MAX_FILE or len(found) > _MAX_NETWORKS:
        reader.wrong(where, f"expected at most {_MAX_NETWORKS} networks and 32 MiB, found more")
    elif not found and not mistakes:
        # Nobody would be allowed, or nobody denied: neither can be meant.
        reader.wrong(where, "expected at least one network in the file, found none")
    return found
