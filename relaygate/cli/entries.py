"""``relaygate doctor`` and the entries: whether programs inside get out through the DMZ."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from relaygate.addresses import HostPort
from relaygate.cli.findings import Blocked, Finding, connect, read_some
from relaygate.config.forward import ForwardConfig, UserConfig
from relaygate.identity import IdentityError, file_label, read_secret
from relaygate.protocols.socks import Command, Method, Reply

__all__ = ["entry_findings"]

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what it listens on, not we
# The DMZ node has as long to reach the partner.
_REACH_LIMIT_S = 12.0
_GREETING = re.compile(rb"(220|120)[ -]")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
# Of an entry for many partners so many are tried, each of which may take the limit above.
_MOST_TRIED = 10

_Wish = tuple[HostPort, UserConfig | None]


class _Refused(Exception):
    """The entry says no; the message says how."""


def entry_findings(forward: ForwardConfig) -> Iterator[Finding]:
    """The entry itself, and whether the DMZ node reaches where it leads."""
    what = f"forward {forward.name}"
    try:
        if forward.target is not None:
            _try_fixed(forward, forward.target)
            yield Finding("entry", what, "ok", f"{forward.target} is reached from the DMZ")
            return
        wishes = list(dict.fromkeys(_wishes(forward)))
        if not wishes:
            with _entry(forward):
                seen = f"it listens on {forward.listen}; its destinations are patterns: none tried"
            yield Finding("entry", what, "ok", seen)
    except Blocked as block:
        yield Finding("entry", what, "bad", block.seen, block.cure)
        return
    for destination, user in wishes[:_MOST_TRIED]:
        shown = f"{destination} as {user.name}" if user else str(destination)
        try:
            _try_open(forward, destination, user)
        except Blocked as block:
            yield Finding("entry", what, "bad", block.seen, block.cure)
        else:
            yield Finding("entry", what, "ok", f"{shown} is reached from the DMZ")
    if left := len(wishes[_MOST_TRIED:]):
        yield Finding("entry", what, "skipped", f"{left} more destinations were not tried")


@contextmanager
def _entry(forward: ForwardConfig) -> Iterator[socket.socket]:
    listen = forward.listen
    entry = HostPort(_WILDCARDS.get(listen.host, listen.host), listen.port)
    with connect(entry, "the internal node") as connection:
        yield connection


def _try_fixed(forward: ForwardConfig, target: HostPort) -> None:
    """Raises :class:`Blocked` if *target* is not reached."""
    with _entry(forward) as connection:
        try:
            said = read_some(connection, _REACH_LIMIT_S)
        except TimeoutError:
            # A server that waits for its client to speak first keeps the connection.
            return
        except OSError as error:
            raise _closed(target, error.strerror or str(error)) from None
    if not said:
        raise _closed(target, "closed")
    if forward.protocol == "ftp" and not _GREETING.match(said):
        raise _closed(target, repr(said[:60].decode("ascii", "backslashreplace")))


def _wishes(forward: ForwardConfig) -> Iterator[_Wish]:
    """What programs may ask of an entry, as far as single hosts are named, and who may."""
    for user in forward.users or (None,):
        own = None if user is None else user.destinations
        for rule in forward.destinations if own is None else own:
            if rule.single is not None:
                yield rule.single, user


def _try_open(forward: ForwardConfig, destination: HostPort, user: UserConfig | None) -> None:
    """Raises :class:`Blocked` if *destination* is not reached, as *user* if there is one."""
    try:
        name, password = (b"", b"") if user is None else _credentials(user)
    except IdentityError as error:
        raise Blocked(str(error), "run doctor as a user who may read it") from None
    ask = _ask_socks if forward.protocol == "socks5" else _ask_proxy
    with _entry(forward) as connection:
        try:
            ask(connection, destination, name, password)
        except TimeoutError:
            raise _closed(destination, f"no answer in {_REACH_LIMIT_S:g} s") from None
        except (OSError, _Refused) as error:
            raise _closed(destination, str(error)) from None


def _credentials(user: UserConfig) -> tuple[bytes, bytes]:
    """Raises :class:`IdentityError`."""
    password = read_secret(file_label("password", user.password_file), user.password_file)
    return user.name.encode(), password.rstrip(b"\r\n")


def _ask_socks(connection: socket.socket, wanted: HostPort, name: bytes, password: bytes) -> None:
    """Ask as a program does (RFC 1928, RFC 1929).  Raises :class:`_Refused` and OSError."""
    method = Method.PASSWORD if name else Method.NONE
    connection.sendall(bytes((5, 1, method)))
    if _read(connection, 2)[1] != method:
        raise _Refused("it wants another proof of who asks")
    if name:
        connection.sendall(bytes((1, len(name))) + name + bytes((len(password),)) + password)
        if _read(connection, 2)[1]:
            raise _Refused("it does not take the user's password")
    literal, host = wanted.literal, wanted.host.encode()
    if literal is None:
        place = bytes((3, len(host))) + host
    else:
        place = bytes((1 if literal.version == 4 else 4,)) + literal.packed
    connection.sendall(bytes((5, Command.CONNECT, 0)) + place + wanted.port.to_bytes(2))
    reply = _read(connection, 2)[1]
    if reply != Reply.GRANTED:
        raise _Refused(f"SOCKS reply {reply}, {Reply(reply).name.lower().replace('_', ' ')}")


def _ask_proxy(connection: socket.socket, wanted: HostPort, name: bytes, password: bytes) -> None:
    """Ask as a program does (RFC 9110, section 9.3.6).  Raises :class:`_Refused` and OSError."""
    proof = base64.b64encode(name + b":" + password).decode()
    proves = f"Proxy-Authorization: Basic {proof}\r\n" if name else ""
    connection.sendall(f"CONNECT {wanted} HTTP/1.1\r\nHost: {wanted}\r\n{proves}\r\n".encode())
    said = read_some(connection, _REACH_LIMIT_S)
    head = _STATUS.match(said)
    if head is None or head[1] != b"200":
        line = said.partition(b"\r\n")[0] if head is None else head[1] + b" " + said[head.end() :]
        raise _Refused(line[:120].decode("ascii", "backslashreplace").strip() or "closed")


def _read(connection: socket.socket, count: int) -> bytes:
    said = b""
    while len(said) < count:
        piece = read_some(connection, _REACH_LIMIT_S)
        if not piece:
            raise _Refused("closed")
        said += piece
    return said


def _closed(destination: HostPort, how: str) -> Blocked:
    return Blocked(
        f"{destination} cannot be reached through it ({how})",
        f'policy.connect of the DMZ\'s dmz.toml must permit "{destination}", the DMZ must reach '
        "it, and the entry's allow must have this machine; the node's log says which",
    )
