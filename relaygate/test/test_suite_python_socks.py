"""python-socks's own tests of proxies, with the entries of an internal node in the place of its."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

from relaygate.addresses import HostPort
from relaygate.config.forward import ForwardConfig, UserConfig
from relaygate.test.forwardnodes import ForwardCase, rules
from relaygate.test.programs import completed, new_folder
from relaygate.test.suites import Source, unpacked

PYTHON_SOCKS: Final = Source(
    "python_socks", "2.7.2", "4c845d4700352bc7e7382f302dfc6baf0af0de34d2a6d70ba356b2539d4dbb62"
)
# In each of its files one is about a proxy that is itself reached by TLS, which no entry is, and
# some count on a thousandth of a second being too short for a connection.
NOT_OURS: Final = "not secure_proxy and not connect_timeout"
# One run takes 12 seconds on an idle machine.
RUN_LIMIT_S: Final = 200.0
FLOOR_PASSED: Final = 400

# In the place of the proxies that the suite brings along: ours run already.
_NO_PROXIES: Final = """
import typing

class ProxyConfig(typing.NamedTuple):
    proxy_type: str
    host: str
    port: int
    username: typing.Optional[str] = None
    password: typing.Optional[str] = None
    ssl_certfile: typing.Optional[str] = None
    ssl_keyfile: typing.Optional[str] = None

class ProxyServer:
    def __init__(self, config):
        pass
    def start(self):
        pass
    def terminate(self):
        pass
"""
# In the place of its web server, which wants a framework: an answer is all that it is asked for.
_WEB_SERVER: Final = """
import http.server, socket, ssl

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")
    def log_message(self, *words):
        pass

class Server(http.server.ThreadingHTTPServer):
    pass

def run_app(host, port, certfile=None, keyfile=None):
    if ":" in host:
        Server.address_family = socket.AF_INET6
    server = Server((host, port), Handler)
    if certfile:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certfile, keyfile)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
"""


class PythonSocksTests(ForwardCase):
    """All of its tests: synchronous ones, and those by asyncio, trio, anyio and curio."""

    timeout = 300

    def at(self, host: str, port: int, protocol: Any, *users: UserConfig) -> ForwardConfig:
        """An entry where the suite expects a proxy."""
        places = ("127.0.0.1", "[::1]", "*.example.com")
        return ForwardConfig(
            f"at-{port}-{len(host)}",
            protocol,
            HostPort(host, port),
            destinations=rules(*(f"{place}:7780-8890" for place in places)),
            users=users,
        )

    async def test_suite(self) -> None:
        """Requirement 64, as another project understands it: all of its tests pass."""
        folder = await unpacked(self, PYTHON_SOCKS)
        (folder / "tests" / "proxy_server.py").write_text(_NO_PROXIES)
        (folder / "tests" / "http_app.py").write_text(_WEB_SERVER)
        secret = new_folder(self) / "secret"
        secret.touch(0o600)
        secret.write_text("admin\n")
        user = UserConfig("admin", Path(secret))
        await self.begin(
            self.at("127.0.0.1", 7780, "socks5", user),
            self.at("::1", 7780, "socks5", user),
            self.at("127.0.0.1", 7781, "socks5"),
            self.at("127.0.0.1", 7782, "socks5"),
            self.at("127.0.0.1", 7783, "socks5"),
            self.at("127.0.0.1", 7784, "http-connect", user),
            self.at("127.0.0.1", 7785, "http-connect", user),
            connect=["127.0.0.1:7780-8890", "[::1]:7780-8890"],
            policy={"connect_from": {}},
        )
        for kind in ("target", "proxy"):
            self.names[f"ip4.{kind}.example.com"] = ["127.0.0.1"]
            self.names[f"ip6.{kind}.example.com"] = ["::1"]
        argv = ["env", "-C", str(folder), f"PYTHONPATH={folder}", sys.executable, "-m", "pytest"]
        argv += ["-q", "-p", "no:cacheprovider", "-k", NOT_OURS]
        argv += ["tests"]
        done = await completed(self, argv, timeout=RUN_LIMIT_S)
        text = done.output.decode()
        sys.stdout.write(text[-300:])
        self.assertEqual(done.status, 0, text)
        (passed,) = re.findall(r"(\d+) passed", text)
        self.assertGreaterEqual(int(passed), FLOOR_PASSED)
        self.assertNotRegex(text, r"\d+ (failed|error|skipped)")
