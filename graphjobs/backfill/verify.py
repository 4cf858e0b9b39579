"""Compares a source with the tables: by tenant, kind and status the number and a digest; and which ids differ.

A digest is the sum, modulo 2^64, of PostgreSQL's own 64-bit hash of each row (`hash_record_extended`), versions and the
numbers of log entries left out: the order does not matter, and both sides are hashed by the same server.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from graphjobs.backfill import checkpoints
from graphjobs.backfill.batches import Batch, batches_of
from graphjobs.backfill.extract.records import COLLECTIONS, EVENTS, JOBS, ReadOffset, SourcePart
from graphjobs.backfill.extract.sources import Source
from graphjobs.backfill.load.comparison import CEILING, Standing
from graphjobs.backfill.load.staging import KEYED, KINDS, LOGGED, Group, binds_of, column_of, waves
from graphjobs.backfill.quarantine import store
from graphjobs.backfill.quarantine.entries import Entry
from graphjobs.backfill.transactions import snapshot
from graphjobs.backfill.transform.legacy_ids import LegacyUuids
from graphjobs.database.executor import Executor
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.policy_runs.status import PolicyRunStatus
from graphjobs.storage import Storage

NAMED_MAX: Final = 1_000
"""The most ids that are named of one sort of difference; all are counted."""

_MODULUS: Final = 2**64


class Difference(StrEnum):
    """How what is in the source differs from what is here."""

    MISSING = "missing here"
    BEHIND = "behind the source"
    MOVED_ON = "moved on here"
    DIVERGED = "gone different ways"
    ANOTHER = "another one here"
    ONLY_HERE = "only here"

    @property
    def is_expected(self) -> bool:
        """Whether it comes of services that have gone on since, and is no fault of the move."""
        return self in (Difference.MOVED_ON, Difference.ONLY_HERE)


_DIFFERENCES: Final = {
    Standing.NEW: Difference.MISSING,
    Standing.NO_JOB: Difference.MISSING,
    Standing.NEWER: Difference.BEHIND,
    Standing.OLDER: Difference.MOVED_ON,
    Standing.DIVERGED: Difference.DIVERGED,
    Standing.ID_TAKEN: Difference.ANOTHER,
    Standing.NAME_TAKEN: Difference.ANOTHER,
}


@dataclass(slots=True)
class Side:
    """One side of a group.

    Attributes:
        number: how many rows.
        digest: of all of them, modulo 2^64.
    """

    number: int = 0
    digest: int = 0

    def add(self, digest: int, number: int = 1) -> None:
        """Adds rows."""
        self.number += number
        self.digest = (self.digest + digest) % _MODULUS


@dataclass(frozen=True, slots=True)
class Named:
    """What differs.

    Attributes:
        difference: how.
        group: tenant, kind and status, of the source where it is there.
        id: of a job or run; of an event, that of its job, or its own where it is only here; where there is none that
            could be told, where the document stands.
    """

    difference: Difference
    group: Group
    id: str


@dataclass(slots=True)
class Comparison:
    """What came of it.

    Attributes:
        documents: how many entries of the source were read.
        waiting: how many of them cannot come, and wait in the quarantine.
        settled: how many of them cannot come, and came mended or were given up.
        source: what the source holds, by group; each row once.
        here: what the tables hold, by group, of the collections that the source has.
        differences: how many differ, by how they do.
        named: which, at most `NAMED_MAX` of each sort.
    """

    documents: int = 0
    waiting: int = 0
    settled: int = 0
    source: dict[Group, Side] = field(default_factory=dict)
    here: dict[Group, Side] = field(default_factory=dict)
    differences: Counter[Difference] = field(default_factory=Counter)
    named: list[Named] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether all that can come is here, or has moved on."""
        return all(each.is_expected for each in +self.differences)

    @property
    def groups(self) -> list[tuple[Group, Side, Side]]:
        """Gives both sides of each group, in order."""
        every = sorted({*self.source, *self.here})
        return [(each, self.source.get(each, Side()), self.here.get(each, Side())) for each in every]

    def differs(self, difference: Difference, group: Group, key: object) -> None:
        """Notes that something differs."""
        self.differences[difference] += 1
        if self.differences[difference] <= NAMED_MAX:
            self.named.append(Named(difference, group, str(key)))


