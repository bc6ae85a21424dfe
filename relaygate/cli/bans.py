"""``relaygate ban``, ``unban`` and ``bans``: who may not come for a while."""

from __future__ import annotations

import argparse
import re
from typing import Any

from relaygate.cli.node import add_client_options, run_command
from relaygate.cli.shown import examples, print_table

__all__ = ["add_parser"]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the commands to the ``relaygate`` parser."""
    ban = subparsers.add_parser(
        "ban",
        help="turn networks away for a while, on every DMZ node of a running internal node",
        description="Turn networks away for a while, on every DMZ node of a running internal node. "
        "Sessions that run go on.",
        **examples(
            "relaygate ban 203.0.113.77",
            "relaygate ban 203.0.113.0/24 2001:db8::/48 --for 12h",
        ),
    )
    ban.add_argument("networks", metavar="NETWORK", nargs="+", help="a network or an address")
    ban.add_argument(
        "--for",
        dest="seconds",
        metavar="TIME",
        type=_seconds,
        help="how long, as in 90, 15m, 12h or 7d (default: bans.duration of the configuration)",
    )
    add_client_options(ban)
    ban.set_defaults(func=run_command(_ban, _print_told))

    unban = subparsers.add_parser(
        "unban",
        help="lift bans before they run out",
        description="Lift bans before they run out, on every DMZ node of a running internal node. "
        "One that another internal node has set is to be lifted there as well.",
        **examples("relaygate unban 203.0.113.77", "relaygate unban --all"),
    )
    which = unban.add_mutually_exclusive_group(required=True)
    which.add_argument("networks", metavar="NETWORK", nargs="*", default=[], help="as in the ban")
    which.add_argument("--all", action="store_true", help="every ban that this node knows")
    add_client_options(unban)
    unban.set_defaults(
        func=run_command(
            lambda arguments: {"command": "unban", "networks": arguments.networks}, _print_told
        )
    )

    bans = subparsers.add_parser(
        "bans",
        help="list the bans that hold",
        description="List the bans that a running internal node has set, and for how long yet.",
        **examples("relaygate bans", "relaygate bans --json | jq -r '.bans[].network'"),
    )
    add_client_options(bans)
    bans.set_defaults(func=run_command(lambda _: {"command": "bans"}, _print_bans))


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError("expected a time, as in 90, 15m, 12h or 7d")
    return int(match[1]) * _UNITS[match[2]]


def _ban(arguments: argparse.Namespace) -> dict[str, Any]:
    request = {"command": "ban", "networks": arguments.networks}
    return request if arguments.seconds is None else request | {"seconds": arguments.seconds}


def _print_told(answer: dict[str, Any]) -> None:
    if "banned" in answer:
        print(f"banned: {answer['banned']}, for {answer['seconds']} s")
    else:
        print(f"lifted: {answer['lifted']}")
        if answer["not_here"]:
            print(
                f"not set here: {answer['not_here']}; lift them on the node that has set them, too"
            )
    for gateway, heard in answer["gateways"].items():
        print(f"{gateway}: {heard}")


def _print_bans(answer: dict[str, Any]) -> None:
    print_table(
        ("network", "seconds"), [(each["network"], each["seconds"]) for each in answer["bans"]]
    )
