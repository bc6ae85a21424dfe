"""An HTTP server for one folder: PUT stores a file, GET returns it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from twisted.web.static import File

_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def web_factory(folder: Path) -> Site:
    """A factory of HTTP servers for the files right in *folder*."""
    site = Site(_Store(folder))
    site.noisy = False
    return site


class _Store(Resource):
    """The folder. It is no place for folders inside it, nor for anybody's cookies."""

    isLeaf = True

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def _path(self, request: Request) -> Path | None:
        name = b"/".join(request.postpath or [])
        return self._folder / name.decode("ascii") if _NAME.fullmatch(name) else None

    def render_GET(self, request: Request) -> bytes | int:
        """Return a file; see :meth:`twisted.web.resource.Resource.render`."""
        path = self._path(request)
        if path is None:
            request.setResponseCode(http.NOT_FOUND)
            return b"no such file\n"
        answer: bytes | int = File(str(path), "application/octet-stream").render(request)
        return answer

    def render_PUT(self, request: Request) -> bytes:
        """Store a file; see :meth:`twisted.web.resource.Resource.render`."""
        path = self._path(request)
        if path is None or request.content is None:
            request.setResponseCode(http.BAD_REQUEST)
            return b"no such name\n"
        with path.open("wb") as file:
            shutil.copyfileobj(request.content, file)
        request.setResponseCode(http.CREATED)
        return b"stored\n"
