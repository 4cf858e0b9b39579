"""The move itself: batches that are written with their checkpoint, so that it can be ended at any moment and goes on.

What is read next is mapped while the last batch is written. Whatever ends a batch ends it whole: reading then goes on
from the checkpoint, which is what the database says of it, and nobody's memory.
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
from graphjobs.backfill.batches import Batch, batches_of
from graphjobs.backfill.checkpoints import Counts
from graphjobs.backfill.extract.records import ReadOffset, SourcePart
from graphjobs.backfill.extract.sources import Source
from graphjobs.backfill.load.comparison import Standing
from graphjobs.backfill.load.loader import write
from graphjobs.backfill.quarantine import store
from graphjobs.backfill.transactions import transaction
from graphjobs.backfill.transform.legacy_ids import LegacyUuids
from graphjobs.database.executor import Executor, wait_ignoring_cancel
from graphjobs.errors import DatabaseUnavailable, OutcomeUnknown
from graphjobs.storage import Storage

TRIES_MAX: Final = 6
"""How often in a row a batch is tried, and a source opened, before a backfill gives up; it waits longer each time."""

CHANGES_MAX: Final = 1_000
"""The most sorts of changes that are told apart."""

_WAIT_SECONDS: Final = 0.5


@dataclass(slots=True)
class PartReport:
    """What came of one part.

    Attributes:
        part: which.
        counts: what came of it since it was begun, also in runs that were ended before.
        resumed: whether it was begun by an earlier run.
        finished: whether its end was reached.
    """

    part: SourcePart
    counts: Counts = field(default_factory=Counts)
    resumed: bool = False
    finished: bool = False


@dataclass(slots=True)
class Report:
    """What came of a backfill.

    Attributes:
        parts: what came of each part, in the order they are read.
        changes: how often this run changed what on the way, by collection, field and what was done.
        waiting: how many documents wait in the quarantine, by collection, of this source and of all others.
    """

    parts: list[PartReport]
    changes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    waiting: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> Counts:
        """Sums up all parts."""
        whole = Counts()
        for each in self.parts:
            whole = whole.plus(each.counts)
        return whole


async def run_backfill(
    storage: Storage,
    source: Source,
    *,
    legacy_uuids: LegacyUuids = "csharp",
    told: Callable[[Report, SourcePart], None] = lambda *_: None,
) -> Report:
    """Brings what a source holds into the tables, from where an earlier run was ended; else from its beginning.

    A source that was read to its end is read again from its beginning: what is there already is left as it is, what
    has gone on in MongoDB since takes the place of what has not moved here. Cancelled, it leaves whole batches.

    Args:
        storage: where to write.
        source: where documents come from.
        legacy_uuids: whose byte order UUIDs of the old subtype 3 have.
        told: called now and then with how it stands, and the part that is read; it should return at once.

    Raises:
        ConfigurationError: a part cannot be read any more.
        DatabaseUnavailable: PostgreSQL or MongoDB did not answer, `TRIES_MAX` times in a row; run it again.
        GraphJobsError: a process that maps ended; run it again.
    """
    move = _Move(storage, source, legacy_uuids, told)
    await _patiently(move.begin)
    for part in move.report.parts:
        await move.finish(part)
    await _patiently(move.look)
    return move.report


async def _patiently(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Does what can be done again, again where the database cannot now."""
    for failures in range(1, TRIES_MAX + 1):
        try:
            await work()
        except (DatabaseUnavailable, OutcomeUnknown) as error:
            await _wait_after(failures, error)
        else:
            return


async def _wait_after(failures: int, error: Exception) -> None:
    if failures >= TRIES_MAX:
        raise DatabaseUnavailable(f"{error}; what was written stays, run it again to go on") from None
    await asyncio.sleep(_WAIT_SECONDS * 2**failures * random.uniform(0.5, 1))  # noqa: S311  # jitter


class _Overtaken(Exception):
    """Another backfill of the same source has written since: its checkpoint holds."""


