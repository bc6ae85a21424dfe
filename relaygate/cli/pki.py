"""`relaygate pki`: make a CA, issue and renew node certificates, show what a PEM file is.

Exit status: 0 done; 1 `show` found something that needs care; 2 nothing was done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from relaygate import identity, pki
from relaygate.cli.shown import examples
from relaygate.identity import IdentityError, Role
from relaygate.pki import PKIError

_DONE = "0 done; 2 nothing was done, and why"
_SHOWN = "0 all is well; 1 a file needs care; 2 a file cannot be read, or nothing was done"
_MAX_SHOWN = 200
"""A subject's length is bounded by the file alone; a line on a terminal should be shorter."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `pki` command. Each of its actions sets `func`, which returns the exit status."""
    parser = subparsers.add_parser(
        "pki",
        help="make the CA, issue and renew node certificates, show PEM files",
        description="Make the deployment's CA, issue and renew the nodes' certificates, and say "
        "what PEM files are.",
        **examples(
            "relaygate pki ca --dir ca",
            "relaygate pki issue node-a --role internal --dir ca",
            "relaygate pki show ca/*.pem",
            status=_SHOWN,
        ),
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    ca = actions.add_parser(
        "ca",
        help="make the deployment's CA: ca.pem and ca.key",
        **examples(
            "relaygate pki ca --dir ca",
            "relaygate pki ca --dir ca --passphrase-file secret",
            status=_DONE,
        ),
    )
    _add_ca_options(ca)
    ca.add_argument("--name", help="the CA's common name (default: relaygate CA and the date)")
    _add_days(ca, pki.CA_DAYS)
    ca.set_defaults(func=_guarded(_ca))

    issue = actions.add_parser(
        "issue",
        help="make a node's certificate and key",
        **examples(
            "relaygate pki issue dmz --role dmz --dir ca --out site/dmz",
            "relaygate pki issue node-a --role internal --dir ca --out site/node-a",
            status=_DONE,
        ),
    )
    issue.add_argument("name", metavar="NAME", help="the node's name, as in node-a")
    issue.add_argument("--role", required=True, choices=[role.value for role in Role])
    _add_ca_options(issue)
    issue.add_argument(
        "--out", type=Path, metavar="DIR", help="where the files go (default: the CA's folder)"
    )
    _add_days(issue, pki.NODE_DAYS)
    issue.set_defaults(func=_guarded(_issue))

    renew = actions.add_parser(
        "renew",
        help="replace certificates and keys by new ones",
        **examples("relaygate pki renew site/*/node-?.pem --dir site/ca", status=_DONE),
    )
    renew.add_argument(
        "files", nargs="+", type=Path, metavar="FILE.pem", help="its key is FILE.key beside it"
    )
    _add_ca_options(renew)
    _add_days(renew, pki.NODE_DAYS)
    renew.set_defaults(func=_guarded(_renew))

    show = actions.add_parser(
        "show",
        help="say what PEM files are; exit 1 if one needs care",
        **examples(
            "relaygate pki show /etc/relaygate/*.pem",
            "relaygate pki show --json node-a.pem | jq '.[0]'",
            status=_SHOWN,
        ),
    )
    show.add_argument("files", nargs="+", type=Path, metavar="FILE")
    show.add_argument("--json", action="store_true", help="one JSON array")
    show.set_defaults(func=_show)


def _add_ca_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", required=True, type=Path, metavar="DIR", help="the folder of ca.pem and ca.key"
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="its first line encrypts ca.key (mode 600; default: ca.key is not encrypted)",
    )


def _add_days(parser: argparse.ArgumentParser, days: int) -> None:
    parser.add_argument("--days", type=int, default=days, help="validity (default: %(default)s)")


def _guarded(
    action: Callable[[argparse.Namespace], None],
) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        try:
            action(arguments)
        except (PKIError, IdentityError) as error:
            print(f"relaygate pki: {error}", file=sys.stderr)
            return 2
        return 0

    return run


def _now() -> datetime:
    return datetime.now(UTC)


def _passphrase(arguments: argparse.Namespace) -> bytes | None:
    path: Path | None = arguments.passphrase_file
    if path is None:
        return None
    what = identity.file_label("passphrase file", path)
    lines = identity.read_secret(what, path).splitlines()
    if not lines or not lines[0]:
        raise PKIError(f"{what} has an empty first line: the passphrase stands there")
    return lines[0]


def _ca(arguments: argparse.Namespace) -> None:
    now = _now()
    name = f"relaygate CA {now:%Y-%m-%d}" if arguments.name is None else arguments.name
    ca = pki.create_ca(arguments.dir, name, now, arguments.days, _passphrase(arguments))
    print(f"made ca.pem and ca.key in {_path(arguments.dir)}: {name}, {_until(ca)}")
    print("keep ca.key off the nodes; every node needs ca.pem")


