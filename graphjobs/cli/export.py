"""`graphjobs export`: all that the tables hold, to files that mongoimport takes."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphjobs.backfill.extract.decoding import require_pymongo
from graphjobs.backfill.extract.records import COLLECTIONS
from graphjobs.cli.exit_codes import Exit
from graphjobs.cli.output import print_lines, print_table
from graphjobs.cli.progress import exporting
from graphjobs.storage import open_storage

if TYPE_CHECKING:
    from graphjobs.backfill.export import Exported


def export(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Where graph_jobs.json, policy_runs.json, graph_job_events.json and policy_run_events.json will be; "
            "none of them may be there.",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")] = False,
) -> None:
    """Write all jobs, policy runs and their logs, of all tenants and of one moment, to files for mongoimport.

    Exits 1 where rows could not be read: they are in unreadable.json.
    """
    require_pymongo()
    exported = asyncio.run(_export(folder))
    counts = [(name, exported.documents[name], exported.unreadable[name]) for name in COLLECTIONS]
    if as_json:
        print_lines({"table": name, "documents": number, "unreadable": lost} for name, number, lost in counts)
    else:
        headings = ("table", "documents", "unreadable")
        print_table(headings, ((name, f"{number:,}", f"{lost:,}") for name, number, lost in counts))
    unreadable = sum(exported.unreadable.values())
    if unreadable:
        told = "row that could not be read is" if unreadable == 1 else "rows that could not be read are"
        typer.echo(f"graphjobs: {unreadable:,} {told} in {folder / 'unreadable.json'}, and in no other file", err=True)
        raise typer.Exit(Exit.FAILED)


async def _export(folder: Path) -> "Exported":
    from graphjobs.backfill.export import export as write  # with what the extra brings

    async with open_storage() as storage:
        with exporting() as told:
            return await write(storage, folder, told=told)
