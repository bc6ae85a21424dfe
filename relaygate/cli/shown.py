"""How the commands speak: examples in their help, tables that fit, colours where they belong."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from relaygate.config import printable

__all__ = ["coloured", "counted", "examples", "fold", "lasting", "print_table"]

# Of the texts in helps, in columns.
_WIDTH = 79
_ASKS = "0 done; 1 the node gave no answer, or refused; 2 wrong usage, or a file is wrong"


def examples(*lines: str, status: str = _ASKS) -> dict[str, Any]:
    """What a parser takes so that its help ends with examples and the meaning of exit statuses."""
    shown = "\n".join(f"  {line}" for line in lines)
    return {
        "epilog": f"examples:\n{shown}\n\nExit status: {status}.",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def fold(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Fold the descriptions of *commands*: argparse folds them and the examples, or neither."""
    for parser in commands.choices.values():
        if parser.description is not None:
            parser.description = textwrap.fill(parser.description, _WIDTH)


def coloured() -> bool:
    """Whether people see colours: on a terminal that has them, unless NO_COLOR says no."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout.isatty()


def counted(number: int, word: str) -> str:
    """So many of what *word* is one of."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def lasting(seconds: float) -> str:
    """How long *seconds* are, for people; in the units of the dashboard."""
    for most, unit, word in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86_400:.0f} days"


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """
    Print columns as wide as they need to be; numbers stand to the right.

    On a terminal that is narrower each row becomes a block, so that nothing is cut off or folded.
    """
    table = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(heads), *table]) for at in range(len(heads))]
    wide = sum(widths) + 2 * (len(widths) - 1)
    if sys.stdout.isatty() and wide > shutil.get_terminal_size().columns:
        _print_blocks(heads, table)
        return
    for line in [list(heads), *table]:
        cells = (
            cell.rjust(width) if cell.isdigit() else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        )
        print("  ".join(cells).rstrip())


def _print_blocks(heads: Sequence[str], table: Iterable[Sequence[str]]) -> None:
    width = max(len(head) for head in heads)
    for row in table:
        for at, (head, cell) in enumerate(zip(heads, row, strict=True)):
            print(f"{'  ' if at else '- '}{head.ljust(width)}  {cell}".rstrip())
