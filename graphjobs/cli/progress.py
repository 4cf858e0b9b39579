"""How long work is told of: a bar where somebody looks, else a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from graphjobs.backfill.extended import Part
from graphjobs.backfill.sources import Source

_TOLD_EVERY_SECONDS: Final = 5.0


class Tell(Protocol):
    """Tells how it stands; cheap enough to be called often."""

    def __call__(self, part: Part, documents: int, figures: Callable[[], str]) -> None:
        """Tells of a part, how many documents have been read in all, and what else there is to tell."""
        ...


@contextmanager
def reading(source: Source) -> Iterator[Tell]:
    """Tells of a source that is read."""
    console = Console(stderr=True)
    began = last = time.monotonic()
    first: int | None = None

    def told(documents: int, figures: Callable[[], str]) -> str:
        nonlocal first
        first = documents if first is None else first  # what an earlier run has read is no rate of this one
        a_second = (documents - first) / max(time.monotonic() - began, 1e-9)
        return f"{documents:,} documents, {a_second:,.0f} a second, {figures()}"

    if not console.is_terminal:

        def tell(part: Part, documents: int, figures: Callable[[], str]) -> None:
            nonlocal last
            line = told(documents, figures)
            if time.monotonic() - last >= _TOLD_EVERY_SECONDS:
                last = time.monotonic()
                typer.echo(f"{part.name}: {line}", err=True)

        yield tell
        return
    with Progress(
        TextColumn("{task.fields[part]}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    ) as bar:
        sizes = [part.size_bytes for part in source.parts]
        known = [size for size in sizes if size is not None]
        total = sum(known) if len(known) == len(sizes) else None
        task = bar.add_task("", total=total, part=source.parts[0].name)

        def show(part: Part, documents: int, figures: Callable[[], str]) -> None:
            read = sum(source.bytes_read(each) for each in source.parts)
            bar.update(task, completed=read, description=told(documents, figures), part=part.name)

        yield show
