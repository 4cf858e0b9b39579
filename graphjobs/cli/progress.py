"""Progress of long commands: a bar on a terminal, otherwise a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from typing_extensions import override

from graphjobs.backfill.extract.records import SourcePart
from graphjobs.backfill.extract.sources import Source
from graphjobs.cli.output import echo

if TYPE_CHECKING:
    from graphjobs.backfill.export import ExportReport

_LINE_EVERY_SECONDS: Final = 5.0
_BAR_WIDTH_MIN: Final = 10
_BAR_WIDTH_MAX: Final = 40
_OTHER_COLUMNS_WIDTH: Final = 52
"""The width of everything but the bar, in characters."""


class ProgressCallback(Protocol):
    """Shows the progress of a source. It is cheap enough for frequent calls."""

    def __call__(self, part: SourcePart, documents: int, figures: Callable[[], str]) -> None:
        """Show the current part, the number of documents read in all, and further figures."""
        ...


class _Renderer(Protocol):
    def __call__(self, name: str, line: str, *, done: int, total: int | None) -> None:
        """Show what is processed and how much of it; a total of None is unknown."""
        ...


@contextmanager
def reading(source: Source) -> Iterator[ProgressCallback]:
    """Show the progress of reading a source."""
    sizes = [part.size_bytes for part in source.parts]
    known = [size for size in sizes if size is not None]
    total = sum(known) if len(known) == len(sizes) else None
    rate = _Rate()
    with _renderer(DownloadColumn()) as render:

        def on_progress(part: SourcePart, documents: int, figures: Callable[[], str]) -> None:
            done = sum(source.bytes_read(part) for part in source.parts)
            render(part.name, f"{rate.describe(documents)}, {figures()}", done=done, total=total)

        yield on_progress


@contextmanager
def exporting() -> Iterator["Callable[[ExportReport], None]"]:
    """Show the progress of an export. The total is PostgreSQL's estimate."""
    rate = _Rate()
    with _renderer() as render:

        def on_progress(report: "ExportReport") -> None:
            done = sum(report.documents.values()) + sum(report.unreadable.values())
            render(report.table, rate.describe(done), done=done, total=max(report.estimated_rows, done))

        yield on_progress


class _Rate:
    """Documents per second since the first call: those of an earlier run do not count."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: int | None = None

    def describe(self, documents: int) -> str:
        """Return the number of documents and the rate as text."""
        self._first = documents if self._first is None else self._first
        rate = (documents - self._first) / max(time.monotonic() - self._started, 1e-9)
        return f"{documents:,} documents, {rate:,.0f} per second"


@contextmanager
def _renderer(*columns: ProgressColumn) -> Iterator[_Renderer]:
    console = Console(stderr=True)
    if not console.is_terminal:
        last = time.monotonic()

        def print_line(name: str, line: str, *, done: int, total: int | None) -> None:
            nonlocal last
            del done, total
            if time.monotonic() - last >= _LINE_EVERY_SECONDS:
                last = time.monotonic()
                echo(f"{name}: {line}", err=True)

        yield print_line
        return
    with _TwoLineProgress(
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(bar_width=max(_BAR_WIDTH_MIN, min(_BAR_WIDTH_MAX, console.width - _OTHER_COLUMNS_WIDTH))),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None, name="")

        def update_bar(name: str, line: str, *, done: int, total: int | None) -> None:
            bar.figures = line
            bar.update(task, name=name, completed=done, total=total)

        yield update_bar


class _TwoLineProgress(Progress):
    """A bar with the figures below it: 80 columns are too narrow for both in one line."""

    figures = ""

    @override
    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.figures, no_wrap=True, overflow="ellipsis")
