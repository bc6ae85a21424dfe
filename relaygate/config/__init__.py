"""Configuration: TOML files become frozen, checked objects, or a list of every mistake.

Paths in a file count from the folder that it lies in.  Durations are in seconds and their
fields end in ``_s``.  Of the files that paths lead to only lists of networks are read here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from relaygate.config.admin import DashboardConfig
from relaygate.config.balancing import BackendConfig, HealthConfig, PersistenceConfig
from relaygate.config.dmz import DMZConfig, build_dmz
from relaygate.config.ftp import BackendTLSConfig, FTPConfig, KeyFiles
from relaygate.config.http import HTTPConfig, RouteConfig
from relaygate.config.internal import (
    BansConfig,
    GatewayConfig,
    InternalConfig,
    ServiceConfig,
    build_internal,
)
from relaygate.config.schema import ConfigError, Problem, printable, read_toml
from relaygate.config.shared import IdentityFiles, LogConfig

__all__ = [
    "BackendConfig",
    "BackendTLSConfig",
    "BansConfig",
    "ConfigError",
    "DMZConfig",
    "DashboardConfig",
    "FTPConfig",
    "GatewayConfig",
    "HTTPConfig",
    "HealthConfig",
    "IdentityFiles",
    "InternalConfig",
    "KeyFiles",
    "LogConfig",
    "PersistenceConfig",
    "Problem",
    "RouteConfig",
    "ServiceConfig",
    "load",
    "load_dmz",
    "load_internal",
    "printable",
]


def load_dmz(path: Path) -> DMZConfig:
    """Read the configuration of a DMZ node; raises ConfigError with every mistake in it."""
    return build_dmz(path, _read(path, "dmz"))


def load_internal(path: Path) -> InternalConfig:
    """Read the configuration of an internal node; raises ConfigError likewise."""
    return build_internal(path, _read(path, "internal"))


def load(path: Path, kind: Literal["dmz", "internal"] | None = None) -> DMZConfig | InternalConfig:
    """Read a configuration of the *kind* given, or of the kind that its sections show.

    :raises ConfigError: with every mistake; also if the sections show neither kind, or both.
    """
    values = read_toml(path) if kind is None else _read(path, kind)
    if kind is None:
        dmz, internal = _shown_kinds(values)
        if dmz == internal:
            nothing = "none of them" if values else "nothing but blanks and comments"
            found = "some of both" if dmz else nothing
            message = (
                "expected [uplink] and [policy] (a DMZ node) or [[gateway]] and [[service]] "
                f"(an internal node), found {found}"
            )
            raise ConfigError((Problem(str(path), "", message),))
        kind = "dmz" if dmz else "internal"
    return build_dmz(path, values) if kind == "dmz" else build_internal(path, values)


def _shown_kinds(values: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a file has sections that only a DMZ node's has, and such of an internal node's."""
    dmz = bool({"uplink", "policy"} & values.keys())
    return dmz, bool({"gateway", "service", "forward"} & values.keys())


def _read(path: Path, kind: Literal["dmz", "internal"]) -> dict[str, Any]:
    """The tables of a file; raises ConfigError, also if it is plainly of the other kind."""
    values = read_toml(path)
    dmz, internal = _shown_kinds(values)
    if (kind == "internal" and dmz and not internal) or (kind == "dmz" and internal and not dmz):
        names = {"dmz": "a DMZ node", "internal": "an internal node"}
        found = names.pop("dmz" if dmz else "internal")
        (wanted,) = names.values()
        program = "relaygate-dmz" if dmz else "relaygate-internal"
        message = f"expected the file of {wanted}, found that of {found}, which {program} reads"
        raise ConfigError((Problem(str(path), "", message),))
    return values
