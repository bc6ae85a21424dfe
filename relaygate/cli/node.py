"""``relaygate status`` and its like: what a running internal node is asked and told."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relaygate.cli.shown import counted, examples, lasting, print_table
from relaygate.config import ConfigError, InternalConfig, load, printable

__all__ = ["NodeError", "add_client_options", "add_parser", "ask", "reading", "run_command"]

_FAILED = 1
_UNUSABLE = 2
_DEFAULT_SOCKET = "/run/relaygate/internal.sock"
# The node itself answers within 30 s.
_LIMIT_S = 40.0

Answer = dict[str, Any]


class NodeError(Exception):
    """The node cannot be asked, or has refused; the text says why, a line for each reason."""

    def __init__(self, text: str, status: int = _FAILED) -> None:
        super().__init__(text)
        self.status = status

    def tell(self) -> int:
        """Print it; the exit status is returned."""
        for line in str(self).splitlines():
            print(f"relaygate: {printable(line)}", file=sys.stderr)
        return self.status


@contextmanager
def reading() -> Iterator[None]:
    """What is within reads an answer; raises :class:`NodeError` if that has another shape."""
    try:
        yield
    except (AttributeError, LookupError, RecursionError, TypeError) as error:
        raise NodeError(
            f"the answer is not as expected ({error!r:.200}): is that a node, and of the version of"
            " this command? One that was running when the software was renewed is to start again"
        ) from None


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the commands to the ``relaygate`` parser."""
    status = subparsers.add_parser(
        "status",
        help="show a running internal node, its gateways and its services",
        description="Show a running internal node, its gateways with what they say of themselves, "
        "its services, their backends, and its entries.",
        **examples(
            "relaygate status",
            "relaygate status --json | jq '.gateways[] | {name, state}'",
            "relaygate status --config /etc/relaygate/internal.toml",
        ),
    )
    add_client_options(status)
    status.set_defaults(func=run_command(lambda _: {"command": "status"}, _print_status))

    end = subparsers.add_parser(
        "end",
        help="end a session of a running node",
        description="End one session of a running internal node now: its client's connection is "
        "reset, and a transfer of it breaks off.",
        **examples("relaygate sessions", "relaygate end 9f86d081884c7d65"),
    )
    end.add_argument("session", metavar="SESSION", help='its id, as "relaygate sessions" has it')
    add_client_options(end)
    end.set_defaults(
        func=run_command(
            lambda arguments: {"command": "end", "session": arguments.session},
            lambda answer: print(f"ended: {answer['ended']}"),
        )
    )

    reload = subparsers.add_parser(
        "reload",
        help="let a running internal node read its file again, as SIGHUP does",
        description="Let a running internal node read its file, certificates and keys again, and "
        "print what has changed. Sessions that run go on; a wrong file changes nothing.",
        **examples("relaygate check /etc/relaygate/internal.toml && relaygate reload"),
    )
    add_client_options(reload)
    reload.set_defaults(func=run_command(lambda _: {"command": "reload"}, _print_changes))

    for word, does in (("drain", "take no new sessions"), ("resume", "take new sessions again")):
        steer = subparsers.add_parser(
            word,
            help=f"{does}: a running node, a service or a backend",
            description=f"Let a running internal node, one of its services or a backend {does}. "
            "Sessions that run go on, and it is printed how many there are.",
            **examples(
                f"relaygate {word} node",
                f"relaygate {word} service sftp",
                f"relaygate {word} backend sftp-1.private.example:22 --service sftp",
            ),
        )
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
            if arguments.json:
                print(json.dumps(answer, indent=2))
            else:
                with reading():
                    show(answer)
        except NodeError as error:
            return error.tell()
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
    except PermissionError as error:
        raise NodeError(
            f"no answer at {path}: {error.strerror}: run this as the node's user, or as root"
        ) from None
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NodeError(
            f"no answer at {path}: {error.strerror}: does the node run, and is this its [admin] "
            "socket? Name it by --socket, or its file by --config"
        ) from None
    except OSError as error:
        raise NodeError(f"no answer at {path}: {error.strerror or error}") from None
    with reading():
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
            raise NodeError("\n".join(map(str, error.problems)), _UNUSABLE) from None
        assert isinstance(config, InternalConfig)
        if config.admin_socket is None:
            raise NodeError(
                f"{arguments.config}: there is no [admin] socket in it: add [admin] with a socket, "
                "and start the node anew",
                _UNUSABLE,
            )
        return config.admin_socket
    if arguments.socket is not None:
        path: Path = arguments.socket
        return path
    return Path(os.environ.get("RELAYGATE_SOCKET") or _DEFAULT_SOCKET)


def _print_status(status: Answer) -> None:
    print(
        f"{status['node']}: {status['state']}, {status['software']},"
        f" up {lasting(status['uptime_seconds'])}, {counted(status['sessions'], 'session')}"
    )
    print()
    print_table(
        ("gateway", "address", "state", "idle", "idle tls", "sessions", "software"),
        [
            (
                each["name"],
                each["address"],
                "draining" if (each["report"] or {}).get("draining") else each["state"],
                each["idle_channels"]["clear"],
                each["idle_channels"]["tls"],
                _sessions_there(each["report"]),
                each["report"]["software"] if each["report"] else "-",
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
        if gateway["state"] == "down":
            reason = gateway["last_failure"] or "it is being dialled"
            print(f"{gateway['name']} is down: {printable(reason)}")
        for name, reason in gateway["refused"].items():
            print(f"{gateway['name']} refuses {name}: {printable(reason)}")


def _sessions_there(report: Answer | None) -> int | str:
    """The sessions of both kinds at the DMZ node that has made *report*."""
    if report is None:
        return "-"
    figures = report["figures"]
    return int(figures.get("sessions", 0)) + int(figures.get("outwards", 0))


def _figures(service: Answer) -> list[int]:
    return [service[key] for key in ("sessions", "opened", "refused", "bytes_in", "bytes_out")]


def _order(arguments: argparse.Namespace) -> Answer:
    request = {"command": arguments.command, "kind": arguments.kind}
    given = {"name": arguments.name, "service": arguments.service}
    return request | {key: value for key, value in given.items() if value}


def _print_steered(answer: Answer) -> None:
    running = answer["sessions"]
    print(f"{counted(running, 'session')} {'runs' if running == 1 else 'run'}")


def _print_changes(answer: Answer) -> None:
    for change in answer["changes"] or ["nothing has changed"]:
        print(printable(change))
