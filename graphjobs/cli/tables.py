"""How answers are printed: a table for people, JSON lines for programs."""

import json
import sys
from collections.abc import Iterable
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH: Final = 20_000


def print_lines(records: Iterable[dict[str, Any]]) -> None:
    """Prints JSON, an object a line."""
    for record in records:
        typer.echo(json.dumps(record))


def print_table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Prints a table."""
    # A program that reads a table has no width to fit it into, and a name that was broken in two cannot be found.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        # As Text: what somebody named is no markup.
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)
