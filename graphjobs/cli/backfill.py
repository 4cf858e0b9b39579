"""`graphjobs backfill`: the move from MongoDB, its trial and its check; a bar on the way, then tables or JSON lines."""

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
from graphjobs.cli.exit_codes import Exit
from graphjobs.cli.output import print_lines
from graphjobs.cli.progress import reading
from graphjobs.settings import Settings
from graphjobs.storage import open_storage

if TYPE_CHECKING:
    from graphjobs.backfill.dry_run import Survey
    from graphjobs.backfill.quarantine.files import Written
    from graphjobs.backfill.runner import Report
    from graphjobs.backfill.verify import Comparison

T = TypeVar("T")

_SCAN_TIMEOUT: Final = timedelta(hours=1)
"""Whole tables are read in one statement each."""


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
        bool, typer.Option("--dry-run", help="Read all, write nothing, and report; needs no PostgreSQL.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the source with the tables, and change nothing.")
    ] = False,
    legacy_uuids: Annotated[
        ByteOrder, typer.Option(help="Whose byte order UUIDs of the old binary subtype have.")
    ] = ByteOrder.CSHARP,
    quarantine: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where what cannot come is written to, to be mended.")
    ] = Path("graphjobs-quarantine"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")] = False,
) -> None:
    """Bring jobs, policy runs and their logs from MongoDB; ended at any moment, it goes on where it was.

    What has moved on here is never overwritten. Exits 1 as long as documents wait that could not come.
    """
    if dry_run and verify:
        raise typer.BadParameter("give one of the two: both only read", param_hint="--dry-run, --verify")
    require_pymongo()
    from graphjobs.backfill.parallel_mapping import collect_seldom  # with what the extra brings

    collect_seldom()
    if dry_run:
        _tell_survey(asyncio.run(_survey(source, legacy_uuids)), as_json=as_json)
    elif verify:
        _tell_comparison(*asyncio.run(_verify(source, legacy_uuids)), as_json=as_json)
    else:
        report = asyncio.run(_run(source, legacy_uuids, quarantine))
        # Before anything is told: who reads that may be gone.
        written = asyncio.run(_write_quarantine(quarantine, source))
        _tell_report(report, as_json=as_json)
        backfill_output.tell_aside(written)
        waiting = sum(report.waiting.values())
        if waiting:
            names = ", ".join(str(path) for path in written.files.values())
            _fail(
                f"{_documents(waiting)} that cannot come: mend in {names}, and read that folder again with "
                "graphjobs backfill; or see graphjobs quarantine --help"
            )


async def _survey(place: str, legacy_uuids: ByteOrder) -> "Survey":
    from graphjobs.backfill.dry_run import survey  # with what the extra brings

    def told(whole: "Survey") -> tuple[int, Callable[[], str]]:
        return whole.documents, lambda: f"{whole.changed:,} changed, {whole.refused:,} cannot come"

    async def work(source: Source, tell: Callable[[Any, SourcePart], None]) -> "Survey":
        return await survey(source, legacy_uuids=legacy_uuids.value, told=tell)

    return await _reading(place, work, told)


async def _run(place: str, legacy_uuids: ByteOrder, folder: Path) -> "Report":
    from graphjobs.backfill.quarantine.files import check_folder
    from graphjobs.backfill.runner import run_backfill

    def told(report: "Report") -> tuple[int, Callable[[], str]]:
        counts = report.counts
        return counts.documents, lambda: f"{counts.changed:,} changed, {counts.quarantined:,} quarantined"

    await check_folder(folder)
    async with open_storage() as storage:

        async def work(source: Source, tell: Callable[[Any, SourcePart], None]) -> "Report":
            return await run_backfill(storage, source, legacy_uuids=legacy_uuids.value, told=tell)

        return await _reading(place, work, told)


async def _write_quarantine(folder: Path, source: str) -> "Written":
    from graphjobs.backfill.quarantine.files import write_quarantine

    async with open_storage() as storage:
        return await write_quarantine(storage, folder, read=Path(source))


async def _verify(place: str, legacy_uuids: ByteOrder) -> "tuple[Comparison, int]":
    from graphjobs.backfill.quarantine import store
    from graphjobs.backfill.transactions import snapshot
    from graphjobs.backfill.verify import verify

    def told(comparison: "Comparison") -> tuple[int, Callable[[], str]]:
        different = comparison.differences.total()
        return comparison.documents, lambda: f"{different:,} differ, {comparison.waiting:,} wait"

    settings = Settings.load()
    patient = Settings.load(statement_timeout=max(settings.statement_timeout, _SCAN_TIMEOUT))
    async with open_storage(patient) as storage:

        async def work(source: Source, tell: Callable[[Any, SourcePart], None]) -> "Comparison":
            return await verify(storage, source, legacy_uuids=legacy_uuids.value, told=tell)

        comparison = await _reading(place, work, told)
        async with snapshot(storage, readonly=True) as executor:
            return comparison, sum((await store.waiting(executor)).values())


async def _reading(
    place: str,
    work: Callable[[Source, Callable[[Any, SourcePart], None]], Coroutine[Any, Any, T]],
    told: Callable[[Any], tuple[int, Callable[[], str]]],
) -> T:
    from graphjobs.backfill.parallel_mapping import open_apart

    async with open_apart(place) as source:
        for name, collection in suggest_collections(place).items():
            typer.echo(f"graphjobs: {name} is not read: is it of {collection}? then give it that name", err=True)
        with reading(source) as tell:

            def on_progress(whole: Any, part: SourcePart) -> None:
                tell(part, *told(whole))

            return await work(source, on_progress)


def _tell_survey(whole: "Survey", *, as_json: bool) -> None:
    if as_json:
        print_lines(backfill_output.records_of_survey(whole))
    else:
        backfill_output.print_survey(whole)
    if whole.refused:
        _fail(f"{whole.refused:,} of {whole.documents:,} documents cannot come")


def _tell_report(report: "Report", *, as_json: bool) -> None:
    if as_json:
        print_lines(backfill_output.records_of_report(report))
    else:
        backfill_output.print_report(report)


def _tell_comparison(comparison: "Comparison", waiting: int, *, as_json: bool) -> None:
    if as_json:
        print_lines(backfill_output.records_of_comparison(comparison))
    else:
        backfill_output.print_comparison(comparison)
    if not comparison.holds:
        number = sum(count for each, count in comparison.differences.items() if not each.is_expected)
        _fail(
            f"{number:,} of {comparison.documents:,} documents are not here as they should be: run the backfill again"
        )
    if waiting:
        _fail(f"{_documents(waiting)} that cannot come: see graphjobs quarantine list")


def _documents(waiting: int) -> str:
    return "1 document waits" if waiting == 1 else f"{waiting:,} documents wait"


def _fail(sentence: str) -> None:
    typer.echo(f"graphjobs: {sentence}", err=True)
    raise typer.Exit(Exit.FAILED)
