"""An SFTP server for one folder, out of Twisted Conch: one user, one key, no shell."""

from __future__ import annotations

import os
import posixpath
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import IConchUser, ISFTPFile, ISFTPServer
from twisted.conch.ssh import filetransfer
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession
from twisted.conch.ssh.transport import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_CONNECTION_LOST,
    SSHServerTransport,
)
from twisted.cred.portal import IRealm, Portal
from zope.interface import implementer

from relaygate.demo.keys import USER

_MAX_READ = 256 * 1024


def sftp_factory(files: Path, folder: Path) -> SSHFactory:
    """A factory of SFTP servers for *files*, with ``host_key`` and ``user_key.pub`` in *folder*."""
    user_key = Key.fromFile(str(folder / "user_key.pub"))
    checker = SSHPublicKeyChecker(InMemorySSHKeyDB({USER.encode(): [user_key]}))
    return _Factory(Key.fromFile(str(folder / "host_key")), Portal(_Realm(files), [checker]))


class _Transport(SSHServerTransport):
    def receiveError(self, reasonCode: int, description: str) -> None:
        """See :class:`SSHServerTransport`, to which a client's goodbye is an error to be logged."""
        if reasonCode not in (DISCONNECT_BY_APPLICATION, DISCONNECT_CONNECTION_LOST):
            super().receiveError(reasonCode, description)


class _Session(SSHSession):
    def eofReceived(self) -> None:
        """See :class:`SSHSession`; scp wants an exit status, which a subsystem there has not."""
        if self.conn is not None:
            self.conn.sendRequest(self, b"exit-status", struct.pack(">L", 0))
        super().eofReceived()


class _Factory(SSHFactory):
    protocol = _Transport
    noisy = False

    def __init__(self, host_key: Key, portal: Portal) -> None:
        self._host_key = host_key
        self.portal = portal

    def getPrivateKeys(self) -> dict[bytes, Key]:
        """See :class:`SSHFactory`."""
        return {self._host_key.sshType(): self._host_key}

    def getPublicKeys(self) -> dict[bytes, Key]:
        """See :class:`SSHFactory`."""
        return {self._host_key.sshType(): self._host_key.public()}


@implementer(IRealm)
class _Realm:
    def __init__(self, files: Path) -> None:
        self._files = files

    def requestAvatar(
        self, avatarId: object, mind: object, *interfaces: object
    ) -> tuple[Any, Any, Callable[[], None]]:
        """See :class:`twisted.cred.portal.IRealm`."""
        return IConchUser, FolderUser(self._files), lambda: None


@implementer(ISFTPServer)
class FolderUser(ConchUser):
    """
    The user, who sees *root* as the whole file system.

    There are no links in it and none can be made, so that a path without ".." stays inside.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self.avatar = self
        self.channelLookup[b"session"] = _Session
        self.subsystemLookup[b"sftp"] = filetransfer.FileTransferServer

    def _path(self, name: bytes) -> Path:
        return self._root / path_inside(name)

    def gotVersion(self, otherVersion: int, extData: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """See :class:`ISFTPServer`, as for the others below."""
        return {}

    def openFile(self, filename: bytes, flags: int, attrs: dict[str, Any]) -> _OpenFile:
        """Open a file; raises OSError."""
        mode = attrs.get("permissions", 0o644) & 0o777
        return _OpenFile(os.open(self._path(filename), _os_flags(flags), mode))

    def removeFile(self, filename: bytes) -> None:
        """Remove a file."""
        self._path(filename).unlink()

    def renameFile(self, oldpath: bytes, newpath: bytes) -> None:
        """Rename a file; an existing one is not replaced."""
        if self._path(newpath).exists():
            raise filetransfer.SFTPError(filetransfer.FX_FAILURE, "the new name exists already")
        self._path(oldpath).rename(self._path(newpath))

    def makeDirectory(self, path: bytes, attrs: dict[str, Any]) -> None:
        """Make a folder."""
        self._path(path).mkdir()

    def removeDirectory(self, path: bytes) -> None:
        """Remove an empty folder."""
        self._path(path).rmdir()

    def openDirectory(self, path: bytes) -> _OpenFolder:
        """List a folder."""
        return _OpenFolder(sorted(self._path(path).iterdir()))

    def getAttrs(self, path: bytes, followLinks: bool) -> dict[str, int]:
        """Tell a file's attributes."""
        return _attributes(os.stat(self._path(path)))

    def setAttrs(self, path: bytes, attrs: dict[str, int]) -> None:
        """Set what a client that keeps times and modes wants to keep."""
        _set_attributes(self._path(path), attrs)

    def readLink(self, path: bytes) -> bytes:
        """There are no links."""
        raise NotImplementedError("there are no links here")

    def makeLink(self, linkPath: bytes, targetPath: bytes) -> None:
        """There are no links."""
        raise NotImplementedError("there are no links here")

    def realPath(self, path: bytes) -> bytes:
        """Make a path absolute, as the user sees it."""
        return os.fsencode("/" + path_inside(path))

    def extendedRequest(self, extendedName: bytes, extendedData: bytes) -> bytes:
        """There are no extensions."""
        raise NotImplementedError("there are no extensions here")


