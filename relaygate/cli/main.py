"""The ``relaygate`` command: one parser, one function for each subcommand.

A subcommand's module has ``add_parser(subparsers)``, which describes it and sets ``func`` to
the function that does the work and returns the exit status.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from relaygate import __version__
from relaygate.cli import bans, check, completion, doctor, init, node, pki, sessions, transfers
from relaygate.cli.shown import fold

__all__ = ["main", "make_parser", "run"]

_USAGE = 2
# What a shell reports for a program that SIGINT or SIGPIPE ended: 128 and the signal's number.
_INTERRUPTED = 130
_BROKEN_PIPE = 141

_EPILOG = """\
first steps:
  relaygate init site       everything for a new deployment, by questions
  relaygate check FILE      is a configuration right?
  relaygate status          what does the running node do?
  relaygate doctor          what is wrong, at which hop, and what to do?

"relaygate COMMAND --help" has examples. Exit status: 0 done; 1 something needs care, or the running
node refused; 2 wrong usage, or a file that cannot be used; 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 is a usage error or a refused file."""
    try:
        parser = make_parser()
        if not (sys.argv[1:] if argv is None else argv):
            parser.print_help(sys.stderr)
            return _USAGE
        arguments = parser.parse_args(argv)
        status: int = arguments.func(arguments)
        # Output that nobody takes shows here, and not when the interpreter is half gone.
        print(end="", flush=True)
    except SystemExit as stop:
        # argparse ends the program itself after --help and after a usage error.
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and must not complain then.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return _BROKEN_PIPE
    return status


def run() -> None:
    """Be the console script."""
    # Names come from partners, and a terminal need not have all of their letters.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command with all of its subcommands."""
    parser = argparse.ArgumentParser(
        prog="relaygate",
        description="Tools for relaygate, a DMZ gateway for file transfer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"relaygate {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    init.add_parser(subparsers)
    pki.add_parser(subparsers)
    check.add_parser(subparsers)
    node.add_parser(subparsers)
    sessions.add_parser(subparsers)
    bans.add_parser(subparsers)
    doctor.add_parser(subparsers)
    transfers.add_parser(subparsers)
    completion.add_parser(subparsers, make_parser)
    fold(subparsers)
    return parser
