"""The web server behind the peers that speak HTTP: nginx, with its files in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from bench.peers import found
from bench.processes import HOST, Group, echoes_http, free_ports

BIG_BYTES: Final = 256 << 20
SMALL: Final = b"small\n"

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder below it has a name of its own
_START_LIMIT_S: Final = 10.0
_CONFIG: Final = """
daemon off;
master_process off;
user root;
pid {folder}/web.pid;
error_log stderr error;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {root}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000;
    server {{
        listen {host}:{port} backlog=4096;
        root {root};
        location = /small {{ return 200 "small\\n"; }}
        location /in/ {{ dav_methods PUT; }}
    }}
}}
"""


class WebServer:
    """The server, which works in *folder*, on a port of its own choice."""

    def __init__(self, folder: Path) -> None:
        [self.port] = free_ports(1)
        self._group = Group(folder)
        self._files = tempfile.TemporaryDirectory(prefix="relaygate-bench-", dir=_MEMORY)
        root = Path(self._files.name)
        (root / "in").mkdir()
        with (root / "big").open("wb") as file:
            for _ in range(BIG_BYTES >> 20):
                file.write(bytes(1 << 20))
        config = folder / "web.conf"
        config.write_text(_CONFIG.format(folder=folder, root=root, host=HOST, port=self.port))
        self._group.start("web", [found("nginx"), "-p", str(folder), "-c", str(config)])
        self._group.wait(lambda: echoes_http(self.port), _START_LIMIT_S, "nginx is not ready")

    def stop(self) -> None:
        """End it, and remove its files."""
        self._group.stop()
        self._files.cleanup()