def _issue(arguments: argparse.Namespace) -> None:
    ca = pki.load_ca(arguments.dir, _passphrase(arguments))
    name, role = arguments.name, Role(arguments.role)
    out: Path = arguments.dir if arguments.out is None else arguments.out
    made = pki.create_node(ca, name, role, _now(), arguments.days, out)
    print(f"made {name}.pem and {name}.key in {_path(out)}: {role.phrase}, {_until(made)}")
    print(f"carry {name}.pem, {name}.key and ca.pem to the node, and nothing else")


def _renew(arguments: argparse.Namespace) -> None:
    ca = pki.load_ca(arguments.dir, _passphrase(arguments))
    for renewal in pki.renew_nodes(ca, arguments.files, _now(), arguments.days):
        print(
            f"renewed {_path(renewal.path)}: {renewal.name}, {renewal.role.phrase},"
            f" {_until(renewal.made)}"
        )
        if renewal.new_ca:
            print(
                f"note: {_path(renewal.path)} had another CA before; every node's ca.pem must"
                " hold the new one",
                file=sys.stderr,
            )


def _until(made: pki.CertifiedKey) -> str:
    return f"valid until {_time(made.certificate.not_valid_after_utc)}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _path(path: Path) -> str:
    return _printable(str(path))


def _printable(text: str) -> str:
    """Text with everything escaped that could move a cursor or start a line."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


@dataclass
class _Item:
    """One certificate or key in a file, as `show` prints it."""

    kind: str
    facts: dict[str, str | int]
    warnings: list[str] = field(default_factory=list)


def _show(arguments: argparse.Namespace) -> int:
    now = _now()
    status = 0
    shown: list[dict[str, object]] = []
    for path in arguments.files:
        try:
            items = _items(path, now)
        except IdentityError as error:
            status = 2
            shown.append({"file": str(path), "error": str(error)})
            if not arguments.json:
                print(f"relaygate pki: {error}", file=sys.stderr)
            continue
        for item in items:
            if item.warnings:
                status = max(status, 1)
            shown.append(
                {"file": str(path), "kind": item.kind, **item.facts, "warnings": item.warnings}
            )
            if not arguments.json:
                _print_item(path, item)
    if arguments.json:
        # JSON lets DEL through as it is; a terminal should not get it.
        print(json.dumps(shown, indent=2).replace("\x7f", "\\u007f"))
    return status


def _print_item(path: Path, item: _Item) -> None:
    print(f"{_path(path)}: {item.kind}")
    for key, value in item.facts.items():
        text = str(value)
        cut = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
        print(f"  {key.replace('_', ' '):<17} {_printable(cut)}")
    for warning in item.warnings:
        print(f"  warning: {warning}")


def _items(path: Path, now: datetime) -> list[_Item]:
    what = identity.file_label("file", path)
    data, mode = identity.read_file(what, path)
    if b"PRIVATE KEY-----" in data:
        return [_key_item(what, data, mode)]
    warnings = []
    if mode & 0o002:
        warnings.append(f"anyone may change the file (mode {mode:04o})")
    return [
        _certificate_item(what, certificate, now, warnings)
        for certificate in identity.parse_certificates(what, data)
    ]


def _key_item(what: str, data: bytes, mode: int) -> _Item:
    warnings = []
    if mode & 0o077:
        warnings.append(f"the key is open to group or others (mode {mode:04o}): chmod 600")
    if b"-----BEGIN CERTIFICATE-----" in data:
        warnings.append("a certificate is in the same file: keep keys in files of their own")
    # PKCS8 says it in its first line, the older OpenSSL form in a header.
    if b"-----BEGIN ENCRYPTED" in data or b"4,ENCRYPTED" in data:
        return _Item("encrypted private key", {}, warnings)
    key = identity.parse_key(what, data)
    pin = hashlib.sha256(identity.public_key_der(key.public_key()))
    return _Item("private key", {"public_key_sha256": _colons(pin.digest())}, warnings)


def _certificate_item(
    what: str, certificate: x509.Certificate, now: datetime, file_warnings: list[str]
) -> _Item:
    warnings = list(file_warnings)
    facts: dict[str, str | int] = {}
    kind = "CA certificate"
    if not identity.is_ca(what, certificate):
        try:
            facts["name"] = identity.node_name(what, certificate)
            facts["role"] = identity.node_role(what, certificate).value
            kind = "node certificate"
        except IdentityError:
            facts.clear()
            kind = "certificate, not a node's"
    before, after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    pin = hashlib.sha256(identity.public_key_der(certificate.public_key()))
    facts |= {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "not_before": _time(before),
        "not_after": _time(after),
        "days_left": (after - now).days,
        "sha256": _colons(certificate.fingerprint(hashes.SHA256())),
        "public_key_sha256": _colons(pin.digest()),
    }
    try:
        identity.check_dates("it", certificate, now, cure="renew it")
    except IdentityError as error:
        warnings.append(str(error))
    return _Item(kind, facts, warnings)


def _colons(digest: bytes) -> str:
    return digest.hex(":").upper()
