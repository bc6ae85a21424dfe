"""Real web servers as backends: nginx, Apache with WebDAV, and one in Python that echoes."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import ClassVar, Final

from twisted.trial.unittest import TestCase

from relaygate.test.netns import missing
from relaygate.test.peers import eventually, listening
from relaygate.test.programs import Program, Where, new_folder

_START_LIMIT_S: Final = 30.0
_ACCOUNT: Final = "daemon"
_APACHE_MODULES: Final = Path("/usr/lib/apache2/modules")

_NGINX: Final = """
daemon off;
master_process on;
worker_processes 1;
user daemon;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 4096; }}
http {{
    log_format seen escape=json '$request|$http_host|$request_length|$status';
    access_log {folder}/seen.log seen;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    default_type application/octet-stream;
    sendfile on;
    server {{
        listen {address}:{port};
        root {root};
        location / {{ }}
        location /in/ {{ dav_methods PUT DELETE MOVE; create_full_put_path on; }}
        location /any/ {{ return 200 "any\\n"; }}
        location /moved {{ return 302 http://{address}:{port}/there; }}
    }}
}}
"""

_APACHE: Final = """
ServerName private.example
PidFile {folder}/apache.pid
Listen {address}:{port}
{modules}
User daemon
Group daemon
DocumentRoot {root}
ErrorLog {folder}/error.log
LogFormat "%r|%{{Host}}i|%>s|%m" seen
CustomLog {folder}/seen.log seen
DavLockDB {folder}/lock
LimitRequestBody 0
<Directory {root}>
    Dav On
    Require all granted
</Directory>
"""
_APACHE_NAMES: Final = "mpm_event authz_core authz_host dav dav_fs dav_lock dir autoindex"


class WebServer(Program):
    """A server of the folder :attr:`root`, which its account may write."""

    port: ClassVar[int]

    def __init__(self, case: TestCase, where: Where, address: str) -> None:
        self.address = address
        self.state = new_folder(case)
        self.root = self.state / "root"
        self.root.mkdir()
        super().__init__(case, type(self).__name__.lower(), self.command(), where=where)
        for folder in (self.state, self.root, *self.state.parents):
            if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 1:
                folder.chmod(folder.stat().st_mode | 0o011)
        if os.getuid() == 0:
            for folder in (self.state, self.root):
                shutil.chown(folder, _ACCOUNT)

    def command(self) -> list[str]:
        """What runs the server."""
        raise NotImplementedError

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"{self.address}:{self.port}"

    async def ready(self) -> None:
        """Start it, and wait until it listens."""
        self.start()
        await eventually(
            lambda: (self.address, self.port) in listening(self.pid),
            f"{self.name} listens",
            _START_LIMIT_S,
        )

    def serve(self, name: str, content: bytes) -> None:
        """Let clients find *content* at the path *name*."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            shutil.chown(file.parent, _ACCOUNT)
        file.write_bytes(content)

    @property
    def seen(self) -> list[list[str]]:
        """The requests that it has logged, field by field."""
        log = self.state / "seen.log"
        return [line.split("|") for line in log.read_text().splitlines()] if log.exists() else []


class Nginx(WebServer):
    """nginx."""

    port = 9080

    def command(self) -> list[str]:
        """See :class:`WebServer`."""
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            missing("there is no nginx")
        file = self.state / "nginx.conf"
        file.write_text(
            _NGINX.format(folder=self.state, root=self.root, address=self.address, port=self.port)
        )
        return [program, "-p", str(self.state), "-c", str(file)]


class Apache(WebServer):
    """Apache, with WebDAV."""

    port = 9081

    def command(self) -> list[str]:
        """See :class:`WebServer`."""
        program = shutil.which("apache2", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            missing("there is no apache2")
        file = self.state / "apache.conf"
        modules = "\n".join(
            f"LoadModule {name}_module {_APACHE_MODULES}/mod_{name}.so"
            for name in _APACHE_NAMES.split()
        )
        file.write_text(
            _APACHE.format(
                folder=self.state,
                root=self.root,
                address=self.address,
                port=self.port,
                modules=modules,
            )
        )
        return [program, "-DFOREGROUND", "-f", str(file)]


class Echo(WebServer):
    """Answers with what it got, as JSON: method, target, fields, length and digest of the body."""

    port = 9082

    def command(self) -> list[str]:
        """See :class:`WebServer`."""
        return [sys.executable, "-m", "relaygate.test.web_echo", self.address, str(self.port)]
