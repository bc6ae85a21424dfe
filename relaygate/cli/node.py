"""``relaygate status`` and its like: what a running internal node is asked and told."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from relaygate.config import ConfigError, InternalConfig, load, printable

__all__ = ["NodeError", "add_client_options", "add_parser", "ask", "print_table", "run_command"]

_FAILED = 1
_DEFAULT_SOCKET = "/run/relaygate/internal.sock"
# The node itself answers within 30 s.
_LIMIT_S = 40.0

Answer = dict[str, Any]


class NodeError(Exception):
    """The node cannot be asked, or has refused; the text says why."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the commands to the ``relaygate`` parser."""
    status = subparsers.add_parser(
        "status", help="show a running internal node, its gateways and its services"
    )
    add_client_options(status)
    status.set_defaults(func=run_command(lambda _: {"command": "status"}, _print_status))

    sessions = subparsers.add_parser("sessions", help="list the sessions of a running node")
    which = sessions.add_mutually_exclusive_group()
    which.add_argument("--service", default="", help="only those of this service")
    which.add_argument("--entry", default="", help="only those of this entry")
    add_client_options(sessions)
    sessions.set_defaults(func=_sessions)

    reload = subparsers.add_parser(
        "reload", help="let a running internal node read its file again, as SIGHUP does"
    )
    add_client_options(reload)
    reload.set_defaults(func=run_command(lambda _: {"command": "reload"}, _print_changes))

    for word, does in (("drain", "take no new sessions"), ("resume", "take new sessions again")):
        steer = subparsers.add_parser(word, help=f"{does}: a running node, a service or a backend")
        steer.add_argument("kind", choices=("node", "service", "backend"))
        steer.add_argument("name", nargs="?", default="", help="of the service; or host:port")
        steer.add_argument("--service", default="", help="the backend in this service alone")
        add_client_options(steer)
        steer.set_defaults(func=run_command(_order, _print_steered))


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that talks to a node: which one, and how to print."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--socket",
        type=Path,
        default=None,
        help="the node's admin socket (default: RELAYGATE_SOCKET of the environment,"
        f" or {_DEFAULT_SOCKET})",
    )
    where.add_argument(
        "--config", type=Path, default=None, help="the node's configuration, which names it"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as it came")


def run_command(
    request: Callable[[argparse.Namespace], Answer], show: Callable[[Answer], None]
) -> Callable[[argparse.Namespace], int]:
    """A command that makes one request and shows the answer."""

    def run(arguments: argparse.Namespace) -> int:
        try:
            answer = ask(arguments, request(arguments))
        except NodeError as error:
            print(f"relaygate: {printable(str(error))}", file=sys.stderr)
            return _FAILED
        if arguments.json:
            print(json.dumps(answer, indent=2))
        else:
            show(answer)
        return 0

    return run


def ask(arguments: argparse.Namespace, request: Answer) -> Answer:
    """Make *request* of the node that *arguments* name; raises :class:`NodeError`."""
    path = _socket_path(arguments)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_LIMIT_S)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
    except OSError as error:
        raise NodeError(f"no answer at {path}: {error.strerror or error}") from None
    try:
        reply = json.loads(line)
    except ValueError:
        raise NodeError(f"no answer at {path}: the node ended the connection") from None
    if not reply["ok"]:
        raise NodeError(reply["error"])
    result: Answer = reply["result"]
    return result


def _socket_path(arguments: argparse.Namespace) -> Path:
    if arguments.config is not None:
        try:
            config = load(arguments.config, "internal")
        except ConfigError as error:
            raise NodeError(str(error.problems[0])) from None
        assert isinstance(config, InternalConfig)
        if config.admin_socket is None:
            raise NodeError(f"{arguments.config}: there is no [admin] socket in it")
        return config.admin_socket
    if arguments.socket is not None:
        path: Path = arguments.socket
        return path
    return Path(os.environ.get("RELAYGATE_SOCKET") or _DEFAULT_SOCKET)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns as wide as they need to be; numbers stand to the right."""
    table = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(heads), *table]) for at in range(len(heads))]
    for line in [list(heads), *table]:
        cells = (
            cell.rjust(width) if cell.isdigit() else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        )
        print("  ".join(cells).rstrip())


def _print_status(status: Answer) -> None:
    print(
        f"{status['node']}: {status['state']}, {status['software']},"
        f" up {status['uptime_seconds']:.0f} s, {status['sessions']} sessions"
    )
    print()
    print_table(
        ("gateway", "address", "state", "clear", "tls", "sessions", "software"),
        [
            (
                each["name"],
                each["address"],
                "draining" if (each["report"] or {}).get("draining") else each["state"],
                each["idle_channels"]["clear"],
                each["idle_channels"]["tls"],
                each["report"]["figures"].get("sessions", "-") if each["report"] else "-",
                each["report"]["software"] if each["report"] else each["last_failure"] or "-",
            )
            for each in status["gateways"]
        ],
    )
    print()
    print_table(
        ("service", "protocol", "state", "sessions", "opened", "refused", "in", "out"),
        [
            [each["name"], each["protocol"], each["state"], *_figures(each)]
            for each in status["services"]
        ],
    )
    print()
    print_table(
        ("backend", "service", "state", "weight", "sessions", "opened", "failed"),
        [
            [
                each["address"],
                service["name"],
                f"{each['state']}, backup" if each["backup"] else each["state"],
                *(each[key] for key in ("weight", "sessions", "opened", "failed")),
            ]
            for service in status["services"]
            for each in service["backends"]
        ],
    )
    if status.get("forwards"):
        print()
        print_table(
            ("entry", "protocol", "listen", "target", "sessions", "opened", "refused", "in", "out"),
            [
                [*(each[key] for key in ("name", "protocol", "listen", "target")), *_figures(each)]
                for each in status["forwards"]
            ],
        )
    for gateway in status["gateways"]:
        for name, reason in gateway["refused"].items():
            print(f"{gateway['name']} refuses {name}: {printable(reason)}")


def _figures(service: Answer) -> list[int]:
    return [service[key] for key in ("sessions", "opened", "refused", "bytes_in", "bytes_out")]


def _order(arguments: argparse.Namespace) -> Answer:
    request = {"command": arguments.command, "kind": arguments.kind}
    given = {"name": arguments.name, "service": arguments.service}
    return request | {key: value for key, value in given.items() if value}


def _print_steered(answer: Answer) -> None:
    print(f"{answer['sessions']} sessions run")


def _print_changes(answer: Answer) -> None:
    for change in answer["changes"] or ["nothing has changed"]:
        print(printable(change))


def _sessions(arguments: argparse.Namespace) -> int:
    """List all sessions, which come in pages."""
    found: list[Answer] = []
    try:
        more = True
        while more:
            after = found[-1]["session"] if found else ""
            request = {"command": "sessions", "service": arguments.service, "after": after}
            if arguments.entry:
                request["entry"] = arguments.entry
            page = ask(arguments, request)
            found += page["sessions"]
            more = page["more"]
    except NodeError as error:
        print(f"relaygate: {printable(str(error))}", file=sys.stderr)
        return _FAILED
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print_table(
        ("session", "service", "client", "gateway", "backend", "seconds", "in", "out"),
        [
            [
                each["session"],
                # Of a program on its way out: the entry, and where it wants to go.
                each["service"] or each["entry"],
                each["client"],
                each["gateway"],
                each["backend"] or each["destination"],
                *(each[key] for key in ("seconds", "bytes_in", "bytes_out")),
            ]
            for each in found
        ],
    )
    return 0
