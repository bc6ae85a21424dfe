"""The demo's servers inside, as one process: ``python -m relaygate.demo.servers FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from twisted.internet.ssl import PrivateCertificate
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)

from relaygate.demo.ftpserver import ftp_factory
from relaygate.demo.sftpserver import sftp_factory
from relaygate.demo.webserver import web_factory

_HOST = "127.0.0.1"


def log_warnings() -> None:
    """Log what is wrong to standard error; Conch's account of every packet is too much."""
    wanted = LogLevelFilterPredicate(LogLevel.warn)
    observer = FilteringLogObserver(textFileLogObserver(sys.stderr), [wanted])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


def start(reactor: Any, folder: Path) -> dict[str, int]:
    """Start every server with the keys in *folder*; the port of each, by its name."""
    files = folder / "files"
    certificate = PrivateCertificate.loadPEM((folder / "web.pem").read_bytes())
    ports = {
        "sftp": reactor.listenTCP(0, sftp_factory(files, folder), interface=_HOST),
        "ftp": reactor.listenTCP(0, ftp_factory(files, folder), interface=_HOST),
        "web": reactor.listenTCP(0, web_factory(files), interface=_HOST),
        "web-tls": reactor.listenSSL(0, web_factory(files), certificate.options(), interface=_HOST),
    }
    return {name: port.getHost().port for name, port in ports.items()}


def main() -> None:
    """Run until a signal comes."""
    from twisted.internet import reactor

    log_warnings()
    ports = start(reactor, Path(sys.argv[1]))
    print(f"ready {json.dumps(ports)}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
