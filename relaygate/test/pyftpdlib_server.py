"""
Runs pyftpdlib as an FTP server for one user.

::

    python -m relaygate.test.pyftpdlib_server HOST:PORT LOW-HIGH FOLDER USER PASSWORD PUBLIC TLS...

LOW and HIGH are the ends of its passive range, PUBLIC the address that it names for it, or "-". TLS
is nothing, or: "explicit" or "implicit", a file with its key and certificate, and one of "1.2",
"1.3" and "any".
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

from OpenSSL import SSL

_VERSIONS: Final = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}

# Neither package has types, and one of them is only there where the tests are.
_handlers: Any = importlib.import_module("pyftpdlib.handlers")
_servers: Any = importlib.import_module("pyftpdlib.servers")
_authorizers: Any = importlib.import_module("pyftpdlib.authorizers")


class ImplicitHandler(_handlers.TLS_FTPHandler):
    """Begins with TLS, and protects data without being told to."""

    def handle(self) -> None:
        # The greeting waits for the handshake.
        self.secure_connection(self.ssl_context)

    def handle_ssl_established(self) -> None:
        self._pbsz = self._prot = True
        super().handle()


def main(
    at: str, ports: str, folder: str, user: str, password: str, public: str, *tls: str
) -> None:
    """Serve for ever."""
    host, _, port = at.rpartition(":")
    low, _, high = ports.partition("-")
    base = _handlers.FTPHandler
    settings: dict[str, Any] = {"passive_ports": range(int(low), int(high) + 1)}
    if public != "-":
        settings["masquerade_address"] = public
    settings["authorizer"] = _authorizers.DummyAuthorizer()
    settings["authorizer"].add_user(user, password, folder, perm="elradfmwMT")
    if tls:
        security, pem, version = tls
        base = ImplicitHandler if security == "implicit" else _handlers.TLS_FTPHandler
        settings |= {"tls_control_required": True, "tls_data_required": True}
        settings["ssl_context"] = _context(pem, version)
    handler = type("Handler", (base,), settings)
    _servers.FTPServer((host, int(port)), handler).serve_forever()


def _context(pem: str, version: str) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_chain_file(pem)
    context.use_privatekey_file(pem)
    if version in _VERSIONS:
        context.set_min_proto_version(_VERSIONS[version])
        context.set_max_proto_version(_VERSIONS[version])
    return context


if __name__ == "__main__":
    main(*sys.argv[1:])
