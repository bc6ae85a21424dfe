"""``python -m relaygate.demo``: everything from the CA to the last checksum, on this machine."""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from relaygate.demo import openssh, report
from relaygate.demo.ftpclient import ExplicitFTPS, ImplicitFTPS, PlainFTP
from relaygate.demo.gateway import OUT_FTP, OUT_WEB, Gateway
from relaygate.demo.keys import SERVERS_CA
from relaygate.demo.outwards import ForwardedFTP, SocksWeb
from relaygate.demo.processes import DemoError
from relaygate.demo.servers import log_warnings
from relaygate.demo.sftpclient import OwnSFTP
from relaygate.demo.transfers import Mover, plan, transfer
from relaygate.demo.webclient import Web

_FACTORS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_INTERRUPTED: Final = 130


def sizes(text: str) -> list[int]:
    """Sizes in bytes out of a list as in "0,64K,8M"; raises ``ArgumentTypeError``."""
    found = []
    for word in text.split(","):
        match = re.fullmatch(r"(\d{1,9})([KMG]?)", word.strip().upper(), re.ASCII)
        if match is None:
            raise argparse.ArgumentTypeError(f"{word!r} is no size; sizes are as in 0,64K,8M")
        found.append(int(match[1]) * _FACTORS[match[2]])
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; ends with status 2 when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m relaygate.demo",
        description="Move files through a whole gateway on this machine, and compare them.",
    )
    parser.add_argument(
        "--sizes", type=sizes, default="64K,8M", help="sizes of the files (default: %(default)s)"
    )
    parser.add_argument(
        "--client",
        choices=("openssh", "own"),
        help="who speaks SFTP (default: openssh where it is installed)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="go on running until Ctrl-C, for a try by hand"
    )
    options = parser.parse_args(arguments)
    if options.client == "openssh" and not openssh.is_here():
        parser.error("there is no OpenSSH client on this machine")
    options.client = options.client or ("openssh" if openssh.is_here() else "own")
    return options


def movers(reactor: Any, gateway: Gateway, client: str) -> list[Mover]:
    """Every client that is to move files, in the order of the table."""
    folder, ports = gateway.clients_folder, gateway.ports
    found: list[Mover] = []
    if client == "openssh":
        config = openssh.write_config(folder, ports["sftp"])
        found.append(openssh.SFTP(reactor, config))
        if openssh.scp_speaks_sftp():
            found.append(openssh.SCP(reactor, config))
    else:
        found.append(OwnSFTP(reactor, folder, ports["sftp"]))
    found += [
        mover(folder, ports[mover.service]) for mover in (PlainFTP, ExplicitFTPS, ImplicitFTPS)
    ]
    ca = folder / SERVERS_CA
    found += [Web(ports["web"]), Web(ports["web-opened"], ca)]
    found += [Web(ports["web-tls"], ca, passed=True)]
    found += [SocksWeb(ports[OUT_WEB], gateway.backends[OUT_WEB])]
    found += [ForwardedFTP(folder, ports[OUT_FTP])]
    return found


async def run(reactor: Any, options: argparse.Namespace) -> int:
    """Do it all; the exit status."""
    with tempfile.TemporaryDirectory(prefix="relaygate-demo-") as name:
        print(f"relaygate's demo, with throwaway keys, in {name}")
        gateway = Gateway(reactor, Path(name))
        try:
            failed = await show(reactor, gateway, options)
            if failed is None:
                print("\nEvery file arrived as it was sent.")
            else:
                print("", *gateway.tails(), f"FAILED: {failed}", sep="\n")
            if options.keep and gateway.up:
                print(f"\n{report.hints(gateway)}")
                await until_cancelled()
        finally:
            await gateway.stop()
    return 0 if failed is None else 1


async def show(reactor: Any, gateway: Gateway, options: argparse.Namespace) -> str | None:
    """Start the gateway and move the files; what went wrong, or None."""
    try:
        await gateway.start()
    except DemoError as error:
        return str(error)
    rows = []
    print()
    for mover, size, up in plan(movers(reactor, gateway, options.client), options.sizes):
        row = await transfer(reactor, gateway, mover, size, up=up)
        rows.append(row)
        print(report.way(gateway, mover, row))
    print(f"\n{report.table(rows)}")
    print("The time is the client's whole life: connecting and logging in are part of it.")
    return report.verdict(rows)


async def until_cancelled() -> None:
    """Wait for Ctrl-C, which is how this is meant to end."""
    try:
        await Deferred[None]()
    except CancelledError:
        return


class Performance:
    """The demo's life in the reactor, which ends with it, and with which it ends."""

    def __init__(self, reactor: Any, options: argparse.Namespace) -> None:
        self.status = 1
        self._reactor = reactor
        self._options = options
        self._showing: Deferred[int] | None = None
        self._over: Deferred[None] = Deferred()
        self._stopping = False

    def begin(self) -> None:
        """Start; to be called once the reactor runs."""
        self._showing = Deferred.fromCoroutine(run(self._reactor, self._options))
        self._showing.addCallbacks(self._ended, self._broken).addBoth(self._finish)

    def _ended(self, status: int) -> None:
        self.status = status

    def _broken(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            self.status = _INTERRUPTED
            print("interrupted; everything has been ended")
        else:
            failure.printTraceback(sys.stderr)

    def _finish(self, _: object) -> None:
        self._over.callback(None)
        if not self._stopping:
            self._reactor.stop()

    def interrupt(self) -> Deferred[None]:
        """The reactor is about to stop: clean up first."""
        self._stopping = True
        if self._showing is not None and not self._over.called:
            self._showing.cancel()
            return self._over
        return succeed(None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status is 0 only if every file got through whole."""
    options = parse(arguments)
    from twisted.internet import reactor as imported

    reactor: Any = imported
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    log_warnings()
    performance = Performance(reactor, options)
    reactor.callWhenRunning(performance.begin)
    reactor.addSystemEventTrigger("before", "shutdown", performance.interrupt)
    reactor.run()
    return performance.status


if __name__ == "__main__":
    sys.exit(main())
