"""How answers are printed: a table for people, JSON lines for programs."""

import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphjobs.errors import ConfigurationError

_PIPE_WIDTH: Final = 20_000
_ID: Final = 36
"""The letters of a UUID."""


def print_lines(records: Iterable[dict[str, Any]]) -> None:
    """Prints JSON, an object a line."""
    print_texts(json.dumps(record) for record in records)


def print_texts(texts: Iterable[str]) -> None:
    """Prints lines."""
    with _to_stdout():
        for text in texts:
            typer.echo(text)


def print_table(headings: Iterable[str], rows: Iterable[Iterable[object]], *, whole: Collection[str] = ()) -> None:
    """Prints a table; what has no room is broken, but not in the columns that are to be copied whole."""
    # A program that reads a table has no width to fit it into, and a name that was broken in two cannot be found.
    console = Console(width=None if sys.stdout is not None and sys.stdout.isatty() else _PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(
            heading, overflow="fold", no_wrap=heading in whole, min_width=_ID if heading in whole else None
        )
    for row in rows:
        # As Text: what somebody named is no markup.
        table.add_row(*(Text(str(cell)) for cell in row))
    with _to_stdout():
        console.print(table)


@contextmanager
def _to_stdout() -> Iterator[None]:
    """Lets a command end as it would where nobody reads on, as behind `head`: its exit code tells what was done."""
    try:
        yield
    except OSError as error:
        # Python writes what is left once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise ConfigurationError(f"standard output cannot be written: {error.strerror}") from None
