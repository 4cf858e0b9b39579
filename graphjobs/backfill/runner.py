"""The backfill: batches commit with their checkpoint, so it can be interrupted at any time and resumes.

The next batch is mapped while the last one is written. A failed batch is rolled back as a whole, and reading continues
at the checkpoint in the database.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from graphjobs.backfill import checkpoints
from graphjobs.backfill.batches import Batch, read_batches
from graphjobs.backfill.checkpoints import BackfillStats, Checkpoint
from graphjobs.backfill.extract.records import ReadOffset, SourcePart
from graphjobs.backfill.extract.sources import Source
from graphjobs.backfill.load.comparison import RowState
from graphjobs.backfill.load.loader import write
from graphjobs.backfill.quarantine import store
from graphjobs.backfill.quarantine.entries import QuarantineEntry
from graphjobs.backfill.transactions import transaction
from graphjobs.backfill.transform.uuids import LegacyUuids
from graphjobs.database.executor import Executor, wait_ignoring_cancel
from graphjobs.errors import DatabaseUnavailable, OutcomeUnknown
from graphjobs.storage import Storage

TRIES_MAX: Final = 6
"""Attempts in a row to write a batch or open a source, with growing waits, before a backfill fails."""

CHANGES_MAX: Final = 1_000
"""The maximum number of kinds of changes that are counted."""

_WAIT_SECONDS: Final = 0.5


@dataclass(slots=True)
class PartReport:
    """The result of one part.

    Attributes:
        part: the part.
        counts: its counts since its start, including those of interrupted runs.
        resumed: whether an earlier run started it.
        finished: whether its end was reached.
    """

    part: SourcePart
    counts: BackfillStats = field(default_factory=BackfillStats)
    resumed: bool = False
    finished: bool = False


@dataclass(slots=True)
class BackfillReport:
    """The result of a backfill.

    Attributes:
        parts: the results of the parts, in the order of reading.
        changes: how often this run made each change, by collection, field and kind of change.
        pending: the number of pending documents by collection, of this and all other sources.
    """

    parts: list[PartReport]
    changes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    pending: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> BackfillStats:
        """The sum over all parts."""
        total = BackfillStats()
        for report in self.parts:
            total = total.plus(report.counts)
        return total


async def run_backfill(
    storage: Storage,
    source: Source,
    *,
    legacy_uuids: LegacyUuids = "csharp",
    on_progress: Callable[[BackfillReport, SourcePart], None] = lambda *_: None,
) -> BackfillReport:
    """Import a source, from the checkpoints of an interrupted run or else from its beginning.

    A source that was read to its end is read again from its beginning: equal rows stay, and documents that changed in
    MongoDB replace rows that did not change in PostgreSQL. A cancelled call leaves whole batches.

    Args:
        storage: the storage to write to.
        source: the source of the documents.
        legacy_uuids: the driver that defines the byte order of UUIDs of the old subtype 3.
        on_progress: called now and then with the report so far and the current part. It should return at once.

    Raises:
        ConfigurationError: a part is no longer readable.
        DatabaseUnavailable: PostgreSQL or MongoDB did not answer, `TRIES_MAX` times in a row; run it again.
        GraphJobsError: a mapper process ended; run it again.
    """
    run = _BackfillRun(storage, source, legacy_uuids, on_progress)
    await _retry(run.start)
    for report in run.report.parts:
        await run.import_part(report)
    await _retry(run.count_pending)
    return run.report


async def _retry(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run idempotent work until the database is available."""
    for failures in range(1, TRIES_MAX + 1):
        try:
            await work()
        except (DatabaseUnavailable, OutcomeUnknown) as error:
            await _wait_after(failures, error)
        else:
            return


async def _wait_after(failures: int, error: Exception) -> None:
    if failures >= TRIES_MAX:
        raise DatabaseUnavailable(f"{error}; written batches stay, run it again to resume") from None
    await asyncio.sleep(_WAIT_SECONDS * 2**failures * random.uniform(0.5, 1))  # noqa: S311  # jitter


class _StaleCheckpoint(Exception):
    """Another backfill of the same source moved the checkpoint."""


