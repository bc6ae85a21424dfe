"""``[admin]``: how a running internal node is looked at and steered, by socket and by browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaygate.addresses import HostPort
from relaygate.config.schema import Key, Reader, Section, Value
from relaygate.config.shared import LISTENER, PATH, text_of

__all__ = ["ADMIN", "DashboardConfig", "admin_from"]


@dataclass(frozen=True)
class DashboardConfig:
    """
    Where browsers are answered.  Without *token_file* nothing can be changed; *certificate* and
    *key* are there unless *listen* is this machine's own.
    """

    listen: HostPort
    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def _socket(value: object) -> Path:
    # A unix socket's path holds 107 bytes; the node adds its process number for a moment.
    path = text_of(value)
    if not path or "\0" in path or len(path) > 96:
        raise ValueError
    return Path(path)


def _check(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    """Refuse a door that is open to the network, or half closed."""
    if not {"socket", "listen"} & fields.keys():
        reader.wrong(f"{where}.socket", "missing, expected it or listen")
    pair = {"certificate", "key"} & fields.keys()
    if len(pair) == 1:
        reader.wrong(where, "expected certificate and key together")
    listen = fields.get("listen")
    if listen is None:
        for name in ({"token_file"} | pair) & fields.keys():
            reader.wrong(f"{where}.{name}", "only with listen")
        return
    literal = listen.literal
    if literal is not None and literal.is_loopback:
        return
    for name in ("token_file", "certificate", "key"):
        if name not in fields:
            reader.wrong(
                f"{where}.{name}",
                f"missing: {listen} can be reached from elsewhere, which takes TLS and a token",
            )


ADMIN = Section(
    (
        Key("socket", Value("a path of at most 96 characters", _socket)),
        Key("listen", LISTENER),
        Key("token_file", PATH),
        Key("certificate", PATH),
        Key("key", PATH),
    ),
    _check,
)


def admin_from(
    fields: dict[str, Any] | None, folder: Path
) -> tuple[Path | None, DashboardConfig | None]:
    """The socket's path and the dashboard, as far as they are wanted; paths count from *folder*."""
    fields = dict(fields or {})
    socket = fields.pop("socket", None)
    listen = fields.pop("listen", None)
    files = {name: folder / path for name, path in fields.items()}
    return (
        None if socket is None else folder / socket,
        None if listen is None else DashboardConfig(listen, **files),
    )
