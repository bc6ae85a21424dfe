"""``relaygate sessions``: who is there, chosen and put in order."""

from __future__ import annotations

import argparse
import json

from relaygate.cli.node import Answer, NodeError, add_client_options, ask, reading
from relaygate.cli.shown import examples, print_table
from relaygate.networks import Network, literal_of, network_of

__all__ = ["add_parser"]

# By the heading of the column: the key of the answer.
_SORT = {"seconds": "seconds", "in": "bytes_in", "out": "bytes_out"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command to the ``relaygate`` parser."""
    parser = subparsers.add_parser(
        "sessions",
        help="list the sessions of a running node",
        description="List the sessions of a running internal node, with the bytes so far: of "
        "services, and of programs on their way out.",
        **examples(
            "relaygate sessions --service sftp",
            "relaygate sessions --client 203.0.113.0/24 --sort seconds",
            "relaygate sessions --user partner --json | jq -r '.[].session'",
        ),
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--service", default="", help="only those of this service")
    which.add_argument("--entry", default="", help="only those of this entry")
    parser.add_argument(
        "--client", type=_network, metavar="NETWORK", help="only from this network or address"
    )
    parser.add_argument("--user", help="only of who logged in as this, where FTP or an entry knows")
    parser.add_argument(
        "--sort", choices=_SORT, help="the longest, or those with most bytes, first"
    )
    add_client_options(parser)
    parser.set_defaults(func=_run)


def _network(text: str) -> Network:
    try:
        return network_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "expected a network or an address, as in 203.0.113.0/24"
        ) from None


def _run(arguments: argparse.Namespace) -> int:
    try:
        with reading():
            found = [each for each in _all(arguments) if _is_wanted(each, arguments)]
            if arguments.sort:
                found.sort(key=lambda each: float(each[_SORT[arguments.sort]]), reverse=True)
            if arguments.json:
                print(json.dumps(found, indent=2))
            else:
                _print(found)
    except NodeError as error:
        return error.tell()
    return 0


def _all(arguments: argparse.Namespace) -> list[Answer]:
    """All sessions of the service or of the entry, which come in pages."""
    found: list[Answer] = []
    more = True
    while more:
        after = found[-1]["session"] if found else ""
        request = {"command": "sessions", "service": arguments.service, "after": after}
        if arguments.entry:
            request["entry"] = arguments.entry
        page = ask(arguments, request)
        found += page["sessions"]
        more = page["more"]
        if more and found[-1]["session"] <= after:
            raise NodeError("the node tells of more sessions, and shows the same again and again")
    return found


def _is_wanted(session: Answer, arguments: argparse.Namespace) -> bool:
    if arguments.user is not None and session.get("user") != arguments.user:
        return False
    return arguments.client is None or _comes_from(session["client"], arguments.client)


def _comes_from(client: str, network: Network) -> bool:
    try:
        return literal_of(client.rpartition(":")[0].strip("[]")) in network
    except ValueError:
        # What a DMZ node calls a client may be no address.
        return False


def _print(found: list[Answer]) -> None:
    # Only FTP knows who has logged in, and entries with users.
    users = any(each.get("user") for each in found)
    print_table(
        (
            *("session", "service", "client", *(["user"] if users else [])),
            *("gateway", "backend", "seconds", "in", "out"),
        ),
        [
            [
                each["session"],
                # Of a program on its way out: the entry, and where it wants to go.
                each["service"] or each["entry"],
                each["client"],
                *([each.get("user") or "-"] if users else []),
                each["gateway"],
                each["backend"] or each["destination"],
                *(each[key] for key in ("seconds", "bytes_in", "bytes_out")),
            ]
            for each in found
        ],
    )
