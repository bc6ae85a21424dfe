"""``relaygate check``: say whether a node would start with a configuration, and if not, why."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from relaygate.cli.shown import counted, examples
from relaygate.config import (
    ConfigError,
    DashboardConfig,
    DMZConfig,
    InternalConfig,
    Problem,
    load,
    printable,
)
from relaygate.identity import IdentityError, Role, load_identity
from relaygate.servicekeys import load_service_files, load_service_key, load_token

__all__ = ["add_parser"]

_FAILED = 2


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command to the ``relaygate`` parser."""
    parser = subparsers.add_parser(
        "check",
        help="validate configuration files",
        description="Validate configuration files and the certificates and keys they name. "
        "Every problem is printed on a line of its own: file, key, what was expected.",
        **examples(
            "relaygate check /etc/relaygate/dmz.toml",
            "relaygate check site/*/*.toml",
            "relaygate check --no-identity internal.toml    # without its keys, elsewhere",
            status="0 if every file is good, 2 if not",
        ),
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path)
    parser.add_argument(
        "--kind",
        choices=("dmz", "internal"),
        help="what the files are for (default: as the sections of each show)",
    )
    parser.add_argument(
        "--no-identity",
        action="store_true",
        help="do not read certificate, key and CA (to check a file on another machine)",
    )
    parser.set_defaults(func=_check)


def _check(arguments: argparse.Namespace) -> int:
    status = 0
    for file in arguments.files:
        try:
            summary = _summary(file, arguments.kind, with_identity=not arguments.no_identity)
        except ConfigError as error:
            status = _FAILED
            for problem in error.problems:
                print(problem, file=sys.stderr)
        else:
            print(f"{printable(str(file))}: ok ({summary})")
    return status


def _summary(file: Path, kind: Literal["dmz", "internal"] | None, *, with_identity: bool) -> str:
    """Return what the file describes, in a few words; raises ConfigError."""
    config = load(file, kind)
    if isinstance(config, DMZConfig):
        parts = [
            "dmz node",
            counted(len(config.nodes), "node"),
            counted(len(config.listen), "listen rule"),
        ]
        role = Role.DMZ
    else:
        parts = [
            "internal node",
            counted(len(config.gateways), "gateway"),
            counted(len(config.services), "service"),
        ]
        if config.forwards:
            number = len(config.forwards)
            parts.append(f"{number} {'entry' if number == 1 else 'entries'}")
        role = Role.INTERNAL
        if with_identity:
            _check_services(file, config)
    if with_identity:
        parts[0] += f' "{_identity_name(file, config, role)}"'
    return ", ".join(parts)


def _identity_name(file: Path, config: DMZConfig | InternalConfig, role: Role) -> str:
    paths = config.identity
    now = datetime.now(UTC)
    try:
        return load_identity(paths.certificate, paths.key, paths.ca, role=role, now=now).name
    except IdentityError as error:
        raise ConfigError((Problem(str(file), "identity", str(error)),)) from error


def _check_dashboard(dashboard: DashboardConfig | None) -> None:
    """Raise IdentityError if the dashboard's token or certificate cannot be used."""
    if dashboard is None:
        return
    if dashboard.token_file is not None:
        load_token(dashboard.token_file)
    if dashboard.certificate is not None and dashboard.key is not None:
        load_service_key(dashboard.certificate, dashboard.key, now=datetime.now(UTC))


def _check_services(file: Path, config: InternalConfig) -> None:
    """Raise ConfigError with every service, and the dashboard, whose files cannot be used."""
    problems = []
    for service in config.services:
        own = (service.tls.certificate, service.tls.key) if service.tls else ()
        more = service.tls.more_pairs if service.tls else ()
        try:
            load_service_files(
                service.name,
                own,
                service.backend_tls.ca,
                now=datetime.now(UTC),
                more=more,
                cookie_key=service.http.cookie_key if service.http else None,
            )
        except IdentityError as error:
            problems.append(Problem(str(file), "service", str(error)))
    try:
        _check_dashboard(config.dashboard)
    except IdentityError as error:
        problems.append(Problem(str(file), "admin", str(error)))
    if problems:
        raise ConfigError(tuple(problems))
