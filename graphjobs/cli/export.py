"""`graphjobs export`: the rows of all tables as files for mongoimport."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphjobs.backfill.extract.decoding import require_pymongo
from graphjobs.backfill.extract.records import COLLECTIONS
from graphjobs.cli.exit_codes import Exit
from graphjobs.cli.output import echo, print_lines, print_table
from graphjobs.cli.progress import exporting
from graphjobs.storage import open_storage

if TYPE_CHECKING:
    from graphjobs.backfill.export import ExportReport


def export(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="The folder for graph_jobs.json, policy_runs.json, graph_job_events.json and policy_run_events.json; "
            "none of them may exist.",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")] = False,
) -> None:
    """Write all jobs, policy runs and their events of all tenants, from one snapshot, to files for mongoimport.

    Exits 1 if rows are unreadable: they are in unreadable.json.
    """
    require_pymongo()
    report = asyncio.run(_export(folder))
    counts = [(name, report.documents[name], report.unreadable[name]) for name in COLLECTIONS]
    headings = ("table", "documents", "unreadable")
    if as_json:
        print_lines(dict(zip(headings, row, strict=True)) for row in counts)
    else:
        print_table(headings, ((name, f"{number:,}", f"{unreadable:,}") for name, number, unreadable in counts))
    unreadable = sum(report.unreadable.values())
    if unreadable:
        rows = "1 unreadable row is" if unreadable == 1 else f"{unreadable:,} unreadable rows are"
        echo(f"graphjobs: {rows} in {folder / 'unreadable.json'}, and in no other file", err=True)
        raise typer.Exit(Exit.FAILED)


async def _export(folder: Path) -> "ExportReport":
    from graphjobs.backfill.export import export as write  # imports bson, which is optional

    async with open_storage() as storage:
        with exporting() as on_progress:
            return await write(storage, folder, on_progress=on_progress)