class _BackfillRun:
    def __init__(
        self,
        storage: Storage,
        source: Source,
        legacy_uuids: LegacyUuids,
        on_progress: Callable[[BackfillReport, SourcePart], None],
    ) -> None:
        self.report = BackfillReport([PartReport(part) for part in source.parts])
        self._storage = storage
        self._source = source
        self._legacy_uuids = legacy_uuids
        self._on_progress = on_progress
        self._has_pending = False
        self._version_max = datetime.min.replace(tzinfo=UTC)

    async def start(self) -> None:
        """Read the checkpoints and start missing parts; start all parts again if all were finished."""
        async with transaction(self._storage) as executor:
            await checkpoints.lock(executor)
            parts = [report.part for report in self.report.parts]
            found = {part: await checkpoints.get(executor, self._key(part)) for part in parts}
            is_restart = all(checkpoint is not None and checkpoint.finished_at for checkpoint in found.values())
            for report in self.report.parts:
                report.resumed = found[report.part] is not None and not is_restart
                if not report.resumed:
                    await self._start_part(executor, report.part)
            self._version_max = await checkpoints.version_max(executor) or self._version_max

    async def import_part(self, report: PartReport) -> None:
        """Import one part to its end."""
        failures = 0
        while not report.finished:
            before = report.counts.documents
            try:
                await self._resume(report)
            except _StaleCheckpoint:
                continue
            except (DatabaseUnavailable, OutcomeUnknown) as error:
                # Progress since the last failure starts a new series.
                failures = 1 if report.counts.documents > before else failures + 1
                await _wait_after(failures, error)

    async def count_pending(self) -> None:
        """Count the pending documents at the end."""
        async with transaction(self._storage) as executor:
            self.report.pending = await store.count_pending(executor)

    async def _resume(self, report: PartReport) -> None:
        part = report.part
        async with transaction(self._storage) as executor:
            checkpoint = await checkpoints.get(executor, self._key(part))
            if checkpoint is None:  # the table was truncated meanwhile
                await self._start_part(executor, part)
                checkpoint = Checkpoint(ReadOffset().to_json(), BackfillStats(), datetime.now(UTC), None)
            self._has_pending = await store.has_pending(executor, part.collection)
        report.counts = checkpoint.counts
        report.finished = checkpoint.finished_at is not None
        self._on_progress(self.report, part)
        if report.finished:
            return
        writer = _BatchWriter(lambda batch: self._write(report, batch))
        offset = ReadOffset.from_json(checkpoint.position)
        reading = read_batches(self._source, part, self._legacy_uuids, offset)
        async with writer.running(), aclosing(reading) as batches:
            async for batch in batches:
                await writer.put(batch)
        report.finished = True

    def _key(self, part: SourcePart) -> str:
        return f"{part.fingerprint} {self._legacy_uuids}"

    async def _start_part(self, executor: Executor, part: SourcePart) -> None:
        position = ReadOffset().to_json()
        await checkpoints.start(
            executor, self._key(part), name=part.name, collection=part.collection, position=position
        )

    async def _write(self, report: PartReport, batch: Batch) -> None:
        key = self._key(report.part)
        async with transaction(self._storage) as executor:
            await checkpoints.lock(executor)
            checkpoint = await checkpoints.get(executor, key)
            if checkpoint is None or checkpoint.finished_at or checkpoint.position != batch.start.to_json():
                raise _StaleCheckpoint
            counts = checkpoint.counts.plus(await self._write_documents(executor, checkpoint.started_at, batch))
            await checkpoints.advance(executor, key, batch.end.to_json(), counts, finished=batch.is_last)
        report.counts = counts
        self._count_changes(batch)
        self._on_progress(self.report, report.part)

    async def _write_documents(self, executor: Executor, part_started_at: datetime, batch: Batch) -> BackfillStats:
        rows = [document.row for document in batch.mapped]
        states = await write(executor, batch.collection, rows, self._version_max) if rows else []
        resolvable = await store.list_resolvable(executor, batch.collection, batch.tenants)
        superseded = {old_id: new_id for old_id, new_id in batch.superseded.items() if old_id in resolvable}
        rejected, changed = list(batch.rejected), 0
        resolved_ids: list[UUID] = []
        written_ids: list[UUID] = []
        for document, state in zip(batch.mapped, states, strict=True):
            entry = batch.rejection_for(document, state)
            resolves = document.resolves if document.resolves in resolvable else None
            if entry is not None:
                rejected.append(entry)
                if resolves is not None:
                    superseded[resolves] = entry.id
                continue
            if resolves is not None:
                resolved_ids.append(resolves)
            changed += bool(document.changes)
            if self._has_pending and state in (RowState.NEW, RowState.SOURCE_AHEAD):
                written_ids += filter(None, [batch.document_id(document)])
        outcome = await store.upsert(executor, part_started_at, rejected)
        resolved = await store.resolve(executor, resolved_ids)
        await store.supersede_entries(executor, part_started_at, superseded)
        if self._has_pending:
            resolved += await store.resolve_documents(executor, part_started_at, written_ids)
            await store.supersede_documents(executor, part_started_at, _new_documents(rejected, outcome.new))
        self._has_pending = self._has_pending or bool(rejected)
        numbers = Counter(states)
        pending = sum(entry.id not in outcome.resolved_before for entry in rejected)
        return BackfillStats(
            documents=batch.documents,
            added=numbers[RowState.NEW],
            overwritten=numbers[RowState.SOURCE_AHEAD],
            unchanged=numbers[RowState.UNCHANGED],
            target_ahead=numbers[RowState.TARGET_AHEAD],
            changed=changed,
            quarantined=pending,
            resolved_before=len(rejected) - pending,
            resolved=resolved,
        )

    def _count_changes(self, batch: Batch) -> None:
        for change, number in batch.changes().items():
            group = (batch.collection, *change)
            if group in self.report.changes or len(self.report.changes) < CHANGES_MAX:
                self.report.changes[group] += number


def _new_documents(rejected: list[QuarantineEntry], new: frozenset[UUID]) -> dict[UUID, UUID]:
    """Return entry ids by document id. An entry that existed before is no newer than others, and supersedes none."""
    return {entry.document_id: entry.id for entry in rejected if entry.document_id and entry.id in new}


class _BatchWriter:
    """Writes one batch while the next one is read."""

    def __init__(self, write_batch: Callable[[Batch], Coroutine[Any, Any, None]]) -> None:
        self._write = write_batch
        self._task: asyncio.Task[None] | None = None

    async def put(self, batch: Batch) -> None:
        """Start to write a batch after the one before is written, and wait for the last one."""
        await self._drain()
        self._task = asyncio.create_task(self._write(batch))
        if batch.is_last:
            await self._drain()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Cancel an unfinished write at the end."""
        try:
            yield
        finally:
            if self._task is not None:
                self._task.cancel()
                await wait_ignoring_cancel(self._task)

    async def _drain(self) -> None:
        task = self._task
        if task is not None:
            await asyncio.shield(task)
            self._task = None
