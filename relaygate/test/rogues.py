"""
Nodes in the wrong hands: they hold a good certificate, and say whatever a test likes.

They are sockets of the test's own process in any of the places (:mod:`relaygate.test.peers`), they
block, and they know the protocol's bytes, not our classes that speak it well.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from OpenSSL import SSL
from twisted.protocols import amp
from twisted.trial.unittest import TestCase

from relaygate import commands
from relaygate.commands import ALPN_CHANNEL, ALPN_UPLINK
from relaygate.identity import Identity, Role, load_identity
from relaygate.protocols.preamble import OPEN_BYTES, UplinkKeys
from relaygate.test.nodes import Authority
from relaygate.test.peers import PATIENCE_S, dial, make_socket
from relaygate.test.programs import Where
from relaygate.tls import client_context, server_context, uplink_secrets

_WAIT: Final = struct.pack("ll", int(PATIENCE_S), 0)
_BLOCK: Final = 1 << 16
GREETING: Final[dict[str, Any]] = {
    "major": commands.MAJOR,
    "minor": commands.MINOR,
    "software": "rogue",
}


def identity_of(authority: Authority, name: str, role: Role) -> Identity:
    """The identity whose files *authority* has written for *name*."""
    folder = authority.folder
    files = (folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")
    return load_identity(*files, role=role, now=datetime.now(UTC))


class Wire:
    """A connection that blocks, in clear or under TLS."""

    def __init__(self, skt: socket.socket, tls: SSL.Connection | None = None) -> None:
        self.socket = skt
        self.tls = tls

    @classmethod
    def secure(cls, skt: socket.socket, context: SSL.Context, *, server: bool) -> Wire:
        """Shake hands; raises ``SSL.Error``."""
        # Python's own time limits make a socket one that does not block, which OpenSSL would show.
        skt.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            skt.setsockopt(socket.SOL_SOCKET, option, _WAIT)
        tls = SSL.Connection(context, skt)
        if server:
            tls.set_accept_state()
        else:
            tls.set_connect_state()
        tls.do_handshake()
        return cls(skt, tls)

    def send(self, data: bytes) -> None:
        """Send all; raises ``OSError`` or ``SSL.Error``."""
        if self.tls is None:
            self.socket.sendall(data)
        elif data:
            self.tls.sendall(data)

    def receive(self) -> bytes:
        """Return some bytes, none at the end; raises ``OSError`` or ``SSL.Error``."""
        if self.tls is None:
            return self.socket.recv(_BLOCK)
        try:
            return self.tls.recv(_BLOCK)
        except (SSL.ZeroReturnError, SSL.SysCallError):
            return b""

    def pour(self, data: bytes) -> None:
        """Send all that the other side takes before it has had enough."""
        with contextlib.suppress(OSError, SSL.Error):
            self.send(data)

    def exactly(self, count: int) -> bytes:
        """Return the next *count* bytes; fewer only at the end."""
        data = b""
        while len(data) < count and (piece := self.receive()):
            data += piece
        return data

    def ended(self) -> bool:
        """Read on until the other side has ended it."""
        with contextlib.suppress(OSError, SSL.Error):
            while self.receive():
                pass
        return True

    def close(self) -> None:
        """Close it without a goodbye."""
        self.socket.close()


def ask(command: type[amp.Command], tag: int = 1, **arguments: Any) -> bytes:
    """The bytes that ask *command*; answers carry *tag*."""
    box: amp.AmpBox = command.makeArguments(arguments, None)
    box[amp.COMMAND], box[amp.ASK] = command.commandName, b"%d" % tag
    wire: bytes = box.serialize()
    return wire


class RogueNode:
    """An internal node's certificate *name* in the wrong hands, in the place *where*."""

    def __init__(
        self, case: TestCase, authority: Authority, name: str, where: Where, host: str, port: int
    ) -> None:
        self._case = case
        self._where = where
        self._address = (host, port)
        identity = identity_of(authority, name, Role.INTERNAL)
        self._contexts = {
            protocol: client_context(identity, protocol) for protocol in (ALPN_UPLINK, ALPN_CHANNEL)
        }
        self._serials = itertools.count(1)
        self.keys: UplinkKeys

    def connect(self, protocol: bytes | None) -> Wire:
        """Dial the DMZ node, under TLS for *protocol*, or clear (None)."""
        skt = dial(self._where, *self._address)
        self._case.addCleanup(skt.close)
        if protocol is None:
            return Wire(skt)
        return Wire.secure(skt, self._contexts[protocol], server=False)

    def uplink(self) -> Wire:
        """Bring an uplink, and say hello on it; :attr:`keys` are then those of its channels."""
        wire = self.connect(ALPN_UPLINK)
        assert wire.tls is not None
        self.keys = UplinkKeys(*uplink_secrets(wire.tls))
        wire.send(ask(commands.Hello, **GREETING))
        answer = wire.receive()
        assert b"generation" in answer, answer
        return wire

    def channel(self, *, tls: bool) -> tuple[Wire, bytes]:
        """Open a channel of the latest uplink; returns it and the key of its tags."""
        serial = next(self._serials)
        wire = self.connect(ALPN_CHANNEL if tls else None)
        wire.send(bytes(self.keys.open(serial)))
        return wire, self.keys.channel_key(serial)


