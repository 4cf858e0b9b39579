"""How long work is told of: a bar where somebody looks, else a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from typing_extensions import override

from graphjobs.backfill.extract.records import SourcePart
from graphjobs.backfill.extract.sources import Source

if TYPE_CHECKING:
    from graphjobs.backfill.export import Exported

_TOLD_EVERY_SECONDS: Final = 5.0
_BAR_MIN: Final = 10
_BAR_MAX: Final = 40
_REST: Final = 52
"""How many columns all but the bar would like to have."""


class Tell(Protocol):
    """Tells how it stands; cheap enough to be called often."""

    def __call__(self, part: SourcePart, documents: int, figures: Callable[[], str]) -> None:
        """Tells of a part, how many documents have been read in all, and what else there is to tell."""
        ...


class _Show(Protocol):
    def __call__(self, what: str, line: str, *, done: int, total: int | None) -> None:
        """Shows what is worked at and how far it is; a total of None is not known."""
        ...


@contextmanager
def reading(source: Source) -> Iterator[Tell]:
    """Tells of a source that is read."""
    sizes = [part.size_bytes for part in source.parts]
    known = [size for size in sizes if size is not None]
    total = sum(known) if len(known) == len(sizes) else None
    rate = _Rate()
    with _shown(DownloadColumn()) as show:

        def tell(part: SourcePart, documents: int, figures: Callable[[], str]) -> None:
            read = sum(source.bytes_read(each) for each in source.parts)
            show(part.name, f"{rate.told(documents)}, {figures()}", done=read, total=total)

        yield tell


@contextmanager
def exporting() -> Iterator["Callable[[Exported], None]"]:
    """Tells of tables that are exported; how much is left is PostgreSQL's guess."""
    rate = _Rate()
    with _shown() as show:

        def tell(exported: "Exported") -> None:
            done = sum(exported.documents.values()) + sum(exported.unreadable.values())
            show(exported.table, rate.told(done), done=done, total=max(exported.guess, done))

        yield tell


class _Rate:
    """How many documents a second, from the first look on: what an earlier run has read is no rate of this one."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: int | None = None

    def told(self, documents: int) -> str:
        """Says it, with how many there are in all."""
        self._first = documents if self._first is None else self._first
        a_second = (documents - self._first) / max(time.monotonic() - self._began, 1e-9)
        return f"{documents:,} documents, {a_second:,.0f} a second"


@contextmanager
def _shown(*columns: ProgressColumn) -> Iterator[_Show]:
    console = Console(stderr=True)
    if not console.is_terminal:
        last = time.monotonic()

        def tell(what: str, line: str, *, done: int, total: int | None) -> None:
            nonlocal last
            del done, total
            if time.monotonic() - last >= _TOLD_EVERY_SECONDS:
                last = time.monotonic()
                typer.echo(f"{what}: {line}", err=True)

        yield tell
        return
    with _TwoLines(
        TextColumn("{task.fields[what]}", markup=False),
        BarColumn(bar_width=max(_BAR_MIN, min(_BAR_MAX, console.width - _REST))),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None, what="")

        def show(what: str, line: str, *, done: int, total: int | None) -> None:
            bar.figures = line
            bar.update(task, what=what, completed=done, total=total)

        yield show


class _TwoLines(Progress):
    """A bar, and the figures below it: 80 columns have no room for both in one line."""

    figures = ""

    @override
    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.figures, no_wrap=True, overflow="ellipsis")
