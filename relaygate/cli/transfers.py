"""``relaygate transfers``: the audit log as records, for those who ask who moved what."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from relaygate.auditlog import TransferReader, TransferRecord
from relaygate.cli.shown import print_table
from relaygate.config import printable

__all__ = ["add_parser"]

_FAILED = 2
_COLUMNS = ("time", "service", "user", "client", "verb", "path", "bytes", "seconds", "outcome")
_BY = ("day", "service", "user", "client", "verb")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?")
# Where spreadsheets see a formula begin (OWASP, CSV injection): also in full width, and behind a
# semicolon, which divides cells where the comma is in numbers. Blanks and quotes may stand before
# it. Tabs and ends of lines are not printed as such.
_FORMULA = re.compile(r'(^|;)(?=[ "]*[=+\-@\uff1d\uff0b\uff0d\uff20])')

_EXAMPLES = """\
examples:
  relaygate transfers /var/log/relaygate/internal.log*
  relaygate transfers --by day,user --csv internal.log >november.csv
  journalctl -u relaygate-internal -o cat | relaygate transfers --failed -

Times are UTC; a transfer counts for the day on which it ended. Listings (LIST, NLST, MLSD) are
records as well: --verb leaves them out. SFTP is not opened by the gateway, so its files are in
the server's own log.

Exit status: 0 done; 2 a file could not be read.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command to the ``relaygate`` parser."""
    parser = subparsers.add_parser(
        "transfers",
        help="list and sum the file transfers that a log tells of",
        description="List and sum the FTP transfers in an internal node's log, in either format.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a log, also .gz; - is the input")
    parser.add_argument("--service", help="only of this service")
    parser.add_argument("--user", help="only of who logged in as this")
    parser.add_argument("--client", help="only from this address")
    parser.add_argument("--verb", help="only these commands, as in STOR,RETR")
    parser.add_argument("--since", type=_moment, metavar="TIME", help="2026-11-01 or with T08:00")
    parser.add_argument("--until", type=_moment, metavar="TIME", help="before this moment")
    parser.add_argument("--failed", action="store_true", help="only what did not end well")
    parser.add_argument(
        "--by", type=_keys, metavar="KEYS", help=f"sums, by one or more of {', '.join(_BY)}"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--csv", action="store_true", help="comma-separated, with a heading")
    output.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(func=_run)


class _Unreadable(Exception):
    """A file cannot be read; the text says which, and why."""


def _moment(text: str) -> str:
    if not _MOMENT.fullmatch(text):
        raise argparse.ArgumentTypeError("expected 2026-11-01 or 2026-11-01T08:00")
    return text


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(text.split(","))
    if not set(keys) <= set(_BY):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(_BY)}")
    return keys


def _run(arguments: argparse.Namespace) -> int:
    transfers = TransferReader()
    found = _chosen(arguments, transfers.read(_lines(arguments.files)))
    try:
        if arguments.by:
            columns: tuple[str, ...] = (*arguments.by, "transfers", "failed", "bytes", "seconds")
            rows: Iterable[tuple[object, ...]] = _sums(arguments.by, found)
        else:
            columns, rows = _COLUMNS, map(_record, found)
        _print(arguments, columns, rows)
    except _Unreadable as error:
        print(f"relaygate transfers: {printable(str(error))}", file=sys.stderr)
        return _FAILED
    if not transfers.found:
        print(
            "relaygate transfers: there is none in it: only FTP's stand in an internal node's log "
            "(level info); SFTP's are in the server's own",
            file=sys.stderr,
        )
    if transfers.unreadable:
        print(
            f"relaygate transfers: {transfers.unreadable} lines could not be understood",
            file=sys.stderr,
        )
    return 0


def _lines(files: Iterable[str]) -> Iterator[str]:
    for name in files:
        if name == "-":
            yield from sys.stdin
            continue
        try:
            with _open(name) as opened:
                yield from opened
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise _Unreadable(f"{name}: {reason}: name a node's log, or - for the input") from None


def _open(name: str) -> TextIO:
    if name.endswith(".gz"):
        return gzip.open(name, "rt", encoding="utf-8", errors="backslashreplace")
    return Path(name).open(encoding="utf-8", errors="backslashreplace")


def _chosen(
    arguments: argparse.Namespace, found: Iterable[TransferRecord]
) -> Iterator[TransferRecord]:
    verbs = set(arguments.verb.upper().split(",")) if arguments.verb else None
    for each in found:
        if (
            arguments.service in (None, each.service)
            and arguments.user in (None, each.user)
            and arguments.client in (None, each.client)
            and (verbs is None or each.verb in verbs)
            and (arguments.since is None or each.time >= arguments.since)
            and (arguments.until is None or each.time < arguments.until)
            and not (arguments.failed and each.ok)
        ):
            yield each


def _record(each: TransferRecord) -> tuple[object, ...]:
    outcome = "done" if each.ok else f"failed ({each.code})"
    return (
        each.time,
        each.service,
        each.user,
        each.client,
        each.verb,
        each.path,
        each.size,
        each.seconds,
        outcome,
    )


def _sums(keys: tuple[str, ...], found: Iterable[TransferRecord]) -> list[tuple[object, ...]]:
    """One row for each combination of *keys*, in order."""
    sums: dict[tuple[str, ...], list[float]] = {}
    for each in found:
        row = sums.setdefault(tuple(getattr(each, key) for key in keys), [0, 0, 0, 0.0])
        row[0] += 1
        row[1] += not each.ok
        row[2] += each.size
        row[3] += each.seconds
    return [
        (*key, int(count), int(failed), int(size), round(seconds, 3))
        for key, (count, failed, size, seconds) in sorted(sums.items())
    ]


def _print(
    arguments: argparse.Namespace, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]
) -> None:
    if arguments.json:
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True))).replace("\x7f", "\\u007f"))
    elif arguments.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in rows)
    else:
        print_table([column.upper() for column in columns], rows)


def _cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: names of files come from partners."""
    if not isinstance(value, str):
        return value
    return _FORMULA.sub(r"\1'", printable(value))
