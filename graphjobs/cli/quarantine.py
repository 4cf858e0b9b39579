"""`graphjobs quarantine`: what could not come from MongoDB, to be looked at, mended, or given up."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from graphjobs.backfill.extract.decoding import require_pymongo
from graphjobs.backfill.extract.records import COLLECTIONS
from graphjobs.cli.backfill_output import tell_aside
from graphjobs.cli.exit_codes import Exit
from graphjobs.cli.output import print_lines, print_table, print_texts
from graphjobs.storage import open_storage

if TYPE_CHECKING:
    from graphjobs.backfill.quarantine.entries import Entry
    from graphjobs.backfill.quarantine.files import Written

app = typer.Typer(help="What could not come from MongoDB: look, mend, give up.", no_args_is_help=True)

_BEFORE_ALL: Final = UUID(int=0)
_PAGE: Final = 100


@app.command("list")
def list_entries(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The most to list, of each collection.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")] = False,
) -> None:
    """List what waits: where it was found, and why it cannot come. Exits 1 as long as something waits."""
    require_pymongo()
    entries, waiting = asyncio.run(_list(limit))
    if as_json:
        print_lines(
            {
                "id": str(each.id),
                "collection": each.collection,
                "place": each.place,
                "field": each.field,
                "reason": each.reason,
            }
            for each in entries
        )
    elif entries:
        headings = ("id", "collection", "place", "field", "reason")
        rows = ((each.id, each.collection, each.place, each.field, each.reason) for each in entries)
        print_table(headings, rows, no_wrap=("id",))
    if waiting:
        more = "; --limit lists more" if len(entries) < waiting else ""
        typer.echo(f"graphjobs: {waiting:,} in quarantine, {len(entries):,} listed{more}", err=True)
        raise typer.Exit(Exit.FAILED)
    typer.echo("nothing waits in the quarantine", err=True)


@app.command()
def write(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False, help="Where the files will be.")],
) -> None:
    """Write what waits to files, a document a line with its reason, to be mended and read again by a backfill."""
    require_pymongo()
    written = asyncio.run(_write(folder))
    print_texts(str(path) for path in written.files.values())
    tell_aside(written)


@app.command()
def discard(
    ids: Annotated[list[UUID], typer.Argument(metavar="ID...", show_default=False, help="Which, as list tells them.")],
) -> None:
    """Give documents up: they wait no more, and do not come. Exits 1 where one did not wait."""
    require_pymongo()
    gone = asyncio.run(_discard(ids))
    typer.echo(f"{gone:,} discarded")
    if gone < len(set(ids)):
        typer.echo(f"graphjobs: {len(set(ids)) - gone:,} did not wait in the quarantine", err=True)
        raise typer.Exit(Exit.FAILED)


async def _list(limit: int) -> "tuple[list[Entry], int]":
    from graphjobs.backfill.quarantine import store
    from graphjobs.backfill.transactions import snapshot

    entries: list[Entry] = []
    async with open_storage() as storage, snapshot(storage, readonly=True) as executor:
        for collection in COLLECTIONS:
            left, after = limit, _BEFORE_ALL
            while left and (page := await store.heads(executor, collection, after, limit=min(left, _PAGE))):
                entries += page
                left, after = left - len(page), page[-1].id
        return entries, sum((await store.waiting(executor)).values())


async def _write(folder: Path) -> "Written":
    from graphjobs.backfill.quarantine.files import write_quarantine

    async with open_storage() as storage:
        return await write_quarantine(storage, folder)


async def _discard(ids: list[UUID]) -> int:
    from graphjobs.backfill.quarantine import store
    from graphjobs.backfill.transactions import transaction

    async with open_storage() as storage, transaction(storage) as executor:
        return await store.settle(executor, ids)
