"""`graphjobs backfill`: the migration from MongoDB, its dry run and its verification."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from graphjobs.backfill.extract.decoding import require_pymongo
from graphjobs.backfill.extract.records import SourcePart
from graphjobs.backfill.extract.sources import Source, suggest_collections
from graphjobs.cli import backfill_output
from graphjobs.cli.backfill_source import SourceLocation, find_source
from graphjobs.cli.exit_codes import Exit
from graphjobs.cli.output import echo, print_lines
from graphjobs.cli.progress import reading
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

if TYPE_CHECKING:
    from graphjobs.backfill.dry_run import DryRunReport
    from graphjobs.backfill.quarantine.files import QuarantineFiles
    from graphjobs.backfill.runner import BackfillReport
    from graphjobs.backfill.verify import Comparison

T = TypeVar("T")

_SCAN_TIMEOUT: Final = timedelta(hours=1)
"""The statement time-out of a verification: single statements read whole tables."""


class ByteOrder(StrEnum):
    """The driver that wrote UUIDs of the old binary subtype 3."""

    CSHARP = "csharp"
    JAVA = "java"
    PYTHON = "python"


def backfill(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A folder of dumps named after their collections (graph_jobs.bson, policy_runs.json.gz), one dump "
            "file, or a mongodb:// address with a database name. By default GRAPHJOBS_MONGODB_URL, or the address in "
            "the file GRAPHJOBS_MONGODB_URL_FILE, so that its password is on no command line.",
            show_default=False,
        ),
    ] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="The file of a collection, whatever its name; repeatable.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, write nothing, and report; needs no PostgreSQL.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the source with the tables, and change nothing.")
    ] = False,
    legacy_uuids: Annotated[
        ByteOrder, typer.Option(help="The driver that wrote UUIDs of the old binary subtype 3.")
    ] = ByteOrder.CSHARP,
    quarantine: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The folder for rejected documents, to be repaired there.")
    ] = Path("graphjobs-quarantine"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")] = False,
) -> None:
    """Import jobs, policy runs and their events from MongoDB. An interrupted backfill resumes.

    Rows that services changed are never overwritten. Exits 1 while rejected documents are pending.
    """
    if dry_run and verify:
        raise typer.BadParameter("use one of the two", param_hint="--dry-run, --verify")
    require_pymongo()
    from graphjobs.backfill.parallel_mapping import relax_gc  # imports bson, which is optional

    relax_gc()
    source = find_source(sources or [], collection or [])
    if dry_run:
        _print_dry_run(asyncio.run(_dry_run(source, legacy_uuids)), as_json=as_json)
    elif verify:
        _print_comparison(*asyncio.run(_verify(source, legacy_uuids)), as_json=as_json)
    else:
        report = asyncio.run(_run(source, legacy_uuids, quarantine))
        # Before the report is printed: the reader of the output may be gone, as behind `head`.
        written = asyncio.run(_write_quarantine(quarantine, source))
        backfill_output.print_report(report, as_json=as_json)
        backfill_output.warn_backups(written)
        pending = sum(report.pending.values())
        if pending:
            names = ", ".join(str(path) for path in written.files.values())
            _fail(
                f"{_pending_documents(pending)} in quarantine: repair in {names} and run graphjobs backfill with that "
                "folder; or see graphjobs quarantine --help"
            )


async def _dry_run(location: SourceLocation, legacy_uuids: ByteOrder) -> "DryRunReport":
    from graphjobs.backfill.dry_run import dry_run  # imports bson, which is optional

    def summarize(report: "DryRunReport") -> tuple[int, Callable[[], str]]:
        return report.documents, lambda: f"{report.changed:,} changed, {report.rejected:,} rejected"

    async def work(source: Source, on_progress: Callable[[Any, SourcePart], None]) -> "DryRunReport":
        return await dry_run(source, legacy_uuids=legacy_uuids.value, on_progress=on_progress)

    return await _with_progress(location, work, summarize)


async def _run(location: SourceLocation, legacy_uuids: ByteOrder, folder: Path) -> "BackfillReport":
    from graphjobs.backfill.quarantine.files import check_folder
    from graphjobs.backfill.runner import run_backfill

    def summarize(report: "BackfillReport") -> tuple[int, Callable[[], str]]:
        counts = report.counts
        return counts.documents, lambda: f"{counts.changed:,} changed, {counts.quarantined:,} quarantined"

    await check_folder(folder)
    async with open_storage() as storage:

        async def work(source: Source, on_progress: Callable[[Any, SourcePart], None]) -> "BackfillReport":
            return await run_backfill(storage, source, legacy_uuids=legacy_uuids.value, on_progress=on_progress)

        return await _with_progress(location, work, summarize)


async def _write_quarantine(folder: Path, source: SourceLocation) -> "QuarantineFiles":
    from graphjobs.backfill.quarantine.files import write_quarantine

    async with open_storage() as storage:
        return await write_quarantine(storage, folder, imported=source.folder)


async def _verify(location: SourceLocation, legacy_uuids: ByteOrder) -> "tuple[Comparison, int]":
    from graphjobs.backfill.quarantine import store
    from graphjobs.backfill.transactions import snapshot
    from graphjobs.backfill.verify import verify

    def summarize(comparison: "Comparison") -> tuple[int, Callable[[], str]]:
        differences = comparison.differences.total()
        return comparison.documents, lambda: f"{differences:,} differences, {comparison.pending:,} pending"

    timeout = max(Settings.load().statement_timeout, _SCAN_TIMEOUT)
    async with open_storage(Settings.load(statement_timeout=timeout)) as storage:

        async def work(source: Source, on_progress: Callable[[Any, SourcePart], None]) -> "Comparison":
            return await verify(storage, source, legacy_uuids=legacy_uuids.value, on_progress=on_progress)

        comparison = await _with_progress(location, work, summarize)
        async with snapshot(storage, readonly=True) as executor:
            return comparison, sum((await store.count_pending(executor)).values())


async def _with_progress(
    location: SourceLocation,
    work: Callable[[Source, Callable[[Any, SourcePart], None]], Coroutine[Any, Any, T]],
    summarize: Callable[[Any], tuple[int, Callable[[], str]]],
) -> T:
    from graphjobs.backfill.parallel_mapping import open_parallel

    async with open_parallel(location.location, collections=location.collections) as source:
        for name, collection in suggest_collections(location.location or "").items():
            typer.echo(
                f"graphjobs: {name} is not read; if it contains {collection}, rename it or name it by --collection",
                err=True,
            )
        with reading(source) as show:
            return await work(source, lambda report, part: show(part, *summarize(report)))


def _print_dry_run(report: "DryRunReport", *, as_json: bool) -> None:
    if as_json:
        print_lines(backfill_output.records_of_dry_run(report))
    else:
        backfill_output.print_dry_run(report)
    if report.rejected:
        _fail(f"{report.rejected:,} of {report.documents:,} documents would be rejected")


def _print_comparison(comparison: "Comparison", pending: int, *, as_json: bool) -> None:
    if as_json:
        print_lines(backfill_output.records_of_comparison(comparison))
    else:
        backfill_output.print_comparison(comparison)
    if not comparison.ok:
        number = sum(count for difference, count in comparison.differences.items() if not difference.is_expected)
        _fail(f"{number:,} of {comparison.documents:,} documents differ from their rows: run the backfill again")
    if pending:
        _fail(f"{_pending_documents(pending)} in quarantine: see graphjobs quarantine list")


def _pending_documents(number: int) -> str:
    return "1 document is pending" if number == 1 else f"{number:,} documents are pending"


def _fail(sentence: str) -> None:
    echo(f"graphjobs: {sentence}", err=True)
    raise typer.Exit(Exit.FAILED)