class _Move:
    def __init__(
        self, storage: Storage, source: Source, legacy_uuids: LegacyUuids, told: Callable[[Report, SourcePart], None]
    ) -> None:
        self.report = Report([PartReport(part) for part in source.parts])
        self._storage = storage
        self._source = source
        self._legacy_uuids = legacy_uuids
        self._told = told
        self._watched = False
        self._ceiling = datetime.min.replace(tzinfo=UTC)

    async def begin(self) -> None:
        """Finds out where it stands, and begins what is not begun; or all of it anew, where all was finished."""
        async with transaction(self._storage) as executor:
            await checkpoints.lock(executor)
            found = {
                each.part: await checkpoints.checkpoint(executor, self._key(each.part)) for each in self.report.parts
            }
            anew = all(checkpoint is not None and checkpoint.finished_at for checkpoint in found.values())
            for each in self.report.parts:
                checkpoint = found[each.part]
                if checkpoint is None or anew:
                    await self._begin(executor, each.part)
                each.resumed = checkpoint is not None and not anew
            self._ceiling = await checkpoints.ceiling(executor) or self._ceiling

    async def finish(self, report: PartReport) -> None:
        """Brings one part to its end."""
        failures = 0
        while not report.finished:
            before = report.counts.documents
            try:
                await self._go_on(report)
            except _Overtaken:
                continue
            except (DatabaseUnavailable, OutcomeUnknown) as error:
                # Progress in between: the next trouble is another one.
                failures = 1 if report.counts.documents > before else failures + 1
                await _wait_after(failures, error)

    async def look(self) -> None:
        """Counts what waits in the end."""
        async with transaction(self._storage) as executor:
            self.report.waiting = await store.waiting(executor)

    async def _go_on(self, report: PartReport) -> None:
        part = report.part
        async with transaction(self._storage) as executor:
            checkpoint = await checkpoints.checkpoint(executor, self._key(part))
            if checkpoint is None:  # somebody has emptied the book
                await self._begin(executor, part)
                checkpoint = checkpoints.Checkpoint(ReadOffset().to_json(), Counts(), datetime.now(UTC), None)
            self._watched = await store.any_waits(executor, part.collection)
        report.counts = checkpoint.counts
        report.finished = checkpoint.finished_at is not None
        self._told(self.report, part)
        if report.finished:
            return
        writer = _Writer(lambda batch: self._write(report, batch))
        position = ReadOffset.from_json(checkpoint.position)
        reading = batches_of(self._source, part, self._legacy_uuids, position)
        async with writer.running(), aclosing(reading) as batches:
            async for batch in batches:
                await writer.put(batch)
        report.finished = True

    def _key(self, part: SourcePart) -> str:
        return f"{part.fingerprint} {self._legacy_uuids}"

    async def _begin(self, executor: Executor, part: SourcePart) -> None:
        await checkpoints.begin(
            executor,
            self._key(part),
            name=part.name,
            collection=part.collection,
            position=ReadOffset().to_json(),
        )

    async def _write(self, report: PartReport, batch: Batch) -> None:
        key = self._key(report.part)
        async with transaction(self._storage) as executor:
            await checkpoints.lock(executor)
            checkpoint = await checkpoints.checkpoint(executor, key)
            if checkpoint is None or checkpoint.finished_at or checkpoint.position != batch.after.to_json():
                raise _Overtaken
            counts = await self._write_documents(executor, checkpoint.begun_at, batch)
            counts = checkpoint.counts.plus(counts)
            await checkpoints.advance(executor, key, batch.reached.to_json(), counts, finished=batch.last)
        report.counts = counts
        self._count(batch)
        self._told(self.report, report.part)

    async def _write_documents(self, executor: Executor, begun: datetime, batch: Batch) -> Counts:
        rows = [each.row for each in batch.coming]
        standings = await write(executor, batch.collection, rows, self._ceiling) if rows else []
        refused, replaced, changed = list(batch.refused), dict(batch.replaced), 0
        answered: list[UUID] = []
        came: list[UUID] = []
        for coming, standing in zip(batch.coming, standings, strict=True):
            entry = batch.refused_for(coming, standing)
            if entry is not None:
                refused.append(entry)
                if coming.answers is not None:
                    replaced[coming.answers] = entry.id
                continue
            if coming.answers is not None:
                answered.append(coming.answers)
            changed += bool(coming.changes)
            if self._watched and standing in (Standing.NEW, Standing.NEWER):
                came += filter(None, [batch.document_id(coming)])
        kept = await store.keep(executor, begun, refused)
        answers = await store.settle(executor, answered)
        await store.replace_entries(executor, begun, replaced)
        if self._watched:
            answers += await store.answer(executor, begun, came)
            # What was there before is known to be wrong, and takes the place of nothing.
            later = {each.document_id: each.id for each in refused if each.document_id and each.id in kept.new}
            await store.replace_documents(executor, begun, later)
        self._watched = self._watched or bool(refused)
        told = Counter(standings)
        waits = sum(entry.id not in kept.settled for entry in refused)
        return Counts(
            documents=batch.documents,
            added=told[Standing.NEW],
            renewed=told[Standing.NEWER],
            unchanged=told[Standing.SAME],
            moved_on=told[Standing.OLDER],
            changed=changed,
            quarantined=waits,
            settled=len(refused) - waits,
            answered=answers,
        )

    def _count(self, batch: Batch) -> None:
        for change, number in batch.changes().items():
            group = (batch.collection, *change)
            if group in self.report.changes or len(self.report.changes) < CHANGES_MAX:
                self.report.changes[group] += number


class _Writer:
    """Writes one batch at a time, while the next one is read."""

    def __init__(self, write_batch: Callable[[Batch], Coroutine[Any, Any, None]]) -> None:
        self._write = write_batch
        self._task: asyncio.Task[None] | None = None

    async def put(self, batch: Batch) -> None:
        """Begins to write a batch, once the one before is written; the last one is waited for."""
        await self._drain()
        self._task = asyncio.create_task(self._write(batch))
        if batch.last:
            await self._drain()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Leaves no batch half written behind."""
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
