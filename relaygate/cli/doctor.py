"""``relaygate doctor``: walk the way of a session, hop by hop, and say what is wrong where."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from relaygate.cli.backends import backend_findings
from relaygate.cli.entries import entry_findings
from relaygate.cli.findings import Finding
from relaygate.cli.lookout import gateway_findings, identity_of, key_findings
from relaygate.cli.running import node_findings
from relaygate.cli.shown import coloured
from relaygate.config import ConfigError, InternalConfig, load, printable

__all__ = ["add_parser", "findings"]

_DEFAULT_CONFIG = Path("/etc/relaygate/internal.toml")
_SICK = 1
_UNUSABLE = 2

_COLOURS = {"ok": "32", "note": "33", "bad": "31", "skipped": "2"}

_EXAMPLES = """\
examples:
  relaygate doctor                              everything, with /etc/relaygate/internal.toml
  relaygate doctor sftp --config internal.toml  one service
  relaygate doctor --json | jq '.[] | select(.state == "bad")'

It is run on an internal node, as the node's user or root. What stands in the DMZ is asked over
the uplink of the node that runs. Nothing is changed; each backend sees one connection.

Exit status: 0 nothing is bad; 1 something is; 2 the file cannot be used, or there is no such
service.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command to the ``relaygate`` parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="find what is wrong, hop by hop, and what to do",
        description="Walk the way of a session from this internal node to the DMZ and to the "
        "backends, and say for each hop what was seen and what to do.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="look at this one alone")
    parser.add_argument(
        "--config",
        type=Path,
        default=_DEFAULT_CONFIG,
        help="the node's configuration (default: %(default)s)",
    )
    parser.add_argument("--socket", type=Path, help="the admin socket, if not the file's")
    parser.add_argument("--json", action="store_true", help="one JSON array")
    parser.set_defaults(func=_run)


def findings(
    config: InternalConfig, arguments: argparse.Namespace, now: datetime
) -> Iterator[Finding]:
    """Every hop in order; one that fails keeps none from being looked at that can be."""
    services = tuple(each for each in config.services if arguments.service in (None, each.name))
    yield Finding("file", str(arguments.config), "ok", "every key is understood")
    identity, finding = identity_of(config, now)
    yield finding
    yield from key_findings(services, now)
    for gateway in config.gateways:
        yield from gateway_findings(gateway, identity)
    yield from node_findings(services, arguments.socket or config.admin_socket)
    for service in services:
        yield from backend_findings(service)
    for forward in config.forwards:
        if arguments.service in (None, forward.name):
            yield from entry_findings(forward)


def _run(arguments: argparse.Namespace) -> int:
    found: list[Finding] = []
    status = 0
    try:
        config = load(arguments.config, "internal")
        assert isinstance(config, InternalConfig)
        known = [each.name for each in config.services]
        known += [each.name for each in config.forwards]
        if arguments.service not in (None, *known):
            names = ", ".join(known)
            print(f"relaygate doctor: the file has no such service: {names}", file=sys.stderr)
            return _UNUSABLE
        walk = findings(config, arguments, datetime.now(UTC))
    except ConfigError as error:
        status = _UNUSABLE
        walk = (
            Finding(
                "file",
                problem.key or problem.file,
                "bad",
                problem.message,
                "mend it there; docs/configuration.md has every key",
            )
            for problem in error.problems
        )
    colours = coloured()
    for finding in walk:
        found.append(finding)
        if not arguments.json:
            _print(finding, colours=colours)
    bad = sum(finding.state == "bad" for finding in found)
    if arguments.json:
        rows = [dataclasses.asdict(finding) for finding in found]
        print(json.dumps(rows, indent=2).replace("\x7f", "\\u007f"))
    else:
        print(f"{bad} bad of {len(found)}" if bad else f"nothing bad in {len(found)}")
    return status or (_SICK if bad else 0)


def _print(finding: Finding, *, colours: bool) -> None:
    """One line for what is well, and a second with the cure for what is not."""
    state = f"{finding.state:<8}"
    if colours:
        state = f"\x1b[{_COLOURS[finding.state]}m{state}\x1b[0m"
    print(f"{state}{finding.hop:<9}{printable(finding.what)}: {printable(finding.seen)}")
    if finding.cure and finding.state != "ok":
        print(f"{'':<17}-> {printable(finding.cure)}", flush=True)
