"""A small SFTP client out of Twisted Conch, for machines without OpenSSH."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from twisted.conch.error import ConchError
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.filetransfer import (
    FXF_CREAT,
    FXF_READ,
    FXF_TRUNC,
    FXF_WRITE,
    FileTransferClient,
)
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from relaygate.demo.gateway import HOST
from relaygate.demo.keys import USER
from relaygate.demo.processes import DemoError

_CHUNK: Final = 32 * 1024
# As many requests as are under way at one time: half a megabyte of file.
_WORKERS: Final = 16


class OwnSFTP:
    """Moves files by SFTP to and from *port*, with the keys in *folder*."""

    protocol = "SFTP"
    client = "own (Conch)"
    service = "sftp"

    def __init__(self, reactor: Any, folder: Path, port: int) -> None:
        self._reactor = reactor
        self._port = port
        self._key = Key.fromFile(str(folder / "user_key"))
        self._host_key = Key.fromFile(str(folder / "host_key.pub"))

    async def put(self, source: Path, name: str) -> None:
        """Upload *source* as *name*."""
        async with self._session() as sftp:
            remote = await sftp.openFile(name.encode(), FXF_WRITE | FXF_CREAT | FXF_TRUNC, {})
            with source.open("rb") as file:
                descriptor = file.fileno()

                async def work(offsets: Iterator[int]) -> None:
                    for offset in offsets:
                        await remote.writeChunk(offset, os.pread(descriptor, _CHUNK, offset))

                await _share(work, os.fstat(descriptor).st_size)
            await remote.close()

    async def get(self, name: str, target: Path) -> None:
        """Download *name* as *target*; raises :class:`DemoError` when it ends too early."""
        async with self._session() as sftp:
            remote = await sftp.openFile(name.encode(), FXF_READ, {})
            size: int = (await remote.getAttrs())["size"]
            with target.open("wb") as file:
                descriptor = file.fileno()

                async def work(offsets: Iterator[int]) -> None:
                    for offset in offsets:
                        end = min(offset + _CHUNK, size)
                        while offset < end:
                            # A server may return less than was asked for, and raises at the end.
                            data = await remote.readChunk(offset, end - offset)
                            offset += os.pwrite(descriptor, data, offset)

                await _share(work, size)
            await remote.close()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Any]:
        transport = _Transport(self._key, self._host_key)
        endpoint = TCP4ClientEndpoint(self._reactor, HOST, self._port)
        await connectProtocol(endpoint, transport)
        try:
            yield await transport.opened
        finally:
            if not transport.gone.called:
                transport.loseConnection()
            await transport.gone


async def _share(work: Any, size: int) -> None:
    """Let several workers take the chunks of a file of *size* bytes in turn."""
    offsets = iter(range(0, size, _CHUNK))
    workers = [Deferred.fromCoroutine(work(offsets)) for _ in range(_WORKERS)]
    await gatherResults(workers, consumeErrors=True)


class _Transport(SSHClientTransport):
    """One connection. *opened* fires with the SFTP session, *gone* at the connection's end."""

    def __init__(self, key: Key, host_key: Key) -> None:
        self.opened: Deferred[FileTransferClient] = Deferred()
        self.gone: Deferred[None] = Deferred()
        self._key = key
        self._expected = host_key

    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Deferred[bool]:
        """Accept the server inside and nobody else: a gateway in between could not pass."""
        if hostKey == self._expected.blob():
            return succeed(True)
        return fail(ConchError("this is not the host key of the server inside"))

    def connectionSecure(self) -> None:
        """See :class:`SSHClientTransport`."""
        self.requestService(_Login(self._key, _Connection(self)))

    def connectionLost(self, reason: Failure | None = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        super().connectionLost(reason)
        if not self.opened.called:
            self.opened.errback(DemoError("the SSH connection ended before SFTP began"))
        self.gone.callback(None)


class _Login(SSHUserAuthClient):
    """Logs in with one key."""

    def __init__(self, key: Key, connection: _Connection) -> None:
        super().__init__(USER.encode(), connection)
        self._keys = [key]
        self._key = key

    def getPublicKey(self) -> Key | None:
        """See :class:`SSHUserAuthClient`: the key, and the second time none."""
        return self._keys.pop().public() if self._keys else None

    def getPrivateKey(self) -> Deferred[Key]:
        """See :class:`SSHUserAuthClient`."""
        return succeed(self._key)


class _Connection(SSHConnection):
    """Opens one channel when the login is done."""

    def __init__(self, owner: _Transport) -> None:
        super().__init__()
        self._owner = owner

    def serviceStarted(self) -> None:
        """See :class:`twisted.conch.ssh.service.SSHService`."""
        super().serviceStarted()
        self.openChannel(_Channel(self, self._owner.opened))


class _Channel(SSHChannel):
    """The channel that carries SFTP."""

    name = b"session"

    def __init__(self, connection: _Connection, opened: Deferred[FileTransferClient]) -> None:
        super().__init__(conn=connection)
        self._opened = opened
        self._sftp = FileTransferClient()

    def channelOpen(self, specificData: bytes) -> None:
        """See :class:`SSHChannel`."""
        assert self.conn is not None
        asked = self.conn.sendRequest(self, b"subsystem", NS(b"sftp"), wantReply=True)
        asked.addCallbacks(self._granted, self._opened.errback)

    def _granted(self, _: object) -> None:
        self._sftp.makeConnection(self)
        self._opened.callback(self._sftp)

    def openFailed(self, reason: Failure) -> None:
        """See :class:`SSHChannel`."""
        self._opened.errback(reason)

    def dataReceived(self, data: bytes) -> None:
        """See :class:`SSHChannel`."""
        self._sftp.dataReceived(data)

    def closed(self) -> None:
        """See :class:`SSHChannel`: what is still asked for fails now."""
        self._sftp.connectionLost(connectionDone)
