"""The way back: all four tables to files of Extended JSON, as mongoexport writes and mongoimport takes them.

The files are of one moment, and appear all or none. Memory does not grow with the tables.
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

from bson import json_util

from graphjobs.backfill import export_sql
from graphjobs.backfill.export_sql import Scan
from graphjobs.backfill.extract.records import COLLECTIONS, EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.transactions import snapshot
from graphjobs.backfill.transform.reverse_mapping import to_document
from graphjobs.core.event_log import Event
from graphjobs.database.executor import Executor, Row, run_to_completion
from graphjobs.errors import ConfigurationError, CorruptRow
from graphjobs.graph_jobs.models import GraphJob
from graphjobs.graph_jobs.row_mapping import any_job_from_row
from graphjobs.graph_jobs.row_mapping import event_from_row as job_event_of
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.row_mapping import event_from_row as run_event_of
from graphjobs.policy_runs.row_mapping import run_from_row
from graphjobs.storage import Storage

T = TypeVar("T")

UNREADABLE: Final = "unreadable"
"""The name of the file of rows that cannot be read, which is there only if there are some."""

_PAGE_ROWS: Final = 1_000

_READ: Final[Mapping[str, tuple[Scan, Callable[[Row], GraphJob | PolicyRunJob | Event]]]] = MappingProxyType(
    {
        JOBS: (export_sql.JOBS, any_job_from_row),
        RUNS: (export_sql.RUNS, run_from_row),
        EVENTS: (export_sql.EVENTS, job_event_of),
        RUN_EVENTS: (export_sql.RUN_EVENTS, run_event_of),
    }
)


@dataclass(slots=True)
class Exported:
    """What was written.

    Attributes:
        documents: how many, by table.
        unreadable: how many rows could not be read, by table; they stand in a file of their own, as they are.
        guess: about how many rows there are in all, as PostgreSQL guesses it.
        table: the one that is written now.
    """

    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLLECTIONS, 0))
    unreadable: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLLECTIONS, 0))
    guess: int = 0
    table: str = COLLECTIONS[0]


async def export(
    storage: Storage, folder: Path, *, told: Callable[[Exported], None] = lambda exported: None
) -> Exported:
    """Writes all that the four tables hold, of all tenants and of one moment, to a file for each.

    It holds one transaction open meanwhile, so what is deleted or changed is not cleaned up before it ends. Cancelled,
    or failing, it leaves no file.

    Args:
        storage: where to read.
        folder: where to write `graph_jobs.json` and so on; it is made if need be.
        told: called now and then with how it stands; it should return at once.

    Raises:
        ConfigurationError: a file is there already, or cannot be written.
        DatabaseUnavailable: the database cannot now.
    """
    files = _Files(folder)
    exported = Exported()
    try:
        await _in_thread(files.open)
        async with snapshot(storage, readonly=True) as executor:
            for scan, _ in _READ.values():
                ((plan,),) = await executor.fetch_all(scan.plan, {})
                exported.guess += plan[0]["Plan"]["Plan Rows"]
            for collection in COLLECTIONS:
                await _write(executor, collection, files, exported, told)
        await _in_thread(files.publish)
    finally:
        await _in_thread(files.remove)
    return exported


async def _write(
    executor: Executor, collection: str, files: "_Files", exported: Exported, told: Callable[[Exported], None]
) -> None:
    scan, _ = _READ[collection]
    key, exported.table = scan.first, collection
    while True:
        rows = await executor.fetch_all(scan.page, {"from_key": key, "limit_rows": _PAGE_ROWS})
        page = await _in_thread(_page_of, collection, rows, files)
        exported.documents[collection] += page.documents
        if page.unreadable:
            keys = [row.row_id for row in page.unreadable]
            texts = await executor.fetch_all(scan.texts, {"row_keys": keys})
            await _in_thread(files.write, UNREADABLE, _unreadable_lines(collection, page.unreadable, texts))
            exported.unreadable[collection] += len(keys)
        told(exported)
        if len(rows) < _PAGE_ROWS or rows[-1][0] == scan.last:
            return
        key = scan.after(rows[-1][0])


class _Page(NamedTuple):
    documents: int
    unreadable: list[CorruptRow]


def _page_of(collection: str, rows: Sequence[Row], files: "_Files") -> _Page:
    _, value_of = _READ[collection]
    lines, unreadable = [], []
    for row in rows:
        try:
            value = value_of(row)
        except CorruptRow as corrupt:
            unreadable.append(corrupt)
        else:
            lines.append(
                json_util.dumps(to_document(value), json_options=json_util.CANONICAL_JSON_OPTIONS, ensure_ascii=False)
            )
    files.write(collection, lines)
    return _Page(len(lines), unreadable)


def _unreadable_lines(collection: str, corrupt: list[CorruptRow], texts: Sequence[Row]) -> list[str]:
    """Both are in the order of the key."""
    columns = _READ[collection][0].columns
    return [
        json.dumps(
            {
                "table": collection,
                "id": str(each.row_id),
                "reason": each.reason,
                "columns": dict(zip(columns, text, strict=True)),
            },
            ensure_ascii=False,
        )
        for each, text in zip(corrupt, texts, strict=True)
    ]


class _Files:
    """The files on their way, beside where they will be; it blocks, and belongs to one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}

    def open(self) -> None:
        """Begins the files of all tables.

        Raises:
            ConfigurationError: one is there already.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._require_none()
        for collection in COLLECTIONS:
            self.write(collection, [])

    def _require_none(self) -> None:
        for name in (*COLLECTIONS, UNREADABLE):
            if os.path.lexists(self._path(name)):
                raise ConfigurationError(
                    f"{self._path(name)} is there already, and nothing is written over: name another folder"
                )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _part(self, name: str) -> Path:
        return self._folder / f"{name}.json.part"

    def write(self, name: str, lines: list[str]) -> None:
        """Adds lines to a file, which is begun if need be."""
        if name not in self._open:
            try:
                self._open[name] = self._part(name).open("xb")
            except FileExistsError:
                raise ConfigurationError(
                    f"{self._part(name)} is there already: another export is at work, or one was killed; then remove "
                    f"{self._folder / '*.part'}"
                ) from None
        self._open[name].writelines(f"{line}\n".encode() for line in lines)

    def publish(self) -> None:
        """Gives the files their names, once all of them are on the disk."""
        for file in self._open.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self._require_none()
        named: list[Path] = []
        try:
            for name in self._open:
                self._part(name).rename(self._path(name))
                named.append(self._path(name))
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            for path in named:
                path.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Removes what has no name of its own yet."""
        for name, file in self._open.items():
            with suppress(OSError):  # a full disk fails it once more
                file.close()
            self._part(name).unlink(missing_ok=True)


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Waits for what a thread does, also if cancelled meanwhile: the thread cannot be, and holds the files."""
    try:
        return await run_to_completion(asyncio.to_thread(work, *arguments))
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        told = f"the files of an export cannot be written: {name}{error.strerror}; name another folder"
    raise ConfigurationError(told)
