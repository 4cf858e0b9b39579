"""Print results: tables for people, JSON lines for programs."""

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

from graphjobs.core.sanitizing import printable
from graphjobs.errors import ConfigurationError

_PIPE_WIDTH: Final = 20_000
_UUID_LENGTH: Final = 36


def print_lines(records: Iterable[dict[str, Any]]) -> None:
    """Print JSON, one object per line."""
    print_texts(json.dumps(record) for record in records)


def print_texts(texts: Iterable[str]) -> None:
    """Print lines."""
    with _to_stdout():
        for text in texts:
            echo(text)


def echo(text: object, *, err: bool = False) -> None:
    """Print a line that may contain stored or foreign text: what would control the terminal is replaced."""
    typer.echo(printable(str(text)), err=err)


def print_table(headings: Iterable[str], rows: Iterable[Iterable[object]], *, no_wrap: Collection[str] = ()) -> None:
    """Print a table. Cells that are too long are wrapped, except in the columns of `no_wrap`, which contain UUIDs."""
    # A pipe has no width, and a program could not find a name that was wrapped.
    console = Console(width=None if sys.stdout is not None and sys.stdout.isatty() else _PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        fixed = heading in no_wrap
        table.add_column(heading, overflow="fold", no_wrap=fixed, min_width=_UUID_LENGTH if fixed else None)
    for row in rows:
        # As Text: rich would interpret brackets of a name as markup.
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    with _to_stdout():
        console.print(table)


@contextmanager
def _to_stdout() -> Iterator[None]:
    """Ignore a closed pipe, as of `| head`, so that the exit code is the same as without it.

    Raises:
        ConfigurationError: standard output is not writable, for instance on a full disk.
    """
    try:
        yield
    except OSError as error:
        # Python flushes the rest again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise ConfigurationError(f"writing to standard output failed: {error.strerror}") from None
