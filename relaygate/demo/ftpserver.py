"""An FTP server for one folder, out of Twisted's: one user, one password, no TLS of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ServerFactory
from twisted.protocols import ftp
from twisted.python.filepath import FilePath
from zope.interface import implementer

from relaygate.demo.keys import USER, read_password

_HOST: Final = "127.0.0.1"


def ftp_factory(files: Path, folder: Path) -> ftp.FTPFactory:
    """A factory of FTP servers for *files*, with the user's password in *folder*."""
    # FTP speaks of users and passwords as text there, which the types of these do not know.
    passwords: Any = InMemoryUsernamePasswordDatabaseDontUse()
    passwords.addUser(USER, read_password(folder))
    factory = ftp.FTPFactory(Portal(_Realm(files), [passwords]))
    factory.protocol = _Server
    factory.allowAnonymous = False
    factory.noisy = False
    return factory


class _Server(ftp.FTP):
    def getDTPPort(self, factory: ServerFactory, interface: str = "") -> IListeningPort:
        """See :class:`twisted.protocols.ftp.FTP`, which would listen on all addresses."""
        port: IListeningPort = super().getDTPPort(factory, interface=_HOST)
        return port


@implementer(IRealm)
class _Realm:
    def __init__(self, files: Path) -> None:
        self._files = FilePath(str(files))

    def requestAvatar(
        self, avatarId: object, mind: object, *interfaces: object
    ) -> tuple[Any, Any, Callable[[], None]]:
        """See :class:`twisted.cred.portal.IRealm`."""
        return ftp.IFTPShell, ftp.FTPShell(self._files), lambda: None