@implementer(ISFTPFile)
class _OpenFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """See :class:`ISFTPFile`, as for the others below."""
        os.close(self._descriptor)

    def readChunk(self, offset: int, length: int) -> bytes:
        """Read at most *length* bytes; none at the end."""
        return os.pread(self._descriptor, min(length, _MAX_READ), offset)

    def writeChunk(self, offset: int, data: bytes) -> None:
        """Write all of *data*."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._descriptor, rest, offset)
            offset, rest = offset + written, rest[written:]

    def getAttrs(self) -> dict[str, int]:
        """Tell the attributes."""
        return _attributes(os.fstat(self._descriptor))

    def setAttrs(self, attrs: dict[str, int]) -> None:
        """Set the attributes."""
        _set_attributes(self._descriptor, attrs)


class _OpenFolder:
    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[tuple[bytes, bytes, dict[str, int]]]:
        for path in self._paths:
            status = path.stat()
            name = os.fsencode(path.name)
            line = f"{stat.filemode(status.st_mode)} {status.st_size:>12} ".encode() + name
            yield name, line, _attributes(status)

    def close(self) -> None:
        """Nothing is held open."""


def path_inside(path: bytes) -> str:
    """The path from the root on, without any ".." or a slash at either end."""
    return posixpath.normpath("/" + os.fsdecode(path)).strip("/")


def _os_flags(flags: int) -> int:
    """Turn the flags of SFTP's open (draft-ietf-secsh-filexfer-02, 6.3) into the kernel's."""
    if flags & filetransfer.FXF_WRITE:
        wanted = os.O_RDWR if flags & filetransfer.FXF_READ else os.O_WRONLY
    else:
        wanted = os.O_RDONLY
    for flag, meaning in (
        (filetransfer.FXF_APPEND, os.O_APPEND),
        (filetransfer.FXF_CREAT, os.O_CREAT),
        (filetransfer.FXF_TRUNC, os.O_TRUNC),
        (filetransfer.FXF_EXCL, os.O_EXCL),
    ):
        if flags & flag:
            wanted |= meaning
    return wanted | os.O_CLOEXEC


def _attributes(status: os.stat_result) -> dict[str, int]:
    return {
        "size": status.st_size,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "permissions": status.st_mode,
        "atime": int(status.st_atime),
        "mtime": int(status.st_mtime),
    }


def _set_attributes(file: Path | int, attrs: dict[str, int]) -> None:
    if "size" in attrs:
        os.truncate(file, attrs["size"])
    if "permissions" in attrs:
        os.chmod(file, stat.S_IMODE(attrs["permissions"]) & 0o777)
    if "atime" in attrs and "mtime" in attrs:
        os.utime(file, (attrs["atime"], attrs["mtime"]))