class RogueGateway:
    """
    A DMZ node's certificate *name* in the wrong hands, which internal nodes dial.

    It greets each uplink as is right, answers its declarations, and then calls *uplink_work*, with
    the uplink and its keys; for each channel it calls *channel_work*, with the channel and the key
    of its tags. Each runs in a thread of its own, may raise what a connection does, and leaves the
    connection open when it returns.
    """

    def __init__(
        self,
        case: TestCase,
        authority: Authority,
        name: str,
        where: Where,
        host: str,
        port: int,
        *,
        uplink_work: Callable[[Wire], object],
        channel_work: Callable[[Wire, bytes], object],
    ) -> None:
        authority.identity(name, Role.DMZ)
        self._context = server_context(
            identity_of(authority, name, Role.DMZ), [ALPN_UPLINK, ALPN_CHANNEL], lambda _: None
        )
        self._uplink_work = uplink_work
        self._channel_work = channel_work
        self._keys: dict[bytes, UplinkKeys] = {}
        self.wires: list[Wire] = []
        self.faults: list[BaseException] = []
        self._listener = make_socket(where)
        self._listener.settimeout(None)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(1024)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        case.addCleanup(self.close)

    def _accept(self) -> None:
        while True:
            try:
                skt, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=[skt], daemon=True).start()

    def _serve(self, skt: socket.socket) -> None:
        try:
            if skt.recv(1, socket.MSG_PEEK) == b"R":
                self._channel(Wire(skt))
                return
            wire = Wire.secure(skt, self._context, server=True)
            assert wire.tls is not None
            if wire.tls.get_alpn_proto_negotiated() == ALPN_CHANNEL:
                self._channel(wire)
            else:
                self._uplink(wire)
        except (OSError, SSL.Error):
            pass  # the internal node has had enough, which is what the test looks at
        except BaseException as fault:  # noqa: BLE001 - the test tells
            self.faults.append(fault)

    def _channel(self, wire: Wire) -> None:
        self.wires.append(wire)
        opening = wire.exactly(OPEN_BYTES)
        if len(opening) == OPEN_BYTES:
            # docs/protocol.md: magic and version, the uplink's id, the serial, the proof.
            keys = self._keys[opening[5:21]]
            self._channel_work(wire, keys.channel_key(int.from_bytes(opening[21:29])))

    def _uplink(self, wire: Wire) -> None:
        self.wires.append(wire)
        assert wire.tls is not None
        keys = UplinkKeys(*uplink_secrets(wire.tls))
        self._keys[keys.uplink_id] = keys
        self._answer(wire, b"Hello", commands.Hello, {**GREETING, "generation": 1})
        self._answer(wire, b"Declare", commands.Declare, {"refused": []})
        self._uplink_work(wire)

    def _answer(
        self, wire: Wire, name: bytes, command: type[amp.Command], answer: dict[str, Any]
    ) -> None:
        asked = b""
        while name not in asked or not asked.endswith(b"\0\0"):
            piece = wire.receive()
            if not piece:
                raise ConnectionResetError
            asked += piece
        (box,) = [box for box in amp.parseString(asked) if box.get(amp.COMMAND) == name]
        made: amp.AmpBox = command.makeResponse(answer, None)
        made[amp.ANSWER] = box[amp.ASK]
        wire.send(made.serialize())

    def close(self) -> None:
        """Listen no more, and close everything."""
        if self._thread.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join(PATIENCE_S)
        self._listener.close()
        for wire in self.wires:
            with contextlib.suppress(OSError):
                wire.socket.shutdown(socket.SHUT_RDWR)
            wire.close()
