"""`graphjobs quarantine`: list, write and discard documents that a backfill rejected."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from graphjobs.backfill.extract.decoding import require_pymongo
from graphjobs.backfill.extract.records import COLLECTIONS
from graphjobs.cli.backfill_output import warn_backups
from graphjobs.cli.exit_codes import Exit
from graphjobs.cli.output import print_lines, print_table, print_texts
from graphjobs.storage import open_storage

if TYPE_CHECKING:
    from graphjobs.backfill.quarantine.entries import QuarantineEntry
    from graphjobs.backfill.quarantine.files import QuarantineFiles

app = typer.Typer(help="List, write and discard documents that a backfill rejected.", no_args_is_help=True)

_COLUMNS: Final = ("id", "collection", "location", "field", "reason")
_PAGE: Final = 100


@app.command("list")
def list_entries(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The maximum number per collection.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")] = False,
) -> None:
    """List pending documents with their location and the reason. Exits 1 while a document is pending."""
    require_pymongo()
    entries, pending = asyncio.run(_list(limit))
    rows = [[str(getattr(entry, name)) for name in _COLUMNS] for entry in entries]
    if as_json:
        print_lines(dict(zip(_COLUMNS, row, strict=True)) for row in rows)
    elif entries:
        print_table(_COLUMNS, rows, no_wrap=("id",))
    if pending:
        more = "; --limit lists more" if len(entries) < pending else ""
        typer.echo(f"graphjobs: {pending:,} in quarantine, {len(entries):,} listed{more}", err=True)
        raise typer.Exit(Exit.FAILED)
    typer.echo("no document is pending in the quarantine", err=True)


@app.command()
def write(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False, help="The folder for the files.")],
) -> None:
    """Write pending documents to files, one per line with its reason, to be repaired and imported by a backfill."""
    require_pymongo()
    written = asyncio.run(_write(folder))
    print_texts(str(path) for path in written.files.values())
    warn_backups(written)


@app.command()
def discard(
    ids: Annotated[list[UUID], typer.Argument(metavar="ID...", show_default=False, help="Ids, as printed by list.")],
) -> None:
    """Discard pending documents: they are not imported. Exits 1 if one was not pending."""
    require_pymongo()
    discarded = asyncio.run(_discard(ids))
    typer.echo(f"{discarded:,} discarded")
    others = len(set(ids)) - discarded
    if others:
        typer.echo(f"graphjobs: not pending in the quarantine: {others:,} of the ids", err=True)
        raise typer.Exit(Exit.FAILED)


async def _list(limit: int) -> "tuple[list[QuarantineEntry], int]":
    from graphjobs.backfill.quarantine import store
    from graphjobs.backfill.quarantine.files import FIRST_PAGE
    from graphjobs.backfill.transactions import snapshot

    entries: list[QuarantineEntry] = []
    async with open_storage() as storage, snapshot(storage, readonly=True) as executor:
        for collection in COLLECTIONS:
            remaining, after = limit, FIRST_PAGE
            while remaining and (
                page := await store.list_pending(
                    executor, collection, after, limit=min(remaining, _PAGE), summaries=True
                )
            ):
                entries += page
                remaining, after = remaining - len(page), page[-1].id
        return entries, sum((await store.count_pending(executor)).values())


async def _write(folder: Path) -> "QuarantineFiles":
    from graphjobs.backfill.quarantine.files import write_quarantine

    async with open_storage() as storage:
        return await write_quarantine(storage, folder)


async def _discard(ids: list[UUID]) -> int:
    from graphjobs.backfill.quarantine import store
    from graphjobs.backfill.transactions import transaction

    async with open_storage() as storage, transaction(storage) as executor:
        return await store.resolve(executor, ids)
