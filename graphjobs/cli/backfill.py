"""`graphjobs backfill`: what would come of a move from MongoDB; a bar on the way, then tables, or lines of JSON."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from graphjobs.backfill.extended import Part, require_mongo
from graphjobs.backfill.sources import Source, open_source
from graphjobs.cli.exits import Exit
from graphjobs.cli.tables import print_lines, print_table

if TYPE_CHECKING:
    from graphjobs.backfill.survey import Survey

_TOLD_EVERY_SECONDS: Final = 5.0
_ROWS_MAX: Final = 200
"""Of more groups than that a table shows the largest; --json has them all."""


class ByteOrder(StrEnum):
    """Whose driver wrote UUIDs of the old binary subtype 3."""

    CSHARP = "csharp"
    JAVA = "java"
    PYTHON = "python"


def backfill(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of dumps named after their collections (graph_jobs.bson, policy_runs.json.gz), one of them, "
            "or a mongodb:// address that names a database.",
            show_default=False,
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read all, write nothing, and report. So far there is no other run.")
    ] = False,
    legacy_uuids: Annotated[
        ByteOrder, typer.Option(help="Whose byte order UUIDs of the old binary subtype have.")
    ] = ByteOrder.CSHARP,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")] = False,
) -> None:
    """Tell what would come of a move from MongoDB, what would be changed on the way, and what cannot come and why.

    Each document is judged by itself. Exits 1 where some cannot come.
    """
    if not dry_run:
        raise typer.BadParameter("give it: nothing can be written yet", param_hint="--dry-run")
    require_mongo()
    whole = asyncio.run(_survey(source, legacy_uuids))
    if as_json:
        print_lines(_records(whole))
    else:
        _print(whole)
    if whole.refused:
        typer.echo(f"graphjobs: {whole.refused:,} of {whole.documents:,} documents cannot come", err=True)
        raise typer.Exit(Exit.FAILED)


async def _survey(place: str, legacy_uuids: ByteOrder) -> "Survey":
    from graphjobs.backfill.survey import survey  # with what the extra brings

    async with open_source(place) as source:
        with _progress(source) as told:
            return await survey(source, legacy_uuids=legacy_uuids.value, told=told)


@contextmanager
def _progress(source: Source) -> "Iterator[Callable[[Survey, Part], None]]":
    """A bar where somebody looks, else a line now and then."""
    console = Console(stderr=True)
    began = last = time.monotonic()

    def figures(whole: "Survey") -> str:
        a_second = whole.documents / max(time.monotonic() - began, 1e-9)
        return (
            f"{whole.documents:,} documents, {a_second:,.0f} a second, {whole.changed:,} changed, "
            f"{whole.refused:,} cannot come"
        )

    if not console.is_terminal:

        def tell(whole: "Survey", part: Part) -> None:
            nonlocal last
            if time.monotonic() - last >= _TOLD_EVERY_SECONDS:
                last = time.monotonic()
                typer.echo(f"{part.name}: {figures(whole)}", err=True)

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

        def show(whole: "Survey", part: Part) -> None:
            read = sum(source.bytes_read(each) for each in source.parts)
            bar.update(task, completed=read, description=figures(whole), part=part.name)

        yield show


def _records(whole: "Survey") -> Iterator[dict[str, Any]]:
    yield {"documents": whole.documents, "changed": whole.changed, "refused": whole.refused}
    for (tenant, kind, status), number in sorted(whole.counts.items()):
        yield {"tenant": tenant, "kind": kind, "status": status, "documents": number}
    for (collection, field, change), number in sorted(whole.changes.items()):
        yield {"collection": collection, "field": field, "change": change, "times": number}
    for (collection, field), refusals in sorted(whole.refusals.items()):
        yield {"collection": collection, "field": field, "refused": refusals.number, "first": refusals.first}


def _print(whole: "Survey") -> None:
    typer.echo(f"{whole.documents:,} documents: {whole.changed:,} would be changed, {whole.refused:,} cannot come")
    _print_groups(("tenant", "kind", "status", "documents"), whole.counts)
    _print_groups(("collection", "field", "what would be changed", "times"), whole.changes)
    if whole.refusals:
        typer.echo()
        refusals = sorted(whole.refusals.items(), key=lambda each: -each[1].number)[:_ROWS_MAX]
        print_table(
            ("collection", "field", "cannot come", "the first of them"),
            ((*group, f"{each.number:,}", each.first) for group, each in refusals),
        )


def _print_groups(headings: tuple[str, ...], groups: dict[tuple[str, str, str], int]) -> None:
    if not groups:
        return
    typer.echo()
    largest = sorted(groups.items(), key=lambda each: -each[1])[:_ROWS_MAX]
    print_table(headings, ((*group, f"{number:,}") for group, number in sorted(largest)))
    if len(groups) > len(largest):
        typer.echo(f"and {len(groups) - len(largest):,} smaller groups; --json tells them all", file=sys.stdout)
