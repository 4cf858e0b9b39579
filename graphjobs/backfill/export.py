"""Export of all four tables to files of Extended JSON, as mongoexport writes and mongoimport reads them.

The files show one snapshot, and appear together or not at all. Memory does not grow with the tables.
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, TypeVar

from bson import json_util

from graphjobs.backfill import export_sql
from graphjobs.backfill.export_sql import TableScan
from graphjobs.backfill.extract.records import COLLECTIONS, EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.transactions import snapshot
from graphjobs.backfill.transform.reverse_mapping import to_document
from graphjobs.core.event_log import Event
from graphjobs.core.pagination import split_at_budget
from graphjobs.database.executor import Executor, Row, run_to_completion
from graphjobs.errors import ConfigurationError, CorruptRow
from graphjobs.graph_jobs import row_mapping as job_mapping
from graphjobs.graph_jobs.models import GraphJob
from graphjobs.policy_runs import row_mapping as run_mapping
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.storage import Storage

T = TypeVar("T")

UNREADABLE: Final = "unreadable"
"""The name of the file of unreadable rows, which exists only if there are any."""

_PAGE_ROWS: Final = 1_000

_TABLES: Final[Mapping[str, tuple[TableScan, Callable[[Row], GraphJob | PolicyRunJob | Event]]]] = MappingProxyType(
    {
        JOBS: (export_sql.EXPORT_JOBS, job_mapping.any_job_from_row),
        RUNS: (export_sql.EXPORT_RUNS, run_mapping.run_from_row),
        EVENTS: (export_sql.EXPORT_EVENTS, job_mapping.event_from_row),
        RUN_EVENTS: (export_sql.EXPORT_RUN_EVENTS, run_mapping.event_from_row),
    }
)


@dataclass(slots=True)
class ExportReport:
    """The result of an export.

    Attributes:
        documents: the number of written documents by table.
        unreadable: the number of unreadable rows by table. A separate file has their columns.
        estimated_rows: PostgreSQL's estimate of the number of rows of all tables.
        table: the current table.
    """

    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLLECTIONS, 0))
    unreadable: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLLECTIONS, 0))
    estimated_rows: int = 0
    table: str = COLLECTIONS[0]


async def export(
    storage: Storage, folder: Path, *, on_progress: Callable[[ExportReport], None] = lambda report: None
) -> ExportReport:
    """Write the rows of all four tables and all tenants, from one snapshot, to one file per table.

    One transaction stays open meanwhile, so PostgreSQL removes deleted and changed rows only after its end. A failed
    or cancelled export leaves no file.

    Args:
        storage: the storage to read.
        folder: the folder of `graph_jobs.json` and so on. It is created if necessary.
        on_progress: called now and then with the report so far. It should return at once.

    Raises:
        ConfigurationError: a file exists, or is not writable.
        DatabaseUnavailable: the database is unavailable.
    """
    files = _ExportFiles(folder)
    report = ExportReport()
    try:
        await _in_thread(files.open)
        async with snapshot(storage, readonly=True) as executor:
            for scan, _ in _TABLES.values():
                ((plan,),) = await executor.fetch_all(scan.plan, {})
                report.estimated_rows += plan[0]["Plan"]["Plan Rows"]
            for collection in COLLECTIONS:
                await _write_table(executor, collection, files, report, on_progress)
        await _in_thread(files.publish)
    finally:
        await _in_thread(files.remove)
    return report


async def _write_table(
    executor: Executor,
    collection: str,
    files: "_ExportFiles",
    report: ExportReport,
    on_progress: Callable[[ExportReport], None],
) -> None:
    scan, _ = _TABLES[collection]
    key, report.table = scan.first, collection
    while True:
        page = await executor.fetch_all(scan.page, {"p_from_id": key, "p_limit": _PAGE_ROWS})
        rows, truncated = split_at_budget(page)
        unreadable = await _in_thread(_write_page, collection, rows, files)
        report.documents[collection] += len(rows) - len(unreadable)
        if unreadable:
            texts = await executor.fetch_all(scan.texts, {"p_id": [error.row_id for error in unreadable]})
            await _in_thread(files.write, UNREADABLE, _unreadable_lines(collection, unreadable, texts))
            report.unreadable[collection] += len(unreadable)
        on_progress(report)
        if (len(rows) < _PAGE_ROWS and not truncated) or rows[-1][0] == scan.last:
            return
        key = scan.key_after(rows[-1][0])


def _write_page(collection: str, rows: Sequence[Row], files: "_ExportFiles") -> list[CorruptRow]:
    """Write the readable rows, and return the errors of the others."""
    _, to_value = _TABLES[collection]
    lines, unreadable = [], []
    for row in rows:
        try:
            value = to_value(row)
        except CorruptRow as error:
            unreadable.append(error)
        else:
            options = json_util.CANONICAL_JSON_OPTIONS
            lines.append(json_util.dumps(to_document(value), json_options=options, ensure_ascii=False))
    files.write(collection, lines)
    return unreadable


def _unreadable_lines(collection: str, unreadable: list[CorruptRow], texts: Sequence[Row]) -> list[str]:
    """Return the lines of unreadable rows. Both lists are in the order of the key."""
    columns = _TABLES[collection][0].columns
    return [
        json.dumps(
            {
                "table": collection,
                "id": str(error.row_id),
                "reason": error.reason,
                "columns": dict(zip(columns, text, strict=True)),
            },
            ensure_ascii=False,
        )
        for error, text in zip(unreadable, texts, strict=True)
    ]


class _ExportFiles:
    """Unfinished files beside the final ones. Methods block, and one thread at a time calls them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}

    def open(self) -> None:
        """Create the files of all tables.

        Raises:
            ConfigurationError: one exists.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._require_absent()
        for collection in COLLECTIONS:
            self.write(collection, [])

    def _require_absent(self) -> None:
        for name in (*COLLECTIONS, UNREADABLE):
            if os.path.lexists(self._path(name)):
                raise ConfigurationError(f"{self._path(name)} exists and is not overwritten: name another folder")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _partial(self, name: str) -> Path:
        return self._folder / f"{name}.json.part"

    def write(self, name: str, lines: list[str]) -> None:
        """Append lines to a file, and create it if necessary."""
        if name not in self._open:
            try:
                self._open[name] = self._partial(name).open("xb")
            except FileExistsError:
                raise ConfigurationError(
                    f"{self._partial(name)} exists: another export is running, or one was killed; in that case remove "
                    f"{self._folder / '*.part'}"
                ) from None
        self._open[name].writelines(f"{line}\n".encode() for line in lines)

    def publish(self) -> None:
        """Rename the files to their final names, after all of them are on disk."""
        for file in self._open.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self._require_absent()
        published: list[Path] = []
        try:
            for name in self._open:
                self._partial(name).rename(self._path(name))
                published.append(self._path(name))
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            for path in published:
                path.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove the files without a final name."""
        for name, file in self._open.items():
            with suppress(OSError):  # on a full disk, close fails again
                file.close()
            self._partial(name).unlink(missing_ok=True)


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run work in a thread and wait for it, also if cancelled: the thread continues and has the files open."""
    try:
        return await run_to_completion(asyncio.to_thread(work, *arguments))
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        problem = f"the files of an export are not writable: {name}{error.strerror}; name another folder"
    raise ConfigurationError(problem)
