"""
A node's figures in the text format of Prometheus, version 0.0.4.

They are made of what ``relaygate status`` answers, so that an operator and a monitor never see two
truths.  The format is a dozen lines; a library for it would bring a registry, a process collector
and an HTTP server that nobody needs here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_NOT_IN_NAMES = re.compile(r"[^a-z0-9_]")
# Figures of a DMZ node that only rise; the others go up and down.
_RISING = re.compile(r"turned_away_(.*)|proxy_headers_failed|second_nodes_(?:asked|won)")


class Families:
    """Metrics as they are collected: each has a kind, a help text, and samples with labels."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str, list[str]]] = {}

    def add(self, name: str, kind: str, text: str, value: float, /, **labels: str) -> None:
        """One sample; *kind* is ``gauge`` or ``counter``."""
        full = f"relaygate_{name}"
        shown = ",".join(f'{key}="{told.translate(_ESCAPES)}"' for key, told in labels.items())
        _, _, samples = self._families.setdefault(full, (kind, text, []))
        samples.append(f"{full}{{{shown}}} {value}" if shown else f"{full} {value}")

    def __bytes__(self) -> bytes:
        lines: list[str] = []
        for name, (kind, text, samples) in self._families.items():
            lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples)
        return ("\n".join(lines) + "\n").encode()


def metrics(status: Mapping[str, Any], bans: int, banned_by_rule: int) -> bytes:
    """The metrics of an internal node whose *status* is what its admin socket answers."""
    made = Families()
    software = status["software"]
    made.add("info", "gauge", "1", 1, node=status["node"], software=software)
    made.add("uptime_seconds", "gauge", "Since the start.", status["uptime_seconds"])
    made.add(
        "certificate_expiry_timestamp_seconds",
        "gauge",
        "When the node's certificate ends.",
        datetime.fromisoformat(status["certificate_ends"]).timestamp(),
    )
    made.add("bans", "gauge", "Bans that hold.", bans)
    made.add("bans_by_rule_total", "counter", "Bans that a rule has set.", banned_by_rule)
    for service in status["services"]:
        _service(made, service)
    for entry in status.get("forwards", ()):
        _counts(made, "entry_", entry, entry=entry["name"])
    for gateway in status["gateways"]:
        _gateway(made, gateway)
    return bytes(made)


def _counts(made: Families, place: str, row: Mapping[str, Any], **labels: str) -> None:
    made.add(f"{place}sessions", "gauge", "Sessions that run.", row["sessions"], **labels)
    for what in ("opened", "refused"):
        text = f"Sessions that were {what}."
        made.add(f"{place}sessions_{what}_total", "counter", text, row[what], **labels)
    for way, key in (("in", "bytes_in"), ("out", "bytes_out")):
        text = "Bytes moved, those of running sessions included; in is towards the servers."
        made.add(f"{place}bytes_total", "counter", text, row[key], **labels, direction=way)


def _service(made: Families, service: Mapping[str, Any]) -> None:
    name = service["name"]
    _counts(made, "", service, service=name)
    for backend in _dicts(service.get("backends", ())):
        labels = {"service": name, "backend": backend["address"]}
        up = int(backend.get("state", "up") == "up")
        made.add("backend_up", "gauge", "Whether it takes sessions.", up, **labels)
        for key in ("sessions", "opened", "failed"):
            if key in backend:
                suffix, kind = ("", "gauge") if key == "sessions" else ("_total", "counter")
                text = f"Sessions there: {key}."
                made.add(f"backend_{key}{suffix}", kind, text, backend[key], **labels)


def _gateway(made: Families, gateway: Mapping[str, Any]) -> None:
    name = gateway["name"]
    up = int(gateway["state"] == "up")
    made.add("gateway_up", "gauge", "Whether the uplink stands.", up, gateway=name)
    refused = len(gateway["refused"])
    made.add("gateway_refused", "gauge", "Services that it refuses.", refused, gateway=name)
    for kind, idle in gateway["idle_channels"].items():
        text = "Data channels at rest."
        made.add("gateway_idle_channels", "gauge", text, idle, gateway=name, kind=kind)
    report = gateway["report"]
    if report is None:
        return
    for figure, value in report["figures"].items():
        figure = _NOT_IN_NAMES.sub("_", figure.lower())
        rising = _RISING.fullmatch(figure)
        if rising is None:
            made.add(f"dmz_{figure}", "gauge", "See docs/operations.md.", value, gateway=name)
        elif rising[1]:
            text = "Connections turned away."
            labels = {"gateway": name, "reason": rising[1]}
            made.add("dmz_turned_away_total", "counter", text, value, **labels)
        else:
            text = "See docs/operations.md."
            made.add(f"dmz_{figure}_total", "counter", text, value, gateway=name)
    for listener in report["listeners"]:
        labels = {"gateway": name, "service": listener["service"]}
        _counts(made, "dmz_service_", listener, **labels)
        text = "Internal nodes that offer it."
        made.add("dmz_service_nodes", "gauge", text, listener["nodes"], **labels)


def _dicts(rows: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    return (row for row in rows if isinstance(row, Mapping))