async def verify(
    storage: Storage,
    source: Source,
    *,
    legacy_uuids: LegacyUuids = "csharp",
    told: Callable[[Comparison, SourcePart], None] = lambda *_: None,
) -> Comparison:
    """Reads a source to its end, and compares it with the tables as they are now; changes nothing.

    One transaction stays open meanwhile. It notes in temporary tables which ids it has seen, some 60 bytes each.

    Args:
        storage: where to look; whole tables are read in single statements, so its statement time-out should be long.
        source: where documents come from.
        legacy_uuids: whose byte order UUIDs of the old subtype 3 have.
        told: called now and then with how it stands, and the part that is read; it should return at once.

    Raises:
        ConfigurationError: a part cannot be read, or the role may not make temporary tables.
        DatabaseUnavailable: PostgreSQL or MongoDB did not answer.
        GraphJobsError: a process that maps ended.
    """
    comparison = Comparison()
    async with snapshot(storage, readonly=False) as executor:
        ceiling = await checkpoints.ceiling(executor) or datetime.now(UTC)
        for part in source.parts:
            await executor.fetch_all(_on(part.collection).prepare, {})
        for part in source.parts:
            async with aclosing(batches_of(source, part, legacy_uuids, ReadOffset())) as batches:
                async for batch in batches:
                    await _compare(executor, batch, comparison, ceiling)
                    told(comparison, part)
        for collection in COLLECTIONS:
            if any(part.collection == collection for part in source.parts):
                await _look(executor, collection, comparison)
    return comparison


def _on(collection: str) -> Any:
    return KEYED.get(collection) or LOGGED[collection]


async def _compare(executor: Executor, batch: Batch, comparison: Comparison, ceiling: datetime) -> None:
    comparison.documents += batch.documents
    kept_out: list[tuple[Entry, Difference, Group, str]] = [
        (entry, Difference.MISSING, Group("", batch.collection, ""), entry.place) for entry in batch.refused
    ]
    collection = batch.collection
    key_column = "job_id" if collection in LOGGED else "id"
    for wave in waves([each.row for each in batch.coming]):
        coming = [batch.coming[each] for each in wave]
        binds = binds_of(batch.collection, [each.row for each in coming]) | {CEILING.key: ceiling}
        for ordinal, code, digest, first in await executor.fetch_all(_on(batch.collection).verify, binds):
            row, standing = coming[ordinal].row, Standing(code)
            kind = column_of(collection, row, "type") if collection == JOBS else 0
            whose, status = column_of(collection, row, "tenant_id"), column_of(collection, row, "status")
            group, key = _group(collection, whose, kind, status), str(column_of(collection, row, key_column))
            entry = batch.refused_for(coming[ordinal], standing)
            if entry is not None:
                kept_out.append((entry, _DIFFERENCES[standing], group, key))
                continue
            if first:  # the same again is no second row
                comparison.source.setdefault(group, Side()).add(digest)
            if standing is not Standing.SAME:
                comparison.differs(_DIFFERENCES[standing], group, key)
    held = await store.held(executor, [entry.id for entry, *_ in kept_out])
    for entry, difference, group, key in kept_out:
        waits = held.get(entry.id)
        if waits is None:
            comparison.differs(difference, group, key)
        elif waits:
            comparison.waiting += 1
        else:
            comparison.settled += 1


async def _look(executor: Executor, collection: str, comparison: Comparison) -> None:
    """Adds what the tables hold, and names what of it the source does not, if there can be any."""
    equal = True
    for tenant, kind, status, number, digest in await executor.fetch_all(_on(collection).groups, {}):
        group = _group(collection, tenant, kind, status)
        side = comparison.here.setdefault(group, Side())
        side.add(int(digest), number)
        equal = equal and comparison.source.get(group) == side
    if equal:
        return
    after_all = await executor.fetch_all(_on(collection).only_here, {"limit_rows": NAMED_MAX})
    for key, tenant, kind, status in after_all:
        comparison.differs(Difference.ONLY_HERE, _group(collection, tenant, kind, status), key)


@lru_cache(maxsize=4_096)
def _group(collection: str, tenant: str, kind: int, status: int) -> Group:
    statuses = GraphJobStatus if collection in (JOBS, EVENTS) else PolicyRunStatus
    kinds: dict[int, str] = (
        {each.code: str(each) for each in GraphJobType} if collection == JOBS else {0: KINDS[collection]}
    )
    words = {each.code: str(each) for each in statuses}
    # Written by hand there may be any number.
    return Group(tenant, kinds.get(kind, f"type {kind}"), words.get(status, f"status {status}"))
