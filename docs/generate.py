"""Makes the documents that are made from the code: python docs/generate.py [FOLDER]

``reference.md`` from the schema that checks configurations, ``troubleshooting.md`` from the error
table and the log's formats, ``commands.md`` from the command's parser; they are not kept.  The status
is 1 if a line of the log has no words in ``events.py``, or words are there for none.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

from events import CURES, EVENTS  # noqa: E402

from relaygate.cli.main import make_parser  # noqa: E402
from relaygate.config import balancing, dmz, forward, ftp, http, internal, schema, shared  # noqa: E402
from relaygate.errors import REFUSALS  # noqa: E402

PACKAGE = DOCS.parent / "relaygate"
HINT = "<!-- made by docs/generate.py: do not change it here -->\n"

# Where the defaults of a table's keys stand.
DEFAULTS: dict[str, type[Any]] = {
    "policy": dmz.DMZConfig,
    "uplink": dmz.DMZConfig,
    "stop": dmz.DMZConfig,
    "log": shared.LogConfig,
    "gateway": internal.GatewayConfig,
    "service": internal.ServiceConfig,
    "bans": internal.BansConfig,
    "service.persistence": balancing.PersistenceConfig,
    "service.health": balancing.HealthConfig,
    "service.backend_tls": ftp.BackendTLSConfig,
    "service.ftp": ftp.FTPConfig,
    "service.http": http.HTTPConfig,
    "service.http.route": http.RouteConfig,
    "forward": forward.ForwardConfig,
    "forward.ftp": forward.ForwardFTPConfig,
    "forward.user": forward.UserConfig,
    "forward.partner_tls": ftp.BackendTLSConfig,
}

# What holds without a key where no default says it; "none" for all others.
WITHOUT = {
    "policy.listen": "nothing may be opened; it or `connect` is required",
    "policy.connect": "nothing may be dialled",
    "policy.connect_from": "as it is routed",
    "log.file": "standard output",
    "service.allow": "everybody may come",
    "service.deny": "nobody is turned away",
    "service.idle_timeout": "no limit",
    "service.health.http_host": "the backend's address",
    "service.backend_tls.ca": "required unless `mode` is off",
    "service.backend_tls.name": "the backend's host",
    "service.ftp.public_address": "the address that the client reached",
    "service.ftp.tls": "by the protocol, and whether there is a `[service.tls]`",
    "service.ftp.data_tls": "as `tls`",
    "service.http.cookie_key": "made of the service's key",
    "service.http.route.hosts": "every host",
    "forward.target": "required for `tcp` and `ftp`",
    "forward.destinations": "required for `socks5` and `http-connect`",
    "forward.allow": "required beyond a loopback address, or users",
    "forward.idle_timeout": "no limit",
    "forward.user.destinations": "those of the entry",
    "forward.bind.public_address": "the DMZ node's own",
    "forward.partner_tls.ca": "required unless `mode` is off",
    "forward.partner_tls.name": "the target's host",
    "forward.ftp.public_address": "the DMZ node's own",
    "forward.ftp.active_ports": "no active mode",
    "forward.ftp.data_ports": 'required for `tls = "pass"`',
    "admin.socket": "no socket; it or `listen` is required",
    "admin.listen": "no dashboard",
    "admin.token_file": "required beyond a loopback address; without it nothing can be changed",
    "admin.certificate": "required beyond a loopback address",
    "admin.key": "required beyond a loopback address",
}


def reference() -> str:
    """Every key of both files: what it takes, and what holds without it."""
    parts = [
        HINT,
        "# Every key\n\nMade from the code that checks the files. What the keys mean, and what belongs"
        " together, is in [configuration](configuration.md), [FTP](ftp.md) and [HTTP](http.md).\n"
        "`relaygate check FILE` says all that is wrong in a file.\n",
        "## DMZ node\n",
        *_tables("", dmz.DMZ_FILE, many=False),
        "## Internal node\n",
        *_tables("", internal.INTERNAL_FILE, many=False),
    ]
    return "\n".join(parts)


def _tables(path: str, table: schema.Table, *, many: bool) -> Iterator[str]:
    inner: list[tuple[str, schema.Table, bool]] = []
    rows = []
    defaults = _defaults(DEFAULTS.get(path))
    for key in table.keys:
        where = f"{path}.{key.name}" if path else key.name
        node = key.node
        if isinstance(node, schema.Tables):
            inner.append((where, node.table, True))
        elif isinstance(node, schema.Table):
            inner.append((where, node, False))
        else:
            default = "required" if key.required else defaults.get(key.field or key.name, "")
            default = default or WITHOUT.get(where, "none")
            rows.append(f"| `{key.name}` | {_takes(node)} | {default} |")
    if path:
        yield f"### `{'[[' if many else '['}{path}{']]' if many else ']'}`\n"
    if rows:
        yield "\n".join(["| key | takes | without it |", "| --- | --- | --- |", *rows]) + "\n"
    for where, below, each in inner:
        yield from _tables(where, below, many=each)


def _defaults(source: type[Any] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for field in dataclasses.fields(source) if source else ():
        value = field.default
        if value is dataclasses.MISSING or value is None or value == ():
            continue
        if isinstance(value, bool):
            shown = str(value).lower()
        elif isinstance(value, float):
            shown = f"{value:g}"
        else:
            shown = json.dumps(value) if isinstance(value, str | int | tuple) else str(value)
        found[field.name] = f"`{shown}`"
    return found


def _takes(node: Any) -> str:
    what = getattr(node, "what", None)
    if what is None and hasattr(node, "plural"):
        item = getattr(node.item, "what", "")
        what = f"1 to {node.limit} {node.plural}" + (f", each {item}" if item else "")
    elif what is None and hasattr(node, "item"):
        what = f"{node.item.what}, or a table of them by gateway"
    return (what or "see configuration").replace("|", "\\|")


def troubleshooting() -> str:
    """Every refusal and every line of the log."""
    parts = [
        HINT,
        "# Troubleshooting\n\nFirst ask the program itself: `relaygate doctor [SERVICE]` on an internal"
        " node walks the whole way\nand says for each hop what is wrong and what to do"
        " ([operations](operations.md)). `relaygate check FILE` does so for\na file. Then look for the"
        " session's id in the logs of both nodes.\n",
        "## Why a session was refused\n",
        "The number crosses the data channel; the words stand in the log; a client reads what its"
        " protocol has for it.\n",
        "| number | meaning | what to do | cause | FTP clients read | SSH clients read |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for code, refusal in sorted(REFUSALS.items()):
        made = refusal()
        words = [_client(made, protocol) for protocol in ("ftp", "ssh")]
        parts.append(
            f"| {code} | {made.meaning} | {CURES.get(code, '')} | `{made.cause.value}` "
            f"| {words[0]} | {words[1]} |"
        )
    parts += [
        "\n## What stands in the log\n",
        "Each line that a node can write, but for those of level `debug`. Words in braces stand for"
        " what differs.\n",
        "| line | it means | what to do |",
        "| --- | --- | --- |",
    ]
    for line, (meaning, cure) in EVENTS.items():
        shown = line.replace("|", "\\|")
        parts.append(f"| `{shown}` | {meaning} | {cure or 'nothing'} |")
    return "\n".join(parts) + "\n"


def _client(refusal: Any, protocol: str) -> str:
    words = refusal.words(protocol).decode("ascii", "backslashreplace").strip()
    return f"`{words}`" if words else "nothing"


def logged() -> set[str]:
    """Every line above ``debug`` that the product's source has."""
    found = {"session ID open", "session ID end"}
    for path in sorted(PACKAGE.rglob("*.py")):
        if {"test", "demo", "cli"} & set(path.relative_to(PACKAGE).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = ast.unparse(node.func)
            if name == "log_event" and isinstance(node.args[1], ast.Constant):
                found.add(f"session ID {node.args[1].value}")
            elif _logs(name) and isinstance(node.args[0], ast.Constant):
                text = node.args[0].value
                if isinstance(text, str):
                    found.add(text)
    return found - {"{log_line}"}


def _logs(name: str) -> bool:
    head, _, last = name.rpartition(".")
    if last == "write":
        return not head
    return head.endswith("log") and last in ("info", "warn", "error", "critical", "failure")


def commands() -> str:
    """The command and its subcommands, as they describe themselves."""
    parts = [HINT, "# The command `relaygate`\n"]
    parts += _helps(make_parser(), 1)
    return "\n".join(parts)


def _helps(parser: argparse.ArgumentParser, depth: int) -> Iterator[str]:
    if depth > 1:
        yield f"## `{parser.prog}`\n"
    # Not as wide as this terminal happens to be.
    parser.formatter_class = _fixed(parser.formatter_class)
    yield f"```text\n{parser.format_help().rstrip()}\n```\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                yield from _helps(below, depth + 1)


def _fixed(base: Any) -> Any:
    return lambda prog: base(prog, width=96, max_help_position=28)


def main() -> int:
    """Write the documents, and say what is missing."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    folder.mkdir(exist_ok=True)
    (folder / "reference.md").write_text(reference())
    (folder / "troubleshooting.md").write_text(troubleshooting())
    (folder / "commands.md").write_text(commands())
    wrong = [f"docs/events.py: no words for {line!r}" for line in sorted(logged() - set(EVENTS))]
    wrong += [f"docs/events.py: nobody logs {line!r}" for line in sorted(set(EVENTS) - logged())]
    differ = set(REFUSALS) ^ set(CURES)
    wrong += [
        f"docs/events.py: the refusal {code} has no cure, or is none" for code in sorted(differ)
    ]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
